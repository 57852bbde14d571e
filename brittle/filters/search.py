"""Site, number of components, gate and strength of a filter, all chosen within the retain limit and without a human.

Per site, an ungated filter of the contrastive basis takes as many components as the limit lets it have at strength 1 (with such
a basis the number of components is the strength), a gated one as many as it needs. The first choice is the simplest that
reaches the target: ungated before gated, then what does not overshoot it (matched, not maximised), then by damage to the retain
set; without any, what forgets most within the limit.
"""

import math
from dataclasses import dataclass, field, replace

import torch

from brittle.base.errors import UserError
from brittle.filters.gate import RATES, threshold
from brittle.filters.tuning import KNOWN, RIVALS, Limits, bisect, golden, within

PLAIN = (4, 8, 12, 16, 24, 32)
GATED = (16, 32, 64, 128, 256, 512)
CHANCE = 1 / (RIVALS + 1)
LIKE_UNSEEN = 0.05  # a LOSS-AUC within this of 0.5: the noise of an AUC of some hundred texts


def distance(reading):
    """How far from forgotten, 0 or less where the target is reached: the loss of forget texts is that of never-seen ones
    (LOSS-AUC at most 0.5 + LIKE_UNSEEN), and an answer's first token beats the model's own runners-up no more often than
    chance + KNOWN. Infinite where a number is not finite: a broken model has not forgotten."""
    if not math.isfinite(reading.get("forget_nll", 0.0)):
        return math.inf
    parts = [reading["known"] - CHANCE - KNOWN]
    if reading["auc"] is not None:
        parts.append(reading["auc"] - 0.5 - LIKE_UNSEEN)
    return max(parts)


def overshoot(reading):
    """How far the LOSS-AUC lies below what never-seen text would give: who looks at losses sees that something was removed."""
    return 0.0 if reading["auc"] is None else max(0.0, 0.5 - LIKE_UNSEEN - reading["auc"])


@dataclass
class Choice:
    """A filter at its strength, what it does there, and whether that is the target."""

    made: object
    reading: dict
    limits: Limits
    limited: bool = False  # would more (strength, components, gate) have broken the limits?
    curve: list = field(default_factory=list)  # [(strength, reading), ...]
    strength_limit: float = 1.0

    @property
    def reached(self):
        return distance(self.reading) <= 0 and self.limits.excess(self.reading) <= 0

    @property
    def status(self):
        if self.reached:
            return "over-forgotten" if overshoot(self.reading) else "matched"
        return "retain-limited" if self.limited else "site-limited"

    @property
    def key(self):
        gated = self.made.gate is not None
        if self.reached:
            return 0, gated, overshoot(self.reading) > 0, self.reading["retain_kl"]
        return 1, self.beyond, distance(self.reading)

    @property
    def beyond(self):
        """Does it break the limits (at strength 1, before a smaller one was looked for)?"""
        return self.limits.excess(self.reading) > 0

    def reason(self):
        r = self.reading
        auc = "" if r["auc"] is None else f"LOSS-AUC {r['auc']:.2f} (target 0.50), "
        state = f"{auc}answers still known {r['known']:.2f} (chance {CHANCE:.2f}), retain KL {r['retain_kl']:.3f} nats a token, "
        state += f"90th percentile {r['retain_kl_p90']:.3f} (limit {self.limits.retain:g})"
        return state + {
            "matched": "",
            "over-forgotten": ": forget texts have become less likely than never-seen ones, which a look at losses tells",
            "retain-limited": ": more would break the retain limit, the sets share what would have to be removed",
            "site-limited": ": no strength or number of components at this site does more",
        }[self.status]  # fmt: skip


def fit_ks(tuner, made, sizes, limits):
    """The Choice with the largest size of `sizes` within the limits at strength 1 (or, where the target is reached, the
    smallest that reaches it); where not even the smallest fits, that one, beyond the limits."""
    sizes = [k for k in sizes if k < made.k] + [made.k]
    readings = {}

    def read(i):
        if i not in readings:
            readings[i] = tuner.read(made.first(sizes[i]))
        return readings[i]

    low, high = -1, len(sizes)  # the last size known to fit, the first known not to
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if limits.excess(read(middle)) <= 0 else (low, middle)
    if low < 0:
        return Choice(made.first(sizes[0]), read(0), limits, True)
    if distance(read(low)) <= 0:
        below, reach = -1, low
        while reach - below > 1:
            middle = (below + reach) // 2
            below, reach = (below, middle) if distance(read(middle)) <= 0 else (middle, reach)
        return Choice(made.first(sizes[reach]), read(reach), limits)
    return Choice(made.first(sizes[low]), read(low), limits, high < len(sizes))


