"""Task vector: fine-tune on the forget set, then subtract what that changed (Ilharco et al. 2023,
arXiv:2212.04089).

    tau = theta_ft - theta_0;   theta = theta_0 - lambda tau

The training loss that is logged, NLL_forget, goes *down*; unlearning is the subtraction at the end.
The retain texts are not read; lambda trades forgetting against everything else.
"""

from dataclasses import dataclass
from typing import ClassVar

from brittle.base.knobs import knob, linear_range
from brittle.methods.base import Method


@dataclass
class TaskVector(Method):
    kind: ClassVar[str] = "weight-space"
    needs_reference: ClassVar[bool] = True
    task_scale: float = knob(
        1.0, "How much of the update is subtracted (lambda).", low=0, search=linear_range(0.25, 8)
    )

    def losses(self, forget, retain, progress):
        from brittle.models.logprobs import nll

        return {"forget": nll(self.model, forget)}

    def fit(self, loop):
        import torch

        history = loop()
        with torch.no_grad():
            for p, before in self.reference.pairs():
                p.copy_(before - self.task_scale * (p - before))
        return history
