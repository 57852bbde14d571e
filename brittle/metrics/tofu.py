"""From items to sets: TOFU's aggregates, forget quality, and averages over correlated items.

The unit is the entity. The questions of one author are correlated, so means, intervals and tests
are over entities where the data name them. The exception is forget quality's p, which is TOFU's
own: a KS test of items. Beside it stand `p_entities`, a permutation of entities, and an interval of
the distance D over entities.
"""

import math

from brittle.base.errors import UserError
from brittle.maths import intervals
from brittle.maths.hypotheses import smallest_d

UTILITY_SETS = ("retain", "real_authors", "world_facts")
FEWEST = 5  # items of a test


def mean_over(values, entities):
    """(mean over items, low, high, items, entities); None where nothing is known.

    The interval is over entities (`intervals.mean_of`).
    """
    known = [(v, e) for v, e in zip(values, entities, strict=True) if v is not None]
    if not known:
        return None, None, None, 0, 0
    numbers, names = zip(*known, strict=True)
    return *intervals.mean_of(numbers, names), len(numbers), len(set(names))


def truth_score(ratio, which):
    """An item's truth ratio r as a score: `forget` min(r, 1/r), `utility` max(0, 1 - r)."""
    if which == "forget":
        return min(ratio, 1 / ratio) if ratio > 0 else 0.0
    return max(0.0, 1 - ratio)


def harmonic_mean(values):
    """n / sum(1/v); 0 where one is 0, None where one is not known."""
    if not values or any(v is None for v in values):
        return None
    return 0.0 if min(values) <= 0 else len(values) / math.fsum(1 / v for v in values)


def model_utility(sets, parts=("probability", "rouge", "truth_ratio")):
    """(harmonic mean of the nine means {set: {part: mean}}, None or which are missing)."""
    missing = [f"{s} {p}" for s in UTILITY_SETS for p in parts if sets.get(s, {}).get(p) is None]
    if missing:
        return None, f"no {', '.join(missing)}"
    return harmonic_mean([sets[s][p] for s in UTILITY_SETS for p in parts]), None


def option_probability(correct, wrong):
    """p / (p + sum p_k) of length-normalised probabilities.

    TOFU defines it for the real authors and the world facts.
    """
    return correct / (correct + math.fsum(wrong))


def steps(values, entities, edges):
    """(counts, sizes), both float64, of the values of each entity.

    counts [entities, edges]: how many of an entity's values lie at or below an edge.
    sizes [entities, 1]: how many values an entity has.
    """
    import torch

    number = {e: i for i, e in enumerate(dict.fromkeys(entities))}
    owner = torch.tensor([number[e] for e in entities])
    below = (torch.tensor(values, dtype=torch.float64)[:, None] <= edges).double()
    counts = torch.zeros(len(number), len(edges), dtype=torch.float64).index_add_(0, owner, below)
    return counts, owner.bincount().double()[:, None]


def gaps(first, second, counts, sizes):
    """[draws, edges] F - G, the difference of two empirical distribution functions.

    F weighs the entities by `first`, G by `second` (both [draws, entities]); counts and sizes are
    those of `steps`.
    """
    return first @ counts / (first @ sizes) - second @ counts / (second @ sizes)


def entity_test(a, b, *, paired, draws=1000, seed=0):
    """(half, p, entities of the smaller side) from the `steps` of two samples; entities are drawn.

    half: half the width of the interval of D. The bootstrap draws the entities of both samples at
    once where they are `paired`. Its 95 % quantile of sup |(F* - G*) - (F - G)| bounds how far D
    lies from that of the populations (a triangle inequality), widened for few entities as
    `intervals.levels` does. It also holds at D = 0, which quantiles of D* never do. p: D against
    its values where the samples of the entities are swapped (paired) or shuffled. Both are None
    where there are too few entities.
    """
    import torch

    n, m = len(a[0]), len(b[0])
    few = min(n, m)
    counts, sizes = (torch.cat(pair) for pair in zip(a, b, strict=True))
    own = torch.arange(n + m)[None] < n
    measured = gaps(own.double(), (~own).double(), counts, sizes)
    half = p = None
    if few >= intervals.FEWEST:
        first = torch.zeros(draws, n + m, dtype=torch.float64)
        second = torch.zeros(draws, n + m, dtype=torch.float64)
        first[:, :n] = intervals.resample(n, draws, seed, "a")
        second[:, n:] = intervals.resample(m, draws, seed, "a" if paired else "b")
        far = (gaps(first, second, counts, sizes) - measured).abs().amax(1)
        wider = (few / (few - 1)) ** 0.5 * intervals.student(few - 1) / intervals.Z
        half = float(far.quantile(0.95)) * wider
    if few >= FEWEST:
        rolled = torch.rand(
            draws - 1, n if paired else n + m, generator=intervals.generator(seed, "swap")
        )
        swapped = rolled < 0.5 if paired else rolled.argsort(1) < n
        first = (torch.cat([swapped, ~swapped], 1) if paired else swapped).double()
        shuffled = gaps(first, 1 - first, counts, sizes).abs().amax(1)
        as_far = shuffled >= measured.abs().max() - 1e-9
        p = (1 + int(as_far.sum())) / draws
    return half, p, few


def forget_quality(ours, retrained, entities=None, theirs=None, draws=1000, seed=0):
    """Two-sample KS test of truth ratios, of a model against one that never saw the forget set.

    Returns {d, d_low, d_high (over entities), p (TOFU's, over items), p_entities, entities, n, m,
    detectable, identical}. `entities` and `theirs` name what each item is about (default: itself).
    Where both name the same entities, these are paired. p depends on n: with few items a large p
    says nothing of forgetting. Raises UserError below FEWEST items a model.
    """
    import torch
    from scipy.stats import ks_2samp

    if min(len(ours), len(retrained)) < FEWEST:
        there = f"{len(ours)} and {len(retrained)}"
        raise UserError(f"forget quality needs at least {FEWEST} items of each model, not {there}.")
    test = ks_2samp(ours, retrained)
    edges = torch.tensor(sorted({*ours, *retrained}), dtype=torch.float64)
    paired = entities is not None and theirs is not None and set(entities) == set(theirs)
    names = [range(len(v)) if e is None else e for v, e in ((ours, entities), (retrained, theirs))]
    if paired:  # the second sample's entities in the order of the first's
        order = {e: i for i, e in enumerate(dict.fromkeys(entities))}
        known = sorted(zip(theirs, retrained, strict=True), key=lambda pair: order[pair[0]])
        names[1], retrained = ([pair[i] for pair in known] for i in (0, 1))
    sides = [steps(v, e, edges) for v, e in zip((ours, retrained), names, strict=True)]
    d = float(test.statistic)
    half, p, count = entity_test(*sides, paired=paired, draws=draws, seed=seed)
    return {
        "d": d,
        "d_low": None if half is None else max(0.0, d - half),
        "d_high": None if half is None else min(1.0, d + half),
        "p": float(test.pvalue),
        "p_entities": p,
        "entities": count,
        "n": len(ours),
        "m": len(retrained),
        "detectable": smallest_d(len(ours), len(retrained)),
        "identical": sorted(ours) == sorted(retrained),
    }
