"""Oracle matching: a student learns the predictions of Filtered itself (Lee et al. 2025,
arXiv:2506.06278).

    loss = s KL(p_Filtered || p) on forget texts + (1 - s) KL(p_Filtered || p) on the others

A control, not a method to use: Filtered is what it needs and what it would replace. Both starts end
with the same outputs. Fresh weights (--student-start random) never held the knowledge; the model's
own weights (base) did. So what an attack brings back from the second and not from the first was
kept behind the outputs.
"""

from dataclasses import dataclass
from typing import ClassVar

from brittle.base.errors import UserError
from brittle.base.knobs import knob
from brittle.methods.distill import Distill


@dataclass
class OracleMatch(Distill):
    reads_forget: ClassVar[bool] = True
    student_start: str = knob(
        "base",
        "The student's first weights: base (the model's own), or random.",
        choices=("base", "random"),
    )
    text: str = knob(
        "no-forget",
        "The other texts: all (the pretraining text), no-forget (without the forget texts), "
        "neutral.",
        choices=("all", "no-forget", "neutral"),
    )
    forget_share: float = knob(0.5, "Weight of the forget texts in the loss.", low=0, high=1)

    def settle(self, job):
        if not self.teacher:
            raise UserError(
                "--method oracle_match learns from Filtered: name it with --teacher FOLDER."
            )
        super().settle(job)

    def marked(self, forget):
        return max(forget, super().marked(forget))

    def begin(self, model):
        if self.student_start == "random":
            super().begin(model)

    def losses(self, forget, retain, progress):
        share = self.forget_share
        return {"forget": share * self.match(forget), "others": (1 - share) * self.match(retain)}
