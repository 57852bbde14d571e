"""Agreement of raters: Cohen's kappa for two, Krippendorff's alpha for any number with gaps, Gwet's AC1 for skewed labels."""

import numpy as np


def cohen_kappa(a, b):
    """Cohen (1960) of two raters' labels; None where it is undefined (both always give the same one label)."""
    from sklearn.metrics import cohen_kappa_score

    if len({*a, *b}) < 2:
        return None
    return float(cohen_kappa_score(a, b))


def gwet_ac1(a, b):
    """Gwet (2008): as kappa, but chance agreement is small where one label is given nearly always."""
    labels = sorted({*a, *b})
    if len(labels) < 2:
        return 1.0
    share = [(list(a).count(k) + list(b).count(k)) / (2 * len(a)) for k in labels]
    observed = np.mean([x == y for x, y in zip(a, b, strict=True)])
    expected = sum(p * (1 - p) for p in share) / (len(labels) - 1)
    return float((observed - expected) / (1 - expected))


def coincidences(units, labels):
    """[K, K] coincidence matrix (Krippendorff 2011): pairs of ratings within a unit, each unit weighing its number of ratings."""
    matrix, index = np.zeros((len(labels), len(labels))), {k: i for i, k in enumerate(labels)}
    for ratings in units:
        counts = np.bincount(
            [index[r] for r in ratings if r is not None], minlength=len(labels)
        ).astype(float)
        if counts.sum() > 1:
            matrix += (np.outer(counts, counts) - np.diag(counts)) / (counts.sum() - 1)
    return matrix


def distance(labels, totals, scale):
    """[K, K] squared distances of labels: nominal, ordinal (by how many ratings lie between), or interval (numbers)."""
    k = len(labels)
    if scale == "nominal":
        return 1.0 - np.eye(k)
    if scale == "interval":
        values = np.asarray(labels, dtype=float)
        return (values[:, None] - values) ** 2
    middle = (
        np.cumsum(totals) - totals / 2
    )  # sum of what lies between two labels, with half of each of them
    return (middle[:, None] - middle) ** 2


def krippendorff_alpha(units, labels, scale="nominal"):
    """Krippendorff's alpha of units (lists of one rating a rater, None: not rated), `labels` in their order.

    1: agreement, 0: as by chance. None without two ratings of a unit, or where only one label was ever given.
    """
    matrix = coincidences(units, labels)
    totals, n = matrix.sum(1), matrix.sum()
    apart = distance(labels, totals, scale)
    expected = (np.outer(totals, totals) * apart).sum()
    if n < 2 or expected <= 0:
        return None
    return float(1 - (n - 1) * (matrix * apart).sum() / expected)


def alpha_interval(units, labels, scale="nominal", draws=1000, seed=0):
    """95 % percentile interval of alpha, units drawn with replacement; (None, None) where it is undefined."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(draws):
        value = krippendorff_alpha(
            [units[i] for i in rng.integers(len(units), size=len(units))], labels, scale
        )
        if value is not None:
            found.append(value)
    if len(found) < draws / 2:
        return None, None
    return tuple(float(v) for v in np.quantile(found, [0.025, 0.975]))
