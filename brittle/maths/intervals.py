"""Intervals that stand beside a sampled number: all 95 %, from a seed or from a closed form."""

import math
import zlib
from collections import Counter
from typing import NamedTuple

import torch

Z = 1.959963984540054  # two-sided 95 % of the normal distribution


def generator(seed, name="", device="cpu"):
    """A generator for (seed, name) alone: a draw does not depend on what was drawn before it."""
    number = (seed * 1_000_003 + zlib.crc32(name.encode())) % 2**63
    return torch.Generator(device).manual_seed(number)


class Share(NamedTuple):
    """A share of right answers with its 95 % interval."""

    share: float
    low: float
    high: float


def wilson(correct, count, z=Z):
    """(low, high) of a proportion of independent draws (Wilson 1927); z: the normal quantile."""
    proportion, z2 = correct / count, z * z / count
    middle = proportion + z2 / 2
    half = z * math.sqrt(proportion * (1 - proportion) / count + z2 / count / 4)
    low = (middle - half) / (1 + z2) if correct else 0.0
    high = (middle + half) / (1 + z2) if correct < count else 1.0
    return low, high


def share(right, groups=None):
    """The `Share` of right answers, `right` [n] of 0 and 1, and its 95 % interval.

    groups [n]: what each question is about, by default itself. The questions of one group (an
    entity, a fact) are right or wrong together more often than chance has it, so they count as
    fewer than they are.

    The interval is Wilson's with n divided by the design effect (Kish 1965): the variance of the
    mean over groups against that over questions, 1 + (m - 1) rho for groups of m questions with
    correlation rho. The effect is kept within [1, m]; of unequal groups, m is the size of the group
    that a question meets on average. Where the effect is estimated, the quantile is Student's with
    one degree of freedom less than there are groups. Where all answers are right, or none is,
    nothing says what rho is, and it counts as 1: 400 right of 400 in 40 groups count as 40 of 40.
    From 30 groups on it covers shares of 25 to 85 % in at least 93 % (tests/maths/test_stats.py).
    Rarer errors that come by whole groups are covered less often: the few groups that show them
    say little of their variance.
    """
    right = [float(r) for r in right]
    assert right and set(right) <= {0, 1}, "a share needs answers that are right or wrong"
    n, correct = len(right), sum(right)
    proportion = correct / n
    sizes, hits = Counter(), Counter()
    for number, (hit, group) in enumerate(zip(right, groups or range(n), strict=True)):
        key = number if group is None else group
        sizes[key] += 1
        hits[key] += hit
    effect, z = sum(size * size for size in sizes.values()) / n, Z
    if effect > 1 and len(sizes) > 1 and 0 < correct < n:
        effect = min(effect, _design_effect(sizes, hits, n, proportion))
        if effect > 1:
            from scipy.special import stdtrit

            z = float(stdtrit(len(sizes) - 1, 0.975))
    if effect <= 1:
        return Share(proportion, *wilson(correct, n))
    return Share(proportion, *wilson(proportion * (n / effect), n / effect, z))


def _design_effect(sizes, hits, n, proportion):
    """Variance of the mean over groups, over that of n independent answers.

    sizes, hits: {group: how many answers, how many right ones}.
    """
    squares = [(hits[group] - proportion * size) ** 2 for group, size in sizes.items()]
    over_groups = math.fsum(squares) * len(sizes) / (len(sizes) - 1) / n**2
    return over_groups / (proportion * (1 - proportion) / (n - 1))


def mean_interval(values):
    """(mean, low, high) of independent values by Student's t; no interval from a single one."""
    values = torch.as_tensor(values, dtype=torch.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, None, None
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 0.975) * values.std() / len(values) ** 0.5)
    return mean, mean - half, mean + half


def prediction_interval(values):
    """(mean, low, high) within which 95 % of further single draws lie, by Student's t.

    `mean_interval` holds their mean.
    """
    mean, low, high = mean_interval(values)
    if low is None:
        return mean, None, None
    half = (high - mean) * (len(values) + 1) ** 0.5  # t s sqrt(1 + 1/n)
    return mean, mean - half, mean + half


