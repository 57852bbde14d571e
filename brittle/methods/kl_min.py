"""KL minimisation: gradient ascent while the retain set's predictions stay the start's (Maini et
al. 2024, arXiv:2401.06121).

    loss = -w NLL_forget + v mean KL(p_start || p) over retain tokens

`ga` with another retain term, which is 0 at the start.
"""

from dataclasses import dataclass

from brittle.base.knobs import retain_knob
from brittle.methods.ga import GA


@dataclass
class KLMin(GA):
    retain_loss: str = retain_knob("kl")
