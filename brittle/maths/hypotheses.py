"""Tests and effect sizes on per-entity means: scipy's where it has them, the rest written out.

The unit is the entity (a person, a document). Questions about one entity are correlated, and a test
that counts questions reports differences where there are none (tests/maths/test_stats_tests.py
shows it). Each test returns a `Result`. What is undefined (fewer than FEWEST entities, no
difference at all for a t-test) has p None, never 0 or 1. p is never below FLOOR: 0 is no
probability.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

FEWEST, FLOOR = 5, 1e-16


class Result(NamedTuple):
    test: str
    statistic: float | None
    p: float | None
    effect: float | None = None
    effect_name: str = ""


def _result(test, statistic, p, effect=None, name=""):
    """A Result in which NaN and infinity are None, and p lies in [FLOOR, 1]."""
    statistic, p, effect = (
        None if v is None or not np.isfinite(v) else float(v) for v in (statistic, p, effect)
    )
    if p is not None:
        p = min(1.0, max(p, FLOOR))
    return Result(test, statistic, p, effect, name)


def _few(*samples):
    return min(map(len, samples)) < FEWEST


def _arrays(*samples):
    return [np.asarray(s, dtype=np.float64) for s in samples]


def cohen_dz(a, b):
    """Mean of the paired differences over their standard deviation; None where they do not vary."""
    d = np.subtract(*_arrays(a, b))
    varies = len(d) > 1 and d.std(ddof=1) > 1e-12
    return float(d.mean() / d.std(ddof=1)) if varies else None


def hedges_g(a, b):
    """Difference of the means over the pooled standard deviation (Hedges 1981)."""
    a, b = _arrays(a, b)
    n = len(a) + len(b) - 2
    if n < 1:
        return None
    pooled = np.sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / n)
    small = 1 - 3 / (4 * n - 1)
    return float((a.mean() - b.mean()) / pooled * small) if pooled > 1e-12 else None


def cliffs_delta(a, b):
    """P(a > b) - P(a < b) over all pairs (Cliff 1993)."""
    a, b = _arrays(a, b)
    order = np.sort(b)
    below, upto = np.searchsorted(order, a, "left"), np.searchsorted(order, a, "right")
    return float((below - (len(b) - upto)).sum() / (len(a) * len(b)))


def _welch(a, b):
    """(standard error of the difference of means, Welch and Satterthwaite's degrees of freedom)."""
    u, v = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    return np.sqrt(u + v), (u + v) ** 2 / max(u * u / (len(a) - 1) + v * v / (len(b) - 1), 1e-300)


def paired_t(a, b):
    """Student's t of the differences a - b [entities]."""
    effect = cohen_dz(a, b)
    if _few(a) or effect is None:
        return Result("paired_t", None, None, None, "cohen_dz")
    test = stats.ttest_rel(*_arrays(a, b))
    return _result("paired_t", test.statistic, test.pvalue, effect, "cohen_dz")


def welch_t(a, b):
    """Welch's t of two groups: variances may differ."""
    a, b = _arrays(a, b)
    if _few(a, b) or a.std() + b.std() < 1e-12:
        return Result("welch_t", None, None, None, "hedges_g")
    test = stats.ttest_ind(a, b, equal_var=False)
    return _result("welch_t", test.statistic, test.pvalue, hedges_g(a, b), "hedges_g")


def seeds_t(a, b):
    """Welch's t of the means of two recipes' models, one number a training seed.

    It asks whether the recipes differ, where a test of entities asks whether these very models do.
    From two seeds a side on; p is None where the seeds do not vary at all.
    """
    a, b = _arrays(a, b)
    if min(len(a), len(b)) < 2 or a.std() + b.std() < 1e-12:
        return Result("seeds_t", None, None, None, "difference")
    test = stats.ttest_ind(a, b, equal_var=False)
    return _result("seeds_t", test.statistic, test.pvalue, a.mean() - b.mean(), "difference")


def wilcoxon(a, b):
    """Wilcoxon's signed ranks of the differences; entities without a difference are left out.

    Differences are rounded to 1e-10: means of entities that are equal on paper differ in their
    last bits, and ranks would order those.
    """
    d = np.subtract(*_arrays(a, b)).round(10)
    if _few(d) or not d.any():
        return Result("wilcoxon", None, None, None, "rank_biserial")
    test = stats.wilcoxon(d)
    ranks = stats.rankdata(np.abs(d[d != 0]))
    effect = float((ranks * np.sign(d[d != 0])).sum() / ranks.sum())
    return _result("wilcoxon", test.statistic, test.pvalue, effect, "rank_biserial")


def mann_whitney(a, b):
    """Mann and Whitney's ranks of two groups of different entities."""
    if _few(a, b):
        return Result("mann_whitney", None, None, None, "cliffs_delta")
    test = stats.mannwhitneyu(*_arrays(a, b))
    return _result("mann_whitney", test.statistic, test.pvalue, cliffs_delta(a, b), "cliffs_delta")


def sign_flip(a, b, draws=9999, seed=0):
    """Paired permutation test: under the null each difference is as likely with the other sign.

    p is at least 1 / (draws + 1).
    """
    d = np.subtract(*_arrays(a, b))
    if _few(d):
        return Result("sign_flip", None, None, None, "difference")
    rng = np.random.default_rng(seed)
    signs = rng.integers(0, 2, size=(draws, len(d)), dtype=np.int8) * 2.0 - 1
    as_far = np.abs(signs @ d) >= abs(d.sum()) - 1e-9
    return _result("sign_flip", d.mean(), (1 + as_far.sum()) / (draws + 1), d.mean(), "difference")


def permutation(a, b, draws=9999, seed=0):
    """Difference of the means of two groups against groups drawn from both together."""
    a, b = _arrays(a, b)
    if _few(a, b):
        return Result("permutation", None, None, None, "difference")
    pooled, rng = np.concatenate([a, b]), np.random.default_rng(seed)
    sums = rng.permuted(np.tile(pooled, (draws, 1)), axis=1)[:, : len(a)].sum(1)
    means = sums / len(a) - (pooled.sum() - sums) / len(b)
    difference = a.mean() - b.mean()
    as_far = np.abs(means) >= abs(difference) - 1e-9
    p = (1 + as_far.sum()) / (draws + 1)
    return _result("permutation", difference, p, difference, "difference")


def ks(a, b, draws=999, seed=0):
    """Two-sample Kolmogorov and Smirnov.

    With ties, or fewer than 50 of either, p is by permutation: scipy's is conservative there. With
    many ties p stays conservative: D takes few values, and p is below .05 in fewer than 5 % of
    draws without a difference (3 to 4 % for means of entities of ten questions).
    """
    a, b = _arrays(a, b)
    if _few(a, b):
        return Result("ks", None, None, None, "D")
    test = stats.ks_2samp(a, b)
    p = test.pvalue
    if min(len(a), len(b)) < 50 or len(np.unique([*a, *b])) < len(a) + len(b):
        values = np.sort(np.concatenate([a, b]))
        # D is read where a run of equal values ends.
        ends = np.append(values[1:] != values[:-1], True)
        steps = np.repeat([1 / len(a), -1 / len(b)], [len(a), len(b)])
        shuffled = np.random.default_rng(seed).permuted(np.tile(steps, (draws, 1)), axis=1)
        gaps = shuffled.cumsum(1)[:, ends]
        p = (1 + (np.abs(gaps).max(1) >= test.statistic - 1e-9).sum()) / (draws + 1)
    return _result("ks", test.statistic, p, test.statistic, "D")


def smallest_d(n, m, level=0.05):
    """The smallest D of `ks` that is significant for n and m items (asymptotic)."""
    return float(stats.kstwobign.isf(level) * np.sqrt((n + m) / (n * m)))


def mcnemar(a, b):
    """Exact McNemar test of two models' answers (1 right, 0 wrong) to the same items.

    Items count as independent.
    """
    a, b = _arrays(a, b)
    first, second = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    if first + second == 0:
        return Result("mcnemar", None, None, None, "odds_ratio")
    p = stats.binomtest(first, first + second).pvalue
    return _result("mcnemar", first - second, p, first / second if second else None, "odds_ratio")


def equivalence(a, b, margin, *, paired=True):
    """Two one-sided t-tests (Schuirmann 1987): p of the mean difference lying outside (-margin,
    margin).

    "Not significant" is not "the same": a small p here is what says the same, within the margin.
    """
    a, b = _arrays(a, b)
    if _few(a, b):
        return Result("tost", None, None, margin, "margin")
    if paired:
        d = a - b
        error, degrees, mean = d.std(ddof=1) / np.sqrt(len(d)), len(d) - 1, d.mean()
    else:
        (error, degrees), mean = _welch(a, b), a.mean() - b.mean()
    if error < 1e-12:
        # Nothing varies, so the mean difference is known: within the margin, outside it, or on it.
        beyond = abs(mean) - margin
        p = None if abs(beyond) < 1e-12 else float(beyond > 0)
        return _result("tost", None, p, margin, "margin")
    low, high = (mean + margin) / error, (mean - margin) / error
    p = max(stats.t.sf(low, degrees), stats.t.cdf(high, degrees))
    return _result("tost", min(low, -high), p, margin, "margin")


def holm(p):
    """Adjusted p-values (Holm 1979), for a few comparisons that were declared; None stays None."""
    known = sorted((v, i) for i, v in enumerate(p) if v is not None)
    adjusted, above = [None] * len(p), 0.0
    for rank, (value, i) in enumerate(known):
        above = max(above, min(1.0, value * (len(known) - rank)))
        adjusted[i] = above
    return adjusted


def benjamini_hochberg(p):
    """Adjusted p-values (Benjamini and Hochberg 1995), for a screen of many; None stays None."""
    known = [i for i, v in enumerate(p) if v is not None]
    adjusted = [None] * len(p)
    if known:
        values = stats.false_discovery_control([p[i] for i in known])
        for i, value in zip(known, values, strict=True):
            adjusted[i] = float(value)
    return adjusted
