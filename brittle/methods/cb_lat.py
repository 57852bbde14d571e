"""CB-LAT: circuit breakers under a latent adversary (Zou et al. 2024, arXiv:2406.04313; Sheshadri
et al. 2024, arXiv:2407.15549).

    forget = c_s mean ReLU(cos(h(delta*), h_start)),  retain = c_r mean ||h - h_start||_2
    delta* = argmin over the ball of NLL_forget(delta)

c_s and c_r are those of `cb`; delta is added to the output of block `lat_layer`.
paper: L2 ball a token and the paper's rerouting. readme: L-infinity ball and random directions (see
lat.py and cb.py).
"""

from dataclasses import dataclass

from brittle.base.errors import UserError
from brittle.base.knobs import knob, log_range
from brittle.methods.cb import CB
from brittle.methods.lat import perturbation


@dataclass
class CBLAT(CB):
    lat_layer: int = knob(
        7,
        "Block whose output the adversary perturbs; at or below the lowest rerouted block.",
        low=0,
        blocks=True,
    )
    lat_eps: float = knob(
        2.0,
        "Radius of the adversary's ball (paper: L2, a token; readme: L-infinity).",
        low=0,
        search=log_range(0.1, 10),
    )
    lat_steps: int = knob(6, "Steps of the adversary.", low=0)

    def start(self, model, reference, data):
        from brittle.models.blocks import check_blocks

        super().start(model, reference, data)
        check_blocks(model, [self.lat_layer], "--lat-layer")
        if self.lat_layer > min(self.layer_id):
            raise UserError(
                f"--lat-layer {self.lat_layer} lies above --layer-id {min(self.layer_id)}, which "
                "would not feel it. "
                f"Give a block from 0 to {min(self.layer_id)}."
            )

    def perturbed(self, forget):
        return perturbation(self, forget)
