"""UNDO: a damaged copy of an unlearned model learns its predictions again (Lee et al. 2025,
arXiv:2506.06278).

    theta = (1 - alpha) theta_T + alpha (mu + beta (n - mu)); loss = mean KL(p_T || p)

n is drawn from the initial distribution of each tensor, mu is its mean: a norm's gain shrinks
toward 1, a bias toward 0, matrices and embeddings toward 0. So alpha = beta = 1 is `distill`.
--variant paper is the published rule: n Xavier-uniform for matrices, 0 for vectors, mu = 0, beta
0.1. Tied embeddings are one tensor. The published code draws n from the global seed; here it is
--seed.

A run stops where the student has regained what Base and the teacher answer: that is --rule, with
--eval-every and --keep best.
"""

from dataclasses import dataclass
from typing import ClassVar

from brittle.base.errors import UserError
from brittle.base.knobs import knob, linear_range
from brittle.methods.distill import Distill

PAPER_BETA = 0.1


@dataclass
class Undo(Distill):
    starts_there: ClassVar[bool] = True
    undo_alpha: float = knob(
        0.6,
        "Damage to the teacher's weights: 0 none, 1 all.",
        low=0,
        high=1,
        search=linear_range(0.1, 1),
    )
    undo_beta: str = knob(
        "auto", f"Size of the noise, 0 to 1; auto is 1, with --variant paper {PAPER_BETA}."
    )
    variant: str = knob(
        "own",
        "Where weights shrink to: own (the initial distribution of each), or paper (0).",
        choices=("own", "paper"),
    )

    def check(self):
        super().check()
        self.beta()

    def beta(self):
        """The size of the noise as a number. Raises UserError where it is none in [0, 1]."""
        if self.undo_beta == "auto":
            return PAPER_BETA if self.variant == "paper" else 1.0
        try:
            value = float(self.undo_beta)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise UserError(f"--undo-beta {self.undo_beta}: must be between 0 and 1, or auto.")
        return value

    def begin(self, model):
        from brittle.models.initial import corrupt, initial_weights, xavier

        draw = xavier if self.variant == "paper" else initial_weights
        start = dict((model if self.frozen is None else self.frozen).named_parameters())
        corrupt(model, start, draw(model, self.seed), self.undo_alpha, self.beta())
