"""CB-LAT: circuit breakers (Zou et al. 2024, arXiv:2406.04313) under a latent adversary (Casper et al. 2024, arXiv:2403.05030).

    inner   delta* = argmin over ||delta_t||_2 <= eps of NLL_forget(delta)     delta added to the output of block `lat_layer`
    outer   forget = c_s mean ReLU(cos(h(delta*), h_reference))      over real tokens and the blocks `layer_id`
            retain = c_r mean ||h - h_reference||_2                  over real tokens and every block up to the deepest
    schedule  c_s = alpha (1 - progress / 2),  c_r = retain_alpha progress / 2 (plus `retain_start`, 0 in the paper)
The adversary *helps* the model to recall: it lowers the forget NLL within its ball; gradients reach delta only. Its
steps are normalised token by token, so `lat_eps` and `lat_steps` mean the same at every loss scale.
"""

from dataclasses import dataclass
from typing import ClassVar

import brittle
from brittle.methods.base import Method, knob


@dataclass
class CBLAT(Method):
    needs_reference: ClassVar[bool] = True
    layer_id: tuple = knob((10, 20), "Block(s) whose output is rerouted.", low=0)
    alpha: float = knob(10.0, "Weight of rerouting.", low=0)
    retain_alpha: float = knob(10.0, "Weight of the retain term.", low=0)
    retain_start: float = knob(0.0, "Share of the retain weight that holds from the first step.", low=0, high=1)
    lat_layer: int = knob(7, "Block whose output the adversary perturbs; at or below the lowest rerouted block.", low=0)
    lat_eps: float = knob(2.0, "Radius of the adversary's L2 ball, a token.", low=0)
    lat_steps: int = knob(6, "Steps of the adversary.", low=0)

    def start(self, model, reference, data):
        super().start(model, reference, data)
        brittle.models.check_blocks(model, self.layer_id)
        brittle.models.check_blocks(model, [self.lat_layer], "--lat-layer")
        if self.lat_layer > min(self.layer_id):
            raise brittle.errors.UserError(
                f"--lat-layer {self.lat_layer} lies above --layer-id {min(self.layer_id)}, which would not feel it. "
                f"Give a block from 0 to {min(self.layer_id)}."
            )

    def losses(self, forget, retain, progress):
        import torch
        import torch.nn.functional as F

        hidden, token_mean = brittle.activations.hidden, brittle.losses.token_mean
        deep = range(max(self.layer_id) + 1)
        delta = brittle.adversary.attack(self.model, forget, self.lat_layer, self.lat_eps, self.lat_steps)
        with brittle.activations.edit(self.model, {self.lat_layer: lambda h: h + delta.to(h.dtype)}):
            h_forget = hidden(self.model, forget, self.layer_id)
        h_retain = hidden(self.model, retain, deep)
        with self.reference as frozen:
            before_forget = hidden(frozen, forget, self.layer_id)
            before_retain = hidden(frozen, retain, deep)
        cos = [F.cosine_similarity(h_forget[k].float(), before_forget[k].float(), dim=-1) for k in self.layer_id]
        moved = [torch.linalg.vector_norm(h_retain[k].float() - before_retain[k].float(), dim=-1) for k in deep]
        ramp = self.retain_start + (1 - self.retain_start) * progress / 2
        return {
            "forget": self.alpha * (1 - progress / 2) * sum(token_mean(F.relu(c), forget) for c in cos) / len(cos),
            "retain": self.retain_alpha * ramp * sum(token_mean(m, retain) for m in moved) / len(moved),
        }
