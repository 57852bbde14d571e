"""NPO: negative preference optimisation (Zhang et al. 2024, arXiv:2404.05868, eq. 3), with a retain NLL term.

    forget = -(2/beta) mean log sigmoid(-beta log(p / p_ref))        log p of a whole sequence: a sum over its tokens
At the start p = p_ref, so forget = (2/beta) ln 2. The gradient is GA's with weight 2 r^beta / (1 + r^beta), r = p / p_ref:
it fades once a text is forgotten. The reference's log-probabilities are measured once at the start and kept by example,
so no second model stays in memory.
"""

from dataclasses import dataclass

import brittle
from brittle.methods.base import Method, knob


@dataclass
class NPO(Method):
    beta: float = knob(0.1, "Inverse temperature of the preference loss.", low=1e-6)
    retain_weight: float = knob(1.0, "Weight of the retain term.", low=0)

    def start(self, model, reference, data):
        import torch

        super().start(model, reference, data)
        self.reference_logprobs = torch.zeros(len(data.forget.ids))  # [examples]
        with torch.no_grad():
            for indices, batch in brittle.text.batches(data.forget.ids, data.forget.pad_id, 32, model.device):
                self.reference_logprobs[indices] = brittle.losses.sequence_logprobs(model, batch).float().cpu()

    def losses(self, forget, retain, progress):
        import torch.nn.functional as F

        before = self.reference_logprobs[forget.index].to(self.model.device)
        log_ratio = brittle.losses.sequence_logprobs(self.model, forget) - before  # [B]
        return {
            "forget": -(2 / self.beta) * F.logsigmoid(-self.beta * log_ratio).mean(),
            "retain": self.retain_weight * brittle.losses.nll(self.model, retain),
        }
