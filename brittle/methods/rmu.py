"""RMU: representation misdirection for unlearning (Li et al. 2024, arXiv:2403.03218, section 4).

    loss = sum over layers of MSE(h_forget, c u) + alpha MSE(h_retain, h_retain_start)

h is the output of block `layer_id`. With --steering-unit norm, c is that many times the mean norm
of the forget texts' states there, measured once on the first step's batches, so that one number
fits models of any width and depth (adaptive RMU: Huu-Tien et al. 2024, arXiv:2408.06223).

paper    u is a random unit vector of positive entries (U[0, 1)^d, normalised), drawn once from
         --seed. Only the MLP down-projections of the blocks layer_id - 2 ... layer_id train.
readme   u is a random unit vector of either sign (Gaussian), another for each layer. All parameters
         train. The formula that this variant follows gives no numbers: c and alpha keep the paper's
         6.5 and 1200.

Means are over real tokens and width (the paper's code counts padding). Forward passes end at the
deepest block that is read.
"""

from dataclasses import dataclass
from typing import ClassVar

from brittle.base.knobs import factors, knob, log_range, one_of
from brittle.methods.base import Method
from brittle.models.blocks import stream_width


@dataclass
class RMU(Method):
    kind: ClassVar[str] = "representation"
    needs_reference: ClassVar[bool] = True
    layer_id: tuple = knob(
        (7,),
        "Block(s) whose output is steered.",
        low=0,
        noun="block numbers",
        blocks=True,
        search=one_of("1/8", "1/4", "1/2", "3/4"),
    )
    steering_coeff: float = knob(
        6.5, "Length c of the random target.", low=0, search=factors(0.1, 10)
    )
    steering_unit: str = knob(
        "absolute",
        "Unit of the length: absolute, or norm (of the block's states on forget texts).",
        choices=("absolute", "norm"),
    )
    alpha: float = knob(1200.0, "Weight of the retain term.", low=0, search=log_range(0.1, 3000))
    variant: str = knob("paper", "Which definition.", choices=("paper", "readme"))

    def trains(self, model):
        from brittle.models.blocks import check_blocks, down_projections

        check_blocks(model, self.layer_id)
        if self.variant == "readme":
            return None
        return down_projections(
            model, range(max(0, min(self.layer_id) - 2), max(self.layer_id) + 1)
        )

    def start(self, model, reference, data):
        import torch

        super().start(model, reference, data)
        draw = torch.rand if self.variant == "paper" else torch.randn
        generator = torch.Generator().manual_seed(self.seed)
        lengths = self.lengths(model, data.forget)
        self.target = {}
        for k in self.layer_id:
            u = draw(stream_width(model), generator=generator)
            self.target[k] = (lengths[k] * u / u.norm()).to(model.device)

    def lengths(self, model, forget):
        """{block: the length of its target}, in units of the states."""
        import torch

        from brittle.maths.precision import wide
        from brittle.models.hooks import hidden
        from brittle.models.logprobs import state_mean

        if self.steering_unit == "absolute":
            return dict.fromkeys(self.layer_id, self.steering_coeff)
        batches, total = forget.batches(0), dict.fromkeys(self.layer_id, 0.0)
        with torch.no_grad():
            for batch in batches:
                states = hidden(model, batch, self.layer_id)
                for k in self.layer_id:
                    norms = torch.linalg.vector_norm(wide(states[k]), dim=-1)  # [B, T]
                    total[k] += float(state_mean(norms, batch)) / len(batches)
        return {k: self.steering_coeff * norm for k, norm in total.items()}

    def losses(self, forget, retain, progress):
        from brittle.methods import terms
        from brittle.models import hooks

        hidden, mse = hooks.hidden, terms.masked_mse
        h_forget, h_retain = (
            hidden(self.model, batch, self.layer_id) for batch in (forget, retain)
        )
        with self.reference as frozen:
            h_before = hidden(frozen, retain, self.layer_id)
        return {
            "forget": sum(mse(h_forget[k], self.target[k], forget) for k in self.layer_id),
            "retain": self.alpha
            * sum(mse(h_retain[k], h_before[k], retain) for k in self.layer_id),
        }
