"""The price of learning half B anew: how many steps does a model need when half B itself is shown?

No attack: it reads what attacks must not. A model from which knowledge is gone needs as many steps
as Filtered, which never had it; one in which it is left needs fewer (the savings of relearning).
All weights train by AdamW, at each rate until LEVEL of half B is answered; the fewest steps count
(`steps_to`).
"""

from dataclasses import dataclass
from typing import ClassVar

from brittle.attacks.base import is_mini, right_pairs
from brittle.attacks.relearn import Relearn
from brittle.base.knobs import knob
from brittle.metrics.recovery import reached_at

LEVEL = 0.9  # accuracy on half B
MINI = (1e-3, 3e-3, 1e-2)
STEPS = (1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 135, 200)


@dataclass
class LearnB(Relearn):
    """No attack: half B itself is shown, to tell how many steps it takes to learn it."""

    HOLDS_OUT: ClassVar[bool] = False
    ASKS_ALL: ClassVar[bool] = True
    ENDS_EARLY: ClassVar[bool] = False
    READS_B: ClassVar[bool] = True
    steps: int = knob(STEPS[-1], "Optimizer steps at every rate.", low=1)
    at: tuple = STEPS

    def default_rates(self, model):
        return MINI if is_mini(model) else super().default_rates(model)

    def rows(self, material):
        return right_pairs(material.half_b())

    def ends(self, merits, measure):
        """A rate ends where half B is learned. measure: a Meter."""
        of_b = [row["accuracy"] for row in measure.rows if row["split"] == "forget_b"]
        return of_b[-1] is not None and of_b[-1] >= LEVEL

    def run(self, model, tokenizer, material, measure):
        measure("as made", step=0)
        super().run(model, tokenizer, material, measure)


def steps_to(rows, level=LEVEL):
    """The fewest steps after which half B is answered to `level`, over all rates; None where no
    rate reaches it.

    rows: a Meter's, or of attacks.csv.
    """
    known = [r for r in rows if r["split"] == "forget_b" and r["accuracy"] is not None]
    start = [(0, row["accuracy"]) for row in known if row["variant"] == "as made"]
    curves = {}
    for row in known:
        if row["variant"] != "as made":
            rate, _, step = row["variant"].partition(", step ")
            curves.setdefault(rate, list(start)).append((int(step), row["accuracy"]))
    steps = [reached_at(sorted(points), level) for points in curves.values()]
    return min((step for step in steps if step is not None), default=None)
