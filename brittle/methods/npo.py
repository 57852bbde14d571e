"""NPO: negative preference optimisation (Zhang et al. 2024, arXiv:2404.05868, eq. 3).

    forget = -(2/beta) mean log sigmoid(-beta log(p / p_start)),   plus a retain term

paper    log p of a whole text, the sum over its tokens. At the start p = p_start, so forget =
         (2/beta) ln 2. The gradient is GA's with weight 2 r^beta / (1 + r^beta), r = p / p_start:
         it fades once a text is forgotten.
readme   log p a token (the sum over its length), so beta acts as beta / length, and long texts get
         GA.

With whole documents of thousands of tokens the paper's sum saturates at once: cut them
(--max-length 128 or 256). The start's log-probabilities are measured once and kept by example, so
no second model stays in memory.
"""

from dataclasses import dataclass

from brittle.base.knobs import knob, log_range
from brittle.methods.base import WithRetain


@dataclass
class NPO(WithRetain):
    beta: float = knob(
        0.1, "Inverse temperature of the preference loss.", low=1e-6, search=log_range(0.01, 1)
    )
    variant: str = knob("paper", "Which definition.", choices=("paper", "readme"))

    def logprobs(self, batch):
        """log p [B] of each text, by the variant."""

        from brittle.models.logprobs import sequence_logprobs, target_mask

        summed = sequence_logprobs(self.model, batch)
        return (
            summed if self.variant == "paper" else summed / target_mask(batch).sum(1).clamp_min(1)
        )

    def start(self, model, reference, data):
        from brittle.models.logprobs import by_example

        super().start(model, reference, data)
        self.before = by_example(self.logprobs, data.forget, model.device)

    def forget_term(self, forget):
        import torch.nn.functional as F

        log_ratio = self.logprobs(forget) - self.before[forget.index].to(self.model.device)  # [B]
        return -(2 / self.beta) * F.logsigmoid(-self.beta * log_ratio).mean()

    def losses(self, forget, retain, progress):
        return {"forget": self.forget_term(forget), "retain": self.retain_term(retain)}
