"""From questions to entities, and bootstrap intervals that draw entities, never questions.

Where a model was trained with several seeds, the bootstrap draws seeds first and entities then.
"""

import numpy as np
from scipy import stats


def means(seeds):
    """{entity: mean over seeds of its mean}, for the entities that every seed has.

    seeds: [{entity: (sum, count)}, ...].
    """
    shared = [e for e in seeds[0] if all(e in s for s in seeds)]
    return {e: float(np.mean([s[e][0] / s[e][1] for s in seeds])) for e in shared}


def levels(n):
    """The probabilities (low, high) of the bounds of a 95 % percentile interval from n units.

    They are widened so that the interval covers like Student's (Hesterberg 2015, "expanded
    percentile").
    """
    if n < 2:
        return 0.0, 1.0
    low = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1))
    return low, 1 - low


def bootstrap(seeds, draws=2000, seed=0):
    """(low, high), 95 %, of the mean over entities of values [seeds, entities].

    Seeds are drawn, then entities. (None, None) where there is only one entity.
    """
    values = np.asarray(seeds, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        return None, None
    rng, (k, n) = np.random.default_rng(seed), values.shape
    drawn_seeds = rng.integers(k, size=(draws, k, 1))
    drawn_entities = rng.integers(n, size=(draws, 1, n))
    drawn_means = values[drawn_seeds, drawn_entities].mean((1, 2))
    low, high = np.quantile(drawn_means, levels(n))
    return float(low), float(high)


def difference(a, b, draws=2000, seed=0):
    """(low, high), 95 %, of mean(a) - mean(b) on the same entities.

    a: [seeds, entities]; b: [other seeds, the same entities]. (None, None) from one entity.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape[1] < 2:
        return None, None
    rng, n = np.random.default_rng(seed), a.shape[1]
    chosen = rng.integers(n, size=(draws, 1, n))
    x, y = (m[rng.integers(len(m), size=(draws, len(m), 1)), chosen].mean((1, 2)) for m in (a, b))
    low, high = np.quantile(x - y, levels(n))
    return float(low), float(high)
