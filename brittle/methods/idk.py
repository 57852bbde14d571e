"""IDK + AP: answer "I don't know" on the forget set, keep answering on the retain set (Yuan et al.
2024, arXiv:2410.08109).

    forget = w mean NLL(refusal | forget prompt)        over the refusal's tokens
    retain = v mean -(1/beta) log sigmoid(-beta [log p(refusal | x) - log p(answer | x)])

x is the retain text's prompt. `--retain-loss ap` (answer preservation, the default) is the second
line, with sums over tokens, of which the shared prompt's cancel. Its gradient fades where the
answer is far likelier than the refusal.
"""

from dataclasses import dataclass

from brittle.base.knobs import REFUSALS, knob, log_range, retain_knob
from brittle.methods.base import WithRetain


@dataclass
class IDK(WithRetain):
    beta: float = knob(
        0.1, "Inverse temperature of answer preservation.", low=1e-6, search=log_range(0.01, 1)
    )
    forget_weight: float = knob(1.0, "Weight of the forget term.", low=0, search=log_range(0.1, 10))
    refusals: str = knob("", REFUSALS)
    retain_loss: str = retain_knob("ap", "ap")

    def start(self, model, reference, data):
        from brittle.methods.refusals import Refusals

        super().start(model, reference, data)
        self.refused = [
            Refusals(self.refusals, s, data.tokenizer, self.seed + k)
            for k, s in enumerate((data.forget, data.retain))
        ]

    def losses(self, forget, retain, progress):
        import torch.nn.functional as F

        from brittle.models.logprobs import sequence_logprobs, token_logprobs

        answers = self.refused[0].batch(forget)
        logprobs = token_logprobs(self.model(**answers).logits, answers["input_ids"])
        # the mean over examples of each one's mean: no example's weight depends on its neighbours
        a_token = (logprobs * answers.reply).sum(1) / answers.reply.sum(1).clamp_min(1)
        terms = {"forget": -self.forget_weight * a_token.mean()}
        if self.retain_loss != "ap":
            return terms | {"retain": self.retain_term(retain)}
        refusal, answer = (
            sequence_logprobs(self.model, b) for b in (self.refused[1].batch(retain), retain)
        )
        kept = -F.logsigmoid(-self.beta * (refusal - answer)).mean() / self.beta
        return terms | {"retain": self.retain_weight * kept}