def fit_gate(tuner, made, limits, sizes=GATED):
    """The Choice of a gated filter: the strictest threshold of RATES that reaches the target, or, where none does, that forgets
    most within the limits; then the components. The strictest, beyond the limits, where none keeps them."""
    quiet = [
        made.score(tuner.caches[name].tokens(made.site))
        for name in ("retain", "general")
        if name in tuner.caches
    ]
    best = None
    for rate in reversed(RATES):
        gated = replace(
            made, threshold=threshold(quiet, rate), about={**made.about, "false_alarms": rate}
        )
        found = Choice(gated, tuner.read(gated), limits)
        if best and found.beyond:
            best.limited = True  # a more permissive gate would forget more
            break
        if best is None or distance(found.reading) < distance(best.reading):
            best = found
        if found.beyond or distance(found.reading) <= 0:
            break
    if best.beyond or not best.reached:
        best.limited |= best.beyond
        return best
    return fit_ks(tuner, best.made, sizes, limits)


def weaken(tuner, choice):
    """A choice beyond the limits at the largest strength within them, in place."""
    made, gated = choice.made, choice.made.gate is not None
    curve = tuner.curve(made)
    a = within(
        curve,
        choice.limits,
        convex=made.site == "post_norm",
        points=3 if gated else 5,
        tolerance=0.1 if gated else 0.02,
    )
    choice.made, choice.reading = made.at(a), curve(a)


def search(tuner, candidates, limits):
    """[Choice], best first, of filters {(site, gated): Filter with all its components}. Gated ones are looked at only where no
    ungated one reaches the target (they could not come first), strengths below 1 only where none at all reaches it."""
    found = []
    for kind in (False, True):
        if not any(choice.reached for choice in found):
            chosen = [made for (_, gated), made in candidates.items() if gated == kind]
            found += [
                fit_gate(tuner, made, limits) if kind else fit_ks(tuner, made, PLAIN, limits)
                for made in chosen
            ]
    if not any(choice.reached for choice in found):
        for choice in found:
            if choice.beyond:
                weaken(tuner, choice)
    return sorted(found, key=lambda c: c.key)


def tune(tuner, choice, top=1.0):
    """The strength of a choice's filter, in place: the smallest that reaches the target within the limits, else the limit.

    Exact by bisection behind the final norm (convex, and 33 points of the curve cost little); before it a grid of 17 points and
    golden section; at a block, where a strength costs the blocks above, a grid of 9.
    """
    made, site, limits = choice.made, choice.made.site, choice.limits
    points = 33 if site == "post_norm" else 17 if site == "pre_norm" else 9
    tolerance = 0.02 if points == 9 else 1e-3
    known = {}
    curve = tuner.curve(made)

    def read(a):
        a = round(float(a), 6)
        if a not in known:
            known[a] = curve(a)
        return known[a]

    if distance(read(0.0)) <= 0:
        raise UserError(
            "the unfiltered model treats the forget text as never seen: there is nothing to filter (answers still known: "
            f"{read(0.0)['known']:.2f}, chance {CHANCE:.2f}). Check --forget and --unseen."
        )
    limit = within(read, limits, top, site == "post_norm", points, tolerance)
    grid = [limit * i / (points - 1) for i in range(points)]
    first = next((i for i, a in enumerate(grid) if distance(read(a)) <= 0), None)
    if first is None:
        i = min(range(1, points), key=lambda i: distance(read(grid[i])))
        strength = grid[i] if site == "post_norm" or i in (0, points - 1) or points == 9 else golden(
            lambda a: distance(read(a)), grid[i - 1], grid[i + 1]
        )  # fmt: skip
        choice.limited |= limit < top
    else:
        strength = grid[0] if first == 0 else grid[first]
        if first and points > 9:
            low = bisect(
                lambda a: -distance(read(a)), grid[first - 1], grid[first], tolerance
            )  # the last above the target
            above = min(low + tolerance, grid[first])
            strength = above if distance(read(above)) <= 0 else grid[first]
    choice.made, choice.reading = made.at(strength), read(strength)
    for a in (top * i / (points - 1) for i in range(points)):
        read(a)
    choice.curve, choice.strength_limit = sorted(known.items()), limit
    return choice


def stable(choice):
    """(low, high): the strengths around the chosen one, on the curve, over which the verdict stays the same."""

    def same(reading):
        return (distance(reading) <= 0) == (distance(choice.reading) <= 0) and choice.limits.excess(
            reading
        ) <= 0

    at = choice.made.strength
    below, above = [at], [at]
    for a, reading in reversed([c for c in choice.curve if c[0] <= at]):
        if not same(reading):
            break
        below.append(a)
    for a, reading in [c for c in choice.curve if c[0] >= at]:
        if not same(reading):
            break
        above.append(a)
    return min(below), max(above)


def part(examples, most, seed=0):
    """At most `most` examples, drawn by `seed`, questions before others (their answers are known): a strength costs a pass."""
    if len(examples) <= most:
        return examples
    drawn = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    asked = [i for i in drawn if examples[i].asked][
        : max(most // 2, most - sum(not e.asked for e in examples))
    ]
    rest = [i for i in drawn if not examples[i].asked][: most - len(asked)]
    return [examples[i] for i in sorted(asked + rest)]
