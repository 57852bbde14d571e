"""From questions to entities, and bootstrap intervals that draw entities, never questions.

Where a model was trained with several seeds, the interval also holds what further seeds would do.
"""

import numpy as np

from brittle.maths.intervals import FEWEST, levels


def means(seeds):
    """{entity: mean over seeds of its mean}, for the entities that every seed has.

    seeds: [{entity: (sum, count)}, ...].
    """
    shared = [e for e in seeds[0] if all(e in s for s in seeds)]
    return {e: float(np.mean([s[e][0] / s[e][1] for s in seeds])) for e in shared}


def _seed_draws(values, draws, rng):
    """Deviations [draws] of the mean over seeds from what further seeds would have on average.

    values: [seeds, entities]. Resampling k seeds underestimates the variance of their mean by
    (k - 1) / k, and of three seeds it never leaves their range. So the draws are those of
    Student's t with k - 1 degrees of freedom, scaled by the seeds' standard error. Of one seed
    nothing is known: the deviations are 0, and an interval is about that one model.
    """
    k = len(values)
    if k < 2:
        return np.zeros(draws)
    error = values.mean(1).std(ddof=1) / np.sqrt(k)
    return error * rng.standard_t(k - 1, draws)


def bootstrap(seeds, draws=2000, seed=0):
    """(low, high), 95 %, of the mean over entities of values [seeds, entities].

    Entities are drawn, and the mean over seeds varies as `_seed_draws` says. (None, None) from
    fewer than FEWEST entities.
    """
    values = np.asarray(seeds, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < FEWEST:
        return None, None
    rng, n = np.random.default_rng(seed), values.shape[1]
    drawn_means = values.mean(0)[rng.integers(n, size=(draws, n))].mean(1)
    low, high = np.quantile(drawn_means + _seed_draws(values, draws, rng), levels(n))
    return float(low), float(high)


def difference(a, b, draws=2000, seed=0):
    """(low, high), 95 %, of mean(a) - mean(b) on the same entities.

    a: [seeds, entities]; b: [other seeds, the same entities]. Entities are drawn for both at once,
    and each side's mean over seeds varies as `_seed_draws` says. (None, None) from fewer than
    FEWEST entities.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape[1] < FEWEST:
        return None, None
    rng, n = np.random.default_rng(seed), a.shape[1]
    of_entities = a.mean(0) - b.mean(0)
    drawn = of_entities[rng.integers(n, size=(draws, n))].mean(1)
    spread = _seed_draws(a, draws, rng) - _seed_draws(b, draws, rng)
    low, high = np.quantile(drawn + spread, levels(n))
    return float(low), float(high)
