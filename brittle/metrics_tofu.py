"""From items to sets: TOFU's aggregates, forget quality, and how a score is averaged over correlated items.

The unit is the entity: the questions of one author are correlated, so means, intervals and tests are over entities where the
data name them.
"""

import math

from brittle.errors import UserError
from brittle.stats import mean_interval

UTILITY_SETS = ("retain", "real_authors", "world_facts")
FEWEST = 5  # items of a test


def by_entity(values, entities):
    """Means of values by entity, in order of first appearance; None values are left out."""
    found = {}
    for value, entity in zip(values, entities, strict=True):
        if value is not None:
            found.setdefault(entity, []).append(value)
    return [math.fsum(v) / len(v) for v in found.values()]


def mean_over(values, entities):
    """(mean over items, low, high, items, entities): the interval is that of entity means; None where nothing is known."""
    known = [v for v in values if v is not None]
    means = by_entity(values, entities)
    if not known:
        return None, None, None, 0, 0
    mean = math.fsum(known) / len(known)
    centre, low, high = mean_interval(means)
    shift = mean - centre  # entities of unequal size: the interval is moved to the mean over items
    return mean, *(None if end is None else end + shift for end in (low, high)), len(known), len(means)


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
    """p / (p + sum p_k) of length-normalised probabilities (TOFU's real authors and world facts)."""
    return correct / (correct + math.fsum(wrong))


def detectable(n, m):
    """The smallest D that two samples of n and m reject at the 5 % level (Kolmogorov's 1.358 sqrt((n + m) / (n m)))."""
    return 1.3581 * math.sqrt((n + m) / (n * m))


def forget_quality(ours, retrained, draws=1000, seed=0):
    """Two-sample KS test of truth ratios, of a model against one that never saw the forget set.

    {d, d_low, d_high (bootstrap), p, n, m, detectable, identical}. p depends on n: with few items a large p is no forgetting.
    """
    import torch
    from scipy.stats import ks_2samp

    from brittle.stats import quantiles, resample

    if min(len(ours), len(retrained)) < FEWEST:
        raise UserError(f"forget quality needs at least {FEWEST} items of each model, not {len(ours)} and {len(retrained)}.")
    test = ks_2samp(ours, retrained)
    edges = torch.tensor(sorted({*ours, *retrained}), dtype=torch.float64)
    steps = [(torch.tensor(v, dtype=torch.float64)[:, None] <= edges).double() for v in (ours, retrained)]
    shares = [resample(len(s), draws, seed, side) @ s / len(s) for s, side in zip(steps, "ab", strict=True)]
    low, high = quantiles((shares[0] - shares[1]).abs().amax(1))
    return {
        "d": float(test.statistic),
        "d_low": low,
        "d_high": high,
        "p": float(test.pvalue),
        "n": len(ours),
        "m": len(retrained),
        "detectable": detectable(len(ours), len(retrained)),
        "identical": sorted(ours) == sorted(retrained),
    }