def auc(scores, labels):
    """P(score of a 1 > score of a 0), ties half (Mann and Whitney).

    scores [n], labels [n] of 0 and 1, both of which must occur.
    """
    from sklearn.metrics import roc_auc_score

    # Only their order counts, and scikit-learn refuses infinite scores.
    ranks = torch.as_tensor(scores).unique(return_inverse=True)[1]
    return float(roc_auc_score(torch.as_tensor(labels).cpu().numpy(), ranks.cpu().numpy()))


def auc_variance(scores, labels):
    """AUC and its variance (DeLong, DeLong and Clarke-Pearson 1988)."""
    scores, positive = torch.as_tensor(scores, dtype=torch.float64), torch.as_tensor(labels).bool()
    x, y = scores[positive], scores[~positive]
    above = (x[:, None] > y).double() + 0.5 * (x[:, None] == y).double()  # [positives, negatives]
    by_x, by_y = above.mean(1), above.mean(0)
    spread = [float(v.var()) / len(v) if len(v) > 1 else 0.0 for v in (by_x, by_y)]
    return float(above.mean()), sum(spread)


def edge(units):
    """The least share that `units` independent units, all of which are right, do not rule out.

    That is x with x^units = 2.5 % (Clopper and Pearson's bound).
    """
    return 0.025 ** (1 / units)


def auc_bounds(value, variance, units):
    """(low, high) of an AUC by its variance on the logit scale.

    That covers near 0 and 1, where the plain scale does not. At 0 or 1 the variance is 0 and says
    nothing. There the bound is `edge` of `units`, the independent texts or facts of the smaller
    class.
    """
    if value in (0, 1):
        return (edge(units), 1.0) if value == 1 else (0.0, 1 - edge(units))
    half = Z * math.sqrt(variance) / (value * (1 - value))
    ends = torch.tensor([-half, half], dtype=torch.float64) + math.log(value / (1 - value))
    low, high = ends.sigmoid().tolist()
    return min(low, value), max(high, value)


def fold_auc(scores, labels, fold, units=None):
    """(AUC, low, high), the mean over folds.

    The folds' scores come from different classifiers, so they do not compare with each other.
    units: how many of the smaller class are independent, by default all its texts; see
    `auc_bounds`.
    """
    folds = [auc_variance(scores[fold == f], labels[fold == f]) for f in fold.unique()]
    mean = sum(value for value, _ in folds) / len(folds)
    variance = sum(variance for _, variance in folds) / len(folds) ** 2
    ones = int(torch.as_tensor(labels).bool().sum())
    units = units or min(ones, len(labels) - ones)
    return mean, *auc_bounds(mean, variance, units)


def resample(count, draws, seed, name=""):
    """[draws, count] float64: how often a bootstrap sample holds each of `count` items."""
    picked = torch.randint(count, (draws, count), generator=generator(seed, name))
    return torch.zeros(draws, count, dtype=torch.float64).scatter_add_(
        1, picked, torch.ones_like(picked, dtype=torch.float64)
    )


def quantiles(values):
    """(2.5 %, 97.5 %) of the finite values of a bootstrap, None where there is none."""
    values = torch.as_tensor(values, dtype=torch.float64)
    values = values[values.isfinite()]
    if not len(values):
        return None, None
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def ratio_of_shares(part, whole, part_other, whole_other, draws=1000, seed=0, name=""):
    """(ratio, low, high) of (sum part / sum whole) over the same of another sample.

    Each sample is two tensors [texts]. Texts are drawn with replacement, each sample by itself.
    """

    def shares(p, w, side):
        counts = resample(len(p), draws, seed, name + side)
        return float(p.sum() / w.sum()), (counts @ p.double()) / (counts @ w.double())

    (one, many), (other, others) = shares(part, whole, "/a"), shares(part_other, whole_other, "/b")
    if other == 0:
        return (0.0, 0.0, 0.0) if one == 0 else (None, None, None)
    return one / other, *quantiles(many / others)
