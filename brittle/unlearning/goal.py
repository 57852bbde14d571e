"""What a search wants of an unlearned model: a target, limits, and one number to compare trials by.

    --target "forget<=filtered+.05"
    --limits "retain>=.95*base general>=.95*base"

Each is a list of the conditions of brittle/training/keep.py, with blanks, commas or `and` between
them. `attacked` is a further split, the forget questions under an attack: the target holds for it
as well where it is measured.
"""

import math
import re
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.data.items import SPLITS
from brittle.training.keep import read_condition

ATTACKED = "attacked"
BROKEN = 4.0  # score of a run that broke off: worse than every model that was measured


class TrialMeasures(NamedTuple):
    """What was measured of a model on its way or at its end."""

    accuracy: dict  # {split: share of right answers}
    neutral_kl: float  # nats a token from the start, on neutral text
    forget_nll: float | None  # nats a token
    signs: list  # of collapse, in words


class Goal(NamedTuple):
    """Conditions (training.keep.Condition) that a model is to meet."""

    target: list
    limits: list

    @property
    def conditions(self):
        return [*self.target, *self.limits]

    def names(self):
        """The models whose levels are needed."""
        return {condition.level for condition in self.conditions if condition.level}

    def under_attack(self):
        """The goal with a target for the split `attacked` like that for the forget questions."""
        more = [c._replace(split=ATTACKED) for c in self.target if c.split == "forget"]
        return self._replace(target=[*self.target, *more])

    def check(self, levels):
        """Raise UserError where no model can meet all conditions, or the start meets the target.

        levels: {"base", "chance", and "filtered" where it is known: {split: accuracy}}
        """
        for condition in self.conditions:
            if condition.split not in levels["base"]:
                raise UserError(
                    f"{shown(condition)}: there is no mcq_{condition.split}.jsonl in the data "
                    "folder (--data)."
                )
        for split in {condition.split for condition in self.conditions}:
            self._check_split(split, levels)
        if _excess(self.target, levels["base"], levels) <= 0:
            raise UserError(
                f"--target: the model itself meets {' and '.join(map(shown, self.target))} "
                f"(its accuracy is {levels['base'][self.target[0].split]:.3f}). "
                "There is nothing to search for."
            )

    def _check_split(self, split, levels):
        own = [condition for condition in self.conditions if condition.split == split]
        highest = min(
            (c for c in own if c.sign == "<="), key=lambda c: c.bound(levels), default=None
        )
        lowest = max(
            (c for c in own if c.sign == ">="), key=lambda c: c.bound(levels), default=None
        )
        for condition, possible in ((highest, 0), (lowest, 1)):
            if condition and condition.excess({split: possible}, levels) > 0:
                raise UserError(
                    f"{shown(condition)}: no accuracy is "
                    f"{'below 0' if possible == 0 else 'above 1'} "
                    f"(the bound is {condition.bound(levels):.3f})."
                )
        if highest and lowest and lowest.bound(levels) > highest.bound(levels):
            raise UserError(
                f"{shown(lowest)} (that is {lowest.bound(levels):.3f}) and {shown(highest)} "
                f"({highest.bound(levels):.3f}) contradict each other: --target and --limits."
            )

    def score(self, measures, levels):
        """One number, the lower the better.

        Below 1 the target and all limits are met without a sign of collapse, and the number grows
        with the KL on neutral text: KL / (1 + KL). Above, it is 1 plus how far accuracies lie
        beyond the conditions, plus 1 for a collapse.
        """
        beyond = _excess(self.conditions, measures.accuracy, levels)
        if beyond > 0 or measures.signs:
            return 1.0 + beyond + (1.0 if measures.signs else 0.0)
        if not math.isfinite(measures.neutral_kl):
            return BROKEN
        return measures.neutral_kl / (1.0 + measures.neutral_kl)

    def reached(self, measures, levels):
        """Are the target and all limits met without a sign of collapse?"""
        return self.score(measures, levels) < 1


def _excess(conditions, accuracy, levels):
    """The sum of how far accuracies lie beyond the conditions, 0 where all hold.

    A model on its way is not attacked: what is not measured is left out.
    """
    measured = [condition for condition in conditions if condition.split in accuracy]
    return sum(max(0.0, condition.excess(accuracy, levels)) for condition in measured)


def shown(condition):
    """A condition as a user writes it."""
    factor = "" if condition.factor == 1 else f"{condition.factor:g}*"
    level = f"{factor}{condition.level}" if condition.level else ""
    number = f"{condition.number:+g}" if level else f"{condition.number:g}"
    return (
        f"{condition.split}{condition.sign}{level}{number if condition.number or not level else ''}"
    )


def read_conditions(option, text):
    """The conditions of what is behind the option `--target` or `--limits`. Raises UserError."""
    dense = re.sub(r"\s*(<=|>=|\*|\+|-)\s*", r"\1", text.strip())
    words = [word for word in re.split(r"\s+and\s+|[\s,;]+", dense) if word]
    conditions = []
    for word in words:
        split = re.split(r"[<>=]", word)[0]
        condition = read_condition(word)
        if condition is None and split not in SPLITS:
            raise UserError(f"{option} {word}: {split!r} is none of {', '.join(SPLITS)}.")
        if condition is None:
            raise UserError(
                f"{option} {word} is not understood. Such as: forget<=filtered+.05, "
                "forget<=chance+.05, retain>=.95*base, general>=.9."
            )
        conditions.append(condition)
    return conditions


def read_goal(target, limits):
    """The Goal of both options. Raises UserError; also for a target that bounds nothing above."""
    goal = Goal(read_conditions("--target", target), read_conditions("--limits", limits))
    if not any(c.split == "forget" and c.sign == "<=" for c in goal.target):
        raise UserError(f"--target {target!r} does not say how far forget is to fall: forget<=...")
    return goal
