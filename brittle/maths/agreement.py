"""Agreement of raters.

Cohen's kappa is for two raters, Gwet's AC1 for two and skewed labels, and Krippendorff's alpha for
any number of raters who may leave gaps.
"""

import numpy as np


def cohen_kappa(a, b):
    """Cohen's kappa (1960) of two raters' labels; None where only one label was ever given."""
    from sklearn.metrics import cohen_kappa_score

    if len({*a, *b}) < 2:
        return None
    return float(cohen_kappa_score(a, b))


def gwet_ac1(a, b):
    """Gwet's AC1 (2008) of two raters' labels.

    It is as kappa, but chance agreement is small where one label is given nearly always.
    """
    labels = sorted({*a, *b})
    if len(labels) < 2:
        return 1.0
    share = [(list(a).count(k) + list(b).count(k)) / (2 * len(a)) for k in labels]
    observed = np.mean([x == y for x, y in zip(a, b, strict=True)])
    expected = sum(p * (1 - p) for p in share) / (len(labels) - 1)
    return float((observed - expected) / (1 - expected))


def coincidences(units, labels):
    """[K, K] coincidence matrix of K labels (Krippendorff 2011).

    It counts the pairs of ratings within a unit. A unit weighs as much as it has ratings.
    """
    matrix, index = np.zeros((len(labels), len(labels))), {k: i for i, k in enumerate(labels)}
    for ratings in units:
        given = [index[r] for r in ratings if r is not None]
        counts = np.bincount(given, minlength=len(labels)).astype(float)
        if counts.sum() > 1:
            matrix += (np.outer(counts, counts) - np.diag(counts)) / (counts.sum() - 1)
    return matrix


def distance(labels, totals, scale):
    """[..., K, K] squared distances of K labels; totals [..., K]: how many ratings each has.

    scale: nominal (all differ alike), ordinal (by how many ratings lie between), or interval (the
    labels are numbers).
    """
    k = len(labels)
    if scale == "nominal":
        return 1.0 - np.eye(k)
    if scale == "interval":
        values = np.asarray(labels, dtype=float)
        return (values[:, None] - values) ** 2
    # The difference of two middles counts what lies between two labels, and half of each of them.
    middle = np.cumsum(totals, -1) - totals / 2
    return (middle[..., :, None] - middle[..., None, :]) ** 2


def krippendorff_alpha(units, labels, scale="nominal"):
    """Krippendorff's alpha: 1 is agreement, 0 is what chance gives.

    units: lists of one rating a rater, None where one did not rate. labels: in their order.
    None where no unit has two ratings, or where only one label was ever given.
    """
    alpha = float(_alphas(coincidences(units, labels), labels, scale))
    return None if np.isnan(alpha) else alpha


def _alphas(matrices, labels, scale):
    """[...] Krippendorff's alpha of coincidences [..., K, K]; NaN where it is undefined."""
    totals, n = matrices.sum(-1), matrices.sum((-2, -1))
    apart = distance(labels, totals, scale)
    expected = (totals[..., :, None] * totals[..., None, :] * apart).sum((-2, -1))
    defined = expected > 0  # two labels at least were given, so n is not 0
    disagreement = (n - 1) * (matrices * apart).sum((-2, -1))
    return np.where(defined, 1 - disagreement / np.where(defined, expected, 1.0), np.nan)


def alpha_interval(units, labels, scale="nominal", draws=1000, seed=0):
    """(low, high) of alpha, 95 %, from units drawn with replacement.

    (None, None) where alpha is undefined in more than half of the draws, and from too few units.
    """
    from brittle.maths.intervals import quantiles, resample

    of_units = np.array([coincidences([ratings], labels) for ratings in units])  # [units, K, K]
    drawn = resample(len(units), draws, seed, "alpha").numpy()
    alphas = _alphas(np.tensordot(drawn, of_units, 1), labels, scale)
    if np.isnan(alphas).mean() > 0.5:
        return None, None
    return quantiles(alphas, len(units))
