"""RMU: representation misdirection (Li et al. 2024, arXiv:2403.03218, section 4).

    loss = MSE(h_forget, c u) + alpha MSE(h_retain, h_retain_reference)        h: output of block `layer_id`
u is a random unit vector of positive entries (U[0, 1)^d, normalised), drawn once from --seed. Of the blocks
layer_id - 2 ... layer_id the MLP down-projections train (`trains` down, as in the paper) or all weights (`trains` blocks).
Means over real tokens and width.
Forward passes end at block `layer_id`; the blocks above never run.
"""

from dataclasses import dataclass
from typing import ClassVar

import brittle
from brittle.methods.base import Method, knob


@dataclass
class RMU(Method):
    needs_reference: ClassVar[bool] = True
    layer_id: tuple = knob((7,), "Block(s) whose output is steered.", low=0)
    steering_coeff: float = knob(6.5, "Length c of the random target.", low=0)
    alpha: float = knob(1200.0, "Weight of the retain term.", low=0)

    trains: str = knob("down", "Weights of those blocks that train: down (MLP down-projections) or blocks (all).")

    def start(self, model, reference, data):
        import torch

        super().start(model, reference, data)
        brittle.models.check_blocks(model, self.layer_id)
        generator = torch.Generator().manual_seed(self.seed)
        self.target = {}
        for k in self.layer_id:
            u = torch.rand(model.config.hidden_size, generator=generator)
            self.target[k] = (self.steering_coeff * u / u.norm()).to(model.device)
        window = range(max(0, min(self.layer_id) - 2), max(self.layer_id) + 1)
        if self.trains == "down":
            names = brittle.models.down_projections(model, window)
        elif self.trains == "blocks":
            names = [n for n, _ in model.named_parameters() if brittle.weights.layer_of(n) in window]
        else:
            raise brittle.errors.UserError(f"--trains {self.trains}: choose down or blocks.")
        brittle.models.train_only(model, names)

    def losses(self, forget, retain, progress):
        hidden, mse = brittle.activations.hidden, brittle.losses.masked_mse
        h_forget, h_retain = (hidden(self.model, batch, self.layer_id) for batch in (forget, retain))
        with self.reference as frozen:
            h_before = hidden(frozen, retain, self.layer_id)
        return {
            "forget": sum(mse(h_forget[k], self.target[k], forget) for k in self.layer_id),
            "retain": self.alpha * sum(mse(h_retain[k], h_before[k], retain) for k in self.layer_id),
        }
