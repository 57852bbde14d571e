"""Weight distance regularisation: retain training that moves away from the start (Siddiqui et al.
2025, arXiv:2505.22310).

    loss = R - lambda min(cap, ||theta - theta_0|| / ||theta_0||)

normalised   the above, bounded below: the default
readme       loss = R - lambda ||theta - theta_0||_2^2, unbounded: its own gradient grows with it

R is the retain NLL. The forget texts are not read; the distance is 0 at the start.
"""

from dataclasses import dataclass
from typing import ClassVar

from brittle.base.knobs import knob, log_range
from brittle.methods.base import WithRetain


@dataclass
class WtDistReg(WithRetain):
    kind: ClassVar[str] = "weight-space"
    reads_forget: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = True
    wt_reg_lambda: float = knob(0.1, "Weight of the distance.", low=0, search=log_range(0.01, 10))
    wt_reg_cap: float = knob(
        1.0, "Relative distance beyond which nothing is gained (normalised).", low=0
    )
    variant: str = knob("normalised", "Which definition.", choices=("normalised", "readme"))

    def losses(self, forget, retain, progress):
        import torch

        pairs = self.reference.pairs()
        moved = torch.stack([torch.linalg.vector_norm(p - before) for p, before in pairs])
        if self.variant == "readme":
            gain = moved.square().sum()
        else:
            size = torch.stack([torch.linalg.vector_norm(before) for _, before in pairs])
            gain = (torch.linalg.vector_norm(moved) / torch.linalg.vector_norm(size)).clamp_max(
                self.wt_reg_cap
            )
        return {"distance": -self.wt_reg_lambda * gain, "retain": self.retain_term(retain)}
