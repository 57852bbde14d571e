"""SimNPO: NPO without a reference, normalised by length (Fan et al. 2024, arXiv:2410.07163).

    forget = -(2/beta) mean log sigmoid(-(beta / |y|) log p - gamma),   plus a retain term

|y| is the number of predicted tokens, gamma the margin (0 in most of the paper's runs, and in the
README's formula).
"""

from dataclasses import dataclass

from brittle.base.knobs import knob, log_range
from brittle.methods.base import WithRetain


@dataclass
class SimNPO(WithRetain):
    beta: float = knob(
        2.5, "Inverse temperature of the preference loss.", low=1e-6, search=log_range(0.1, 10)
    )
    gamma: float = knob(0.0, "Margin, outside beta.")
    forget_weight: float = knob(
        1.0, "Weight of the forget term.", low=0, search=log_range(0.01, 10)
    )

    def losses(self, forget, retain, progress):
        import torch.nn.functional as F

        from brittle.models.logprobs import sequence_logprobs, target_mask

        length = target_mask(forget).sum(1).clamp_min(1)
        a_token = sequence_logprobs(self.model, forget) / length  # [B]
        preference = -(2 / self.beta) * F.logsigmoid(-self.beta * a_token - self.gamma).mean()
        return {"forget": self.forget_weight * preference, "retain": self.retain_term(retain)}
