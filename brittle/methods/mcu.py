"""MCU: unlearning in the minor components of representations (Li et al. 2026, arXiv:2605.11685).

    forget = mean over layers and tokens of max(0, <Q m_t, Q m_t_start>) / mean ||Q m_start||^2,    the rest as cir

Q takes out the mean and the leading principal components that the start's MLP outputs m have on the
forget texts. They carry what ordinary unlearning changes and what is undone first; what is left is
broken. The publication's claim that minor components resist is not taken for granted here.
"""  # noqa: E501  (the formula is one cell of a table)

from dataclasses import dataclass
from typing import ClassVar

from brittle.base.knobs import knob
from brittle.methods.cir import CIR


@dataclass
class MCU(CIR):
    PASSES: ClassVar[int] = 50
    representation_components: int = knob(
        8, "Directions taken out of the MLP outputs that are compared.", low=0
    )

    def measure_start(self):
        import torch

        from brittle.maths.moments import Moments
        from brittle.methods.directions import basis_of, down_outputs

        moments = {}
        with torch.no_grad():
            for batch, counted in self.forget_batches():
                before = down_outputs(self.model, batch, self.layer_id)
                for k in self.layer_id:
                    of_block = moments.setdefault(k, Moments(before[k].shape[-1]))
                    of_block.update(before[k], counted)
        self.shared = {
            k: basis_of(of_block, self.representation_components).to(self.model.device)
            for k, of_block in moments.items()
        }
        super().measure_start()

    def read(self, k, m):
        from brittle.methods.directions import without

        return without(m, self.shared[k])
