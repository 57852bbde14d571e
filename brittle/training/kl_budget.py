"""A budget of KL on neutral text: training ends where predictions there have moved so far.

`--kl-budget X`, of any method. X is the mean over neutral texts' predicted tokens of
KL(p_start || p), in nats. The weights that the run ends with lie in [.95, 1] X:

    a method that trains       neutral text is measured after every step. The first step that is
                               over the budget is shortened, by bisection on the line between the
                               weights before and after it, and training ends.
    a method that makes its    the line is that from the start to what it made. Where the method is
    weights after training     one step of free length (`one_step`), that length is first bracketed
                               by factors of 8.

Weights on the line are made of those at its start each time; small steps never add up.
"""

import math
from typing import NamedTuple

import torch

from brittle.base.errors import UserError
from brittle.training.steps import StepHook

SHARE = 0.95  # of the budget that must be used
FACTOR = 8.0  # of a step's length while it is bracketed
MOST = 60  # measurements on one line


class Landing(NamedTuple):
    """Where on a line the budget is used up: a share of it, and the KL there in nats."""

    share: float
    kl: float


def bisect(kl_at, budget, low, high):
    """The Landing between `low`, whose KL is within the budget, and `high`, whose KL is not.

    low, high: Landings. kl_at(share) -> KL. Where the KL jumps over the budget it is the last share
    found within it.
    """
    for _ in range(MOST):
        if low.kl >= SHARE * budget:
            break
        # far apart by the geometric mean: the length may be of any size
        far = low.share > 0 and high.share > 2 * low.share
        middle = math.sqrt(low.share * high.share) if far else (low.share + high.share) / 2
        now = Landing(middle, kl_at(middle))
        if now.kl <= budget:
            low = now
        else:
            high = now
    return low


def bracket(kl_at, budget):
    """(low, high): Landings within and over the budget, a factor of 8 apart; high None where no
    length is over it.
    """
    now = Landing(1.0, kl_at(1.0))
    for _ in range(MOST):
        grows = now.kl <= budget
        share = now.share * FACTOR if grows else now.share / FACTOR
        if not 1e-12 < share < 1e12:
            return (now, None) if grows else (Landing(0.0, 0.0), now)
        then = Landing(share, kl_at(share))
        if grows and not then.kl <= budget:
            return now, then
        if not grows and then.kl <= budget:
            return then, now
        now = then
    raise AssertionError("a factor of 8 leaves the range sooner")


class Line:
    """Weights between `before` [tensor, ...] and where `parameters` stand now, and beyond.

    change: [tensor, ...] from the one to the other, where it is known better than by the weights'
    difference, which rounding blurs where the step is small.
    """

    def __init__(self, parameters, before, change=None):
        self.parameters, self.before = parameters, before
        self.change = change or [p.detach() - b for p, b in zip(parameters, before, strict=True)]

    def moves(self):
        """Whether its ends differ."""
        return any(bool(change.any()) for change in self.change)

    @torch.no_grad()
    def go(self, share):
        """Put the weights at `share` of the line: 0 before, 1 now."""
        for p, b, change in zip(self.parameters, self.before, self.change, strict=True):
            p.copy_(b + share * change)


class KLBudget(StepHook):
    """Ends a training where the budget is used up. measure() -> KL from the start, in nats."""

    def __init__(self, model, measure, budget):
        self.model, self.measured, self.budget = model, measure, budget
        self.before = None  # weights before the step
        self.landing = None

    def measure(self):
        was_training = self.model.training
        self.model.eval()
        kl = self.measured()
        self.model.train(was_training)
        return kl

    def trained(self):
        return [p for p in self.model.parameters() if p.requires_grad]

    def before_step(self):
        self.before = [p.detach().clone() for p in self.trained()]

    def after_step(self, step, row):
        kl = row["neutral_kl"] = self.measure()
        if kl <= self.budget:
            return False
        if step == 1:
            raise UserError(
                f"--kl-budget {self.budget:g}: the first step moves neutral text by {kl:.2g} nats "
                "already. Nothing was saved. Lower --lr, or give a larger budget."
            )
        line = Line(self.trained(), self.before)
        self.settle(line, Landing(0.0, 0.0), Landing(1.0, kl))
        row["neutral_kl"] = self.landing.kl
        return True

    def settle(self, line, low, high):
        """Leave the weights where the budget is used up, between two Landings of a line."""

        def kl_at(share):
            line.go(share)
            return self.measure()

        self.landing = bisect(kl_at, self.budget, low, high)
        line.go(self.landing.share)

    def keep_start(self):
        """Remember the weights before a method that makes them after training."""
        self.before = [p.detach().clone() for p in self.model.parameters()]

    def shorten(self, *, one_step, step=None):
        """Move the weights that were made on the line from the start, into the budget.

        step: {name: change} of a method of one step; parameters that it does not name stay.
        """
        named, change = dict(self.model.named_parameters()), None
        if step:
            change = [step.get(name, torch.zeros_like(p)) for name, p in named.items()]
        line = Line(list(named.values()), self.before, change)
        if not line.moves():
            return

        def kl_at(share):
            line.go(share)
            return self.measure()

        if one_step:
            low, high = bracket(kl_at, self.budget)
        else:
            high = Landing(1.0, kl_at(1.0))
            low = Landing(0.0, 0.0)
            low, high = (high, None) if high.kl <= self.budget else (low, high)
        if high is None:
            line.go(low.share)
        else:
            self.settle(line, low, high)

    def finish(self):
        """A sentence on what became of the budget."""
        if self.landing is None:
            return f"KL budget {self.budget:g} on neutral text: not used up."
        return (
            f"KL budget {self.budget:g} on neutral text: {self.landing.kl:.4g} nats a token, at "
            f"{self.landing.share:.3g} of the last step."
        )
