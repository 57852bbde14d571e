"""DPO: direct preference optimisation with refusals (Rafailov et al. 2023, arXiv:2305.18290; as in
TOFU, arXiv:2401.06121).

    preference = -mean log sigmoid(beta [log(p / p_start)(chosen) - log(p / p_start)(rejected)])

It is ln 2 at the start.

paper    rejected is the forget text, chosen the same prompt with a refusal (`--refusals`, drawn by
         --seed for each text). Log-probabilities are sums over tokens, of which the shared prompt's
         cancel. A retain term is added.
readme   chosen is the retain text beside it, of another prompt. Log-probabilities are a token's
         mean. There is no further retain term.

The start's log-probabilities are measured once and kept by example.
"""

from dataclasses import dataclass

from brittle.base.knobs import REFUSALS, knob, log_range
from brittle.methods.base import WithRetain


@dataclass
class DPO(WithRetain):
    beta: float = knob(
        0.1, "Inverse temperature of the preference loss.", low=1e-6, search=log_range(0.01, 1)
    )
    refusals: str = knob("", REFUSALS)
    variant: str = knob("paper", "Which definition.", choices=("paper", "readme"))

    def logprobs(self, batch):
        from brittle.models.logprobs import sequence_logprobs, target_mask

        summed = sequence_logprobs(self.model, batch)
        return (
            summed if self.variant == "paper" else summed / target_mask(batch).sum(1).clamp_min(1)
        )

    def start(self, model, reference, data):
        from brittle.methods.refusals import Refusals
        from brittle.models.logprobs import by_example

        super().start(model, reference, data)
        self.refused = (
            Refusals(self.refusals, data.forget, data.tokenizer, self.seed)
            if self.variant == "paper"
            else None
        )
        chosen = self.refused or data.retain
        self.before = [
            by_example(self.logprobs, texts, model.device) for texts in (chosen, data.forget)
        ]

    def losses(self, forget, retain, progress):
        import torch.nn.functional as F

        chosen = self.refused.batch(forget) if self.refused else retain
        gains = [
            self.logprobs(batch) - before[batch.index].to(self.model.device)
            for batch, before in zip((chosen, forget), self.before, strict=True)
        ]
        terms = {"preference": -F.logsigmoid(self.beta * (gains[0] - gains[1])).mean()}
        return terms if self.variant == "readme" else terms | {"retain": self.retain_term(retain)}
