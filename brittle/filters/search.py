"""Site, number of components, gate and strength of a filter, chosen without a human.

The hard limit is what the filter costs on retain and general text; the target is matched, not
maximised (see target.py). The search goes in two steps:

1. `search` finds the best choice of each site. An ungated filter of the contrastive basis takes as
   many components as the limit lets it have at strength 1 (with such a basis the number of
   components is the strength), a gated one as many as it needs.
2. `run_search` takes choices in turn, best first: it tunes the strength, checks three strengths for
   leaks, and goes on to a smaller limit or to the next choice where a check fails.
"""

from dataclasses import replace
from typing import NamedTuple

import torch

from brittle.base.errors import UserError
from brittle.filters.gate import RATES, threshold
from brittle.filters.leaks import badness, failures
from brittle.filters.strength import tune, within
from brittle.filters.target import Choice, distance

PLAIN = (4, 8, 12, 16, 24, 32)  # components of an ungated filter
GATED = (16, 32, 64, 128, 256, 512)  # components of a gated one
FINALISTS = (0.75, 1.0, 1.1)  # times the tuned strength
MOST_TRIALS = 3
COLUMNS = [
    "stage",
    "site",
    "gated",
    "basis",
    "k",
    "strength",
    "auc",
    "known",
    "forget_nll",
    "forget_kl",
    "retain_nll",
    "retain_kl",
    "retain_kl_p90",
    "general_nll",
    "general_kl",
    "status",
]


class SearchResult(NamedTuple):
    """The choice that was taken, its leak checks, and the rows of strength.csv."""

    choice: Choice
    leaks: dict  # {strength: rows of leaks.check}
    table: list


class Trial(NamedTuple):
    """A tuned choice whose finalists were checked for leaks."""

    choice: Choice
    leaks: dict  # {strength: rows of leaks.check}
    tuned_reached: bool  # did it reach the target at its tuned strength, before the checks?

    @property
    def failed(self):
        """The sets that fail a check at the strength that was taken."""
        return failures(self.leaks[self.choice.filter.strength])

    def rank(self):
        """Trials are compared by this; the smaller is the better."""
        return not self.choice.reached, "retain" in self.failed, "forget" in self.failed


def table_row(stage, chosen, reading, status=""):
    """A row of strength.csv; stage is search, curve or chosen."""
    row = {column: reading.get(column) for column in COLUMNS}
    return row | {
        "stage": stage,
        "site": chosen.site,
        "gated": int(chosen.gate is not None),
        "basis": chosen.about.get("basis"),
        "k": chosen.k,
        "strength": chosen.strength,
        "status": status,
    }


def curve_rows(choice):
    return [table_row("curve", choice.filter.at(a), reading) for a, reading in choice.curve]


# --- the best choice of each site ---


def last_that(holds, count):
    """The last i in 0 .. count - 1 with holds(i), or -1; it holds for every smaller i too."""
    low, high = -1, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def fit_components(tuner, whole, sizes, limits):
    """The Choice of the largest size of `sizes` within the limits at strength 1.

    Where that one reaches the target, it is the smallest that does. Where not even the smallest
    size keeps the limits, it is that one, beyond the limits. whole: a Filter with all components.
    """
    sizes = [k for k in sizes if k < whole.k] + [whole.k]
    readings = {}

    def read(i):
        if i not in readings:
            readings[i] = tuner.read(whole.first(sizes[i]))
        return readings[i]

    largest = last_that(lambda i: limits.excess(read(i)) <= 0, len(sizes))
    if largest < 0:
        return Choice(whole.first(sizes[0]), read(0), limits, limited=True)
    if distance(read(largest)) <= 0:
        smallest = 1 + last_that(lambda i: distance(read(i)) > 0, largest)
        return Choice(whole.first(sizes[smallest]), read(smallest), limits)
    limited = largest + 1 < len(sizes)
    return Choice(whole.first(sizes[largest]), read(largest), limits, limited)


def fit_gate(tuner, whole, limits, sizes=GATED):
    """The Choice of a gated filter: first the gate's threshold, then the components.

    The threshold is the strictest of RATES that reaches the target; where none does, the one that
    forgets most within the limits; where none keeps them, the strictest, beyond the limits.
    """
    quiet = tuner.quiet_scores(whole)
    best = None
    for rate in reversed(RATES):
        about = {**whole.about, "false_alarms": rate}
        gated = replace(whole, threshold=threshold(quiet, rate), about=about)
        choice = Choice(gated, tuner.read(gated), limits)
        if best and choice.beyond:
            best.limited = True  # a more permissive gate would forget more
            break
        if best is None or distance(choice.reading) < distance(best.reading):
            best = choice
        if choice.beyond or distance(choice.reading) <= 0:
            break
    if best.beyond or not best.reached:
        best.limited |= best.beyond
        return best
    return fit_components(tuner, best.filter, sizes, limits)


def weaken(tuner, choice):
    """Give a choice beyond the limits the largest strength within them, in place."""
    chosen = choice.filter
    points, tolerance = (3, 0.1) if choice.gated else (5, 0.02)
    convex = tuner.is_convex(chosen.site)
    curve = tuner.curve(chosen)
    strength = within(curve, choice.limits, convex=convex, points=points, tolerance=tolerance)
    choice.filter, choice.reading = chosen.at(strength), curve(strength)


