"""GA: gradient ascent on the forget set, descent on the retain set (Liu et al. 2022,
arXiv:2203.12817).

    loss = -w NLL_forget + v R        token means; R the retain NLL

Unbounded below, so watch the forget NLL against ln V.
"""

from dataclasses import dataclass

from brittle.base.knobs import knob, log_range
from brittle.methods.base import WithRetain


@dataclass
class GA(WithRetain):
    forget_weight: float = knob(
        1.0, "Weight of the forget term.", low=0, search=log_range(0.01, 10)
    )

    def losses(self, forget, retain, progress):
        from brittle.models.logprobs import nll

        return {
            "forget": -self.forget_weight * nll(self.model, forget),
            "retain": self.retain_term(retain),
        }
