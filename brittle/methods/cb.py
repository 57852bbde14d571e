"""CB: circuit breakers, representation rerouting (Zou et al. 2024, arXiv:2406.04313, algorithm 1).

    forget = c_s mean ReLU(cos(h, h_start))        over real tokens and the blocks `layer_id`
    retain = c_r mean ||h - h_start||_2            over real tokens, every block up to the deepest

paper    the above; c_s = alpha (1 - progress / 2),
         c_r = retain_alpha progress / 2 (plus `retain_start`, 0 in the paper)
readme   forget = -sum over layers of cos(h, u), u a random direction a layer, drawn from --seed
         retain = alpha sum over layers of (1 - cos(h, h_start))

The readme's target is a point to go to, the paper's a half space to stay in. A steering coefficient
cancels in a cosine, so there is none. Forward passes end at the deepest block that is read.
"""

import contextlib
from dataclasses import dataclass
from typing import ClassVar

from brittle.base.knobs import knob, log_range, one_of
from brittle.methods.base import Method
from brittle.models.blocks import stream_width


@dataclass
class CB(Method):
    kind: ClassVar[str] = "representation"
    needs_reference: ClassVar[bool] = True
    layer_id: tuple = knob(
        (9, 19),
        "Block(s) whose output is rerouted.",
        low=0,
        noun="block numbers",
        blocks=True,
        search=one_of("1/4,1/2", "1/4,1/2,3/4", "1/2", "1/2,3/4", "3/4"),
    )
    alpha: float = knob(10.0, "Weight of rerouting (readme: of the retain term).", low=0)
    retain_alpha: float = knob(10.0, "Weight of the retain term.", low=0, search=log_range(0.5, 50))
    retain_start: float = knob(
        0.0, "Share of the retain weight that holds from the first step.", low=0, high=1
    )
    variant: str = knob("paper", "Which definition.", choices=("paper", "readme"))

    def start(self, model, reference, data):
        import torch

        from brittle.models.blocks import check_blocks

        super().start(model, reference, data)
        check_blocks(model, self.layer_id)
        generator = torch.Generator().manual_seed(self.seed)
        draws = {k: torch.randn(stream_width(model), generator=generator) for k in self.layer_id}
        self.target = (
            {k: u.to(model.device) for k, u in draws.items()} if self.variant == "readme" else {}
        )

    def perturbed(self, forget):
        """A context in which the forget texts' states are collected: CB-LAT's adversary."""
        return contextlib.nullcontext()

    def losses(self, forget, retain, progress):
        from torch.nn.functional import cosine_similarity, relu

        from brittle.maths import precision
        from brittle.methods import terms
        from brittle.models import hooks
        from brittle.models.logprobs import state_mean

        hidden, wide, mean = hooks.hidden, precision.wide, state_mean
        deep = range(max(self.layer_id) + 1) if self.variant == "paper" else self.layer_id
        with self.perturbed(forget):
            h_forget = hidden(self.model, forget, self.layer_id)
        h_retain = hidden(self.model, retain, deep)
        with self.reference as frozen:
            before_forget = (
                hidden(frozen, forget, self.layer_id) if self.variant == "paper" else self.target
            )
            before_retain = hidden(frozen, retain, deep)

        def cos(now, before, batch, bound=lambda c: c):
            return [
                mean(bound(cosine_similarity(wide(now[k]), wide(before[k]), dim=-1)), batch)
                for k in self.layer_id
            ]

        if self.variant == "readme":
            kept = cos(h_retain, before_retain, retain, lambda c: 1 - c)
            return {
                "forget": -sum(cos(h_forget, before_forget, forget)),
                "retain": self.alpha * sum(kept),
            }
        ramp = self.retain_start + (1 - self.retain_start) * progress / 2
        near = cos(h_forget, before_forget, forget, relu)
        return {
            "forget": self.alpha * (1 - progress / 2) * sum(near) / len(near),
            "retain": self.retain_alpha * ramp * terms.moved(h_retain, before_retain, retain),
        }