def search(tuner, candidates, limits):
    """[Choice], best first, of candidates {(site, gated): Filter with all its components}.

    Gated filters are looked at only where no ungated one reaches the target, since they could not
    come first. Strengths below 1 are looked for only where none at all reaches it.
    """

    def some_reach(choices):
        return any(choice.reached for choice in choices)

    plain = [chosen for (_, gated), chosen in candidates.items() if not gated]
    choices = [fit_components(tuner, chosen, PLAIN, limits) for chosen in plain]
    if not some_reach(choices):
        with_gate = [chosen for (_, gated), chosen in candidates.items() if gated]
        choices += [fit_gate(tuner, chosen, limits) for chosen in with_gate]
    if not some_reach(choices):
        for choice in choices:
            if choice.beyond:
                weaken(tuner, choice)
    return sorted(choices, key=lambda choice: choice.key)


# --- one choice after the other, until the leak checks pass ---


class Queue:
    """The choices that are left to try, best first. Their search goes on only when it is needed."""

    def __init__(self, tuner, candidates, limits, table):
        self.tuner, self.limits, self.table = tuner, limits, table
        self.unsearched, self.choices = candidates, []

    def search(self):
        """Search what was not searched; gated filters are left where an ungated one reaches."""
        choices = search(self.tuner, self.unsearched, self.limits)
        self.table += [table_row("search", c.filter, c.reading, c.status) for c in choices]
        searched = {(c.filter.site, c.gated) for c in choices}
        self.unsearched = {
            key: chosen for key, chosen in self.unsearched.items() if key not in searched
        }
        self.choices = sorted(self.choices + choices, key=lambda choice: choice.key)

    def take(self):
        """The next choice, or None."""
        next_reaches = bool(self.choices) and self.choices[0].reached
        if self.unsearched and not next_reaches:
            self.search()
        return self.choices.pop(0) if self.choices else None


def finalists(choice, top, read):
    """{strength: Filter}: the tuned strength first, then its neighbours that keep the limits.

    All lie in (0, top].
    """
    tuned = choice.filter.strength
    nearest_first = sorted(FINALISTS, key=lambda factor: abs(factor - 1))
    strengths = dict.fromkeys(min(top, factor * tuned) for factor in nearest_first)
    filters = {a: choice.filter.at(a) for a in strengths if a > 0}
    return {
        a: chosen
        for a, chosen in filters.items()
        if a == tuned or choice.limits.excess(read(chosen)) <= 0
    }


def decide(leaks):
    """The strength to take, from {strength: leak rows}, the wanted one first.

    It is the first of the least leakage.
    """
    return min(leaks, key=lambda strength: badness(leaks[strength]))


def try_choice(tuner, choice, top, check, table):
    """The Trial of a choice: tuned, checked, at the best finalist's strength.

    It is None where no strength above 0 keeps the limits. Adds the curve's rows to `table`.
    """
    tune(tuner, choice, top)
    table += curve_rows(choice)
    tuned_reached = choice.reached
    leaks = {a: check(chosen) for a, chosen in finalists(choice, top, tuner.read).items()}
    if not leaks:
        return None
    choice.filter = choice.filter.at(decide(leaks))
    choice.reading = tuner.read(choice.filter)
    return Trial(choice, leaks, tuned_reached)


def run_search(tuner, candidates, limits, check, top=1.0):
    """The SearchResult of at most MOST_TRIALS choices.

    candidates: {(site, gated): Filter}; check(filter): its rows of leaks.check; top: the largest
    strength. Raises UserError where no strength above 0 keeps the limits.
    """
    table, best, halved = [], None, None
    queue = Queue(tuner, candidates, limits, table)
    for _ in range(MOST_TRIALS):
        is_retry = halved is not None
        choice = halved if is_retry else queue.take()
        halved = None
        if choice is None:
            break
        trial = try_choice(tuner, choice, top, check, table)
        if trial is None:
            continue
        if best is None or trial.rank() < best.rank():
            best = trial
        passes = not trial.failed - {"form"}
        # what comes behind a choice that does not reach the target reaches less
        if passes or not (trial.tuned_reached or is_retry):
            break
        if "retain" in trial.failed and trial.tuned_reached:
            whole = trial.choice.filter.at(1.0)
            halved = replace(trial.choice, filter=whole, limits=limits.half())
    if best is None:
        raise UserError(
            "no strength above 0 keeps the retain limits. Fit on more retain text, "
            "or allow more with --retain-limit."
        )
    return finish(best.choice, best.leaks, table)


def take_strength(tuner, candidates, limits, check, strength):
    """The SearchResult at a strength that the user gives; limits and leaks are still measured."""
    choice = search(tuner, candidates, limits)[0]
    choice.filter = choice.filter.at(strength)
    choice.reading = tuner.read(choice.filter)
    grid = sorted({0.0, 0.25, 0.5, 0.75, 1.0, strength})
    choice.curve = [(a, tuner.read(choice.filter.at(a))) for a in grid]
    return finish(choice, {strength: check(choice.filter)}, curve_rows(choice))


def finish(choice, leaks, table):
    row = table_row("chosen", choice.filter, choice.reading, choice.status)
    return SearchResult(choice, leaks, [*table, row])


def sample(examples, most, seed=0):
    """At most `most` examples, drawn by `seed`: each strength costs a pass over them.

    Questions come before others, up to half of the sample, since their answers are known.
    """
    if len(examples) <= most:
        return examples
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(examples), generator=generator).tolist()
    asked = [i for i in order if examples[i].asked]
    plain = [i for i in order if not examples[i].asked]
    asked = asked[: max(most // 2, most - len(plain))]
    return [examples[i] for i in sorted(asked + plain[: most - len(asked)])]
