"""Intervals that stand beside a sampled number: all 95 %, from a seed or from a closed form."""

import math
import zlib
from collections import Counter
from typing import NamedTuple

import torch

Z = 1.959963984540054  # two-sided 95 % of the normal distribution
FEWEST = 3  # units: fewer are no basis for an interval
# Of `share`: from about so many groups that show the rarer answer on, their variance is known. The
# least number with which simulated shares up to 95 % are covered in 93 % of draws.
RARE_GROUPS = 12
MOST_BIAS = 1.0  # of `quantiles`: standard errors; beyond, the draws say nothing of a value


def student(freedom):
    """Two-sided 95 % quantile of Student's t with so many degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


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
    that a question meets on average. The quantile is Student's with one degree of freedom less than
    there are groups.

    The estimated effect says little where few groups show the rarer answer: a group that is wrong
    as a whole may not have been met yet. So it is averaged with m, which has the weight
    (1 - g / G) exp(-g / RARE_GROUPS) where g of G groups show the rarer answer (`_rare_groups`).
    Where all answers are right, or none is, g is 0 and the effect m: 400 right of 400 in 40 groups
    count as 40 of 40. tests/maths/test_coverage.py holds the coverage for shares up to 95 %.

    The ends are None where fewer than FEWEST groups hold several questions each.
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
    whole = sum(size * size for size in sizes.values()) / n
    if whole <= 1:
        return Share(proportion, *wilson(correct, n))
    if len(sizes) < FEWEST:
        return Share(proportion, None, None)
    if correct in (0, n):
        return Share(proportion, *wilson(correct / whole, n / whole))
    estimated = min(whole, max(1.0, _design_effect(sizes, hits, n, proportion)))
    rare = _rare_groups(sizes, hits, proportion)
    unseen = (1 - rare / len(sizes)) * math.exp(-rare / RARE_GROUPS)
    effect = unseen * whole + (1 - unseen) * estimated
    return Share(proportion, *wilson(correct / effect, n / effect, student(len(sizes) - 1)))


def _design_effect(sizes, hits, n, proportion):
    """Variance of the mean over groups, over that of n independent answers.

    sizes, hits: {group: how many answers, how many right ones}.
    """
    squares = [(hits[group] - proportion * size) ** 2 for group, size in sizes.items()]
    over_groups = math.fsum(squares) * len(sizes) / (len(sizes) - 1) / n**2
    return over_groups / (proportion * (1 - proportion) / (n - 1))


def _rare_groups(sizes, hits, proportion):
    """In how many groups the rarer answer stands: (sum x)^2 / sum x^2 of its counts x by group.

    sizes, hits: as in `_design_effect`. A group that holds most of the rarer answers counts for
    most of the sum, so that few such groups count as few.
    """
    rare = [hits[g] if proportion <= 0.5 else size - hits[g] for g, size in sizes.items()]
    return sum(rare) ** 2 / sum(x * x for x in rare)


def number_groups(groups, count):
    """([count] int64 number of each one's group, how many groups there are).

    groups: a name for each of `count` texts, or None, and then each is a group of its own.
    """
    if groups is None:
        return torch.arange(count), count
    assert len(groups) == count, "a group for each text is wanted"
    numbers = {}
    for group in groups:
        numbers.setdefault(group, len(numbers))
    return torch.tensor([numbers[group] for group in groups]), len(numbers)


def mean_interval(values, groups=None):
    """(mean, low, high) of values by Student's t; no interval from a single one.

    groups [n]: what each value is about, where values of one group (an entity) are not independent.
    The variance is then that of a mean over groups (Liang and Zeger 1986, with G / (G - 1) for G
    groups), with G - 1 degrees of freedom, and there is no interval from fewer than FEWEST groups.
    Groups of one value each give Student's interval.
    """
    mean, variance, count = _mean_variance(values, groups)
    if variance is None:
        return mean, None, None
    half = student(count - 1) * variance**0.5
    return mean, mean - half, mean + half


def _mean_variance(values, groups):
    """(mean, its variance over groups, how many groups) of `mean_interval`; variance None where too
    few.
    """
    values = torch.as_tensor(values, dtype=torch.float64)
    mean, numbers, count = float(values.mean()), *number_groups(groups, len(values))
    if count < (2 if groups is None else FEWEST):
        return mean, None, count
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, numbers, values - mean)
    return mean, float(sums.square().sum()) * count / (count - 1) / len(values) ** 2, count


def bounded_mean(values, groups=None):
    """(mean, low, high) of values in [0, 1] (probabilities, scores); the ends lie within [0, 1].

    It is Wilson's interval with as many answers as would give the mean the variance that it has
    over groups, and Student's quantile. Groups, and where the ends are None: as in `mean_interval`.
    """
    mean, variance, count = _mean_variance(values, groups)
    if variance is None:
        return mean, None, None
    if variance == 0:
        return mean, mean, mean
    answers = mean * (1 - mean) / variance
    return mean, *wilson(mean * answers, answers, student(count - 1))


def mean_of(values, groups=None):
    """(mean, low, high) of values about `groups` [n] (entities; None: each value is its own).

    The interval is that of `share` where all values are 0 or 1, of `bounded_mean` where all lie
    between, else of `mean_interval`. Two values are no basis for the latter two: there is none.
    """
    if set(values) <= {0, 1}:
        return tuple(share(values, groups))
    within = min(values) >= 0 and max(values) <= 1
    own = range(len(values)) if groups is None else groups
    return (bounded_mean if within else mean_interval)(values, own)


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


def placements(scores, labels):
    """(AUC, [positives], [negatives]): of each text, the share of the other class that it beats.

    Of a positive it is the share of negatives that score lower, of a negative the share of
    positives that score higher; ties count one half. Both have the AUC as their mean.
    """
    scores, positive = torch.as_tensor(scores, dtype=torch.float64), torch.as_tensor(labels).bool()
    x, y = scores[positive], scores[~positive]
    above = (x[:, None] > y).double() + 0.5 * (x[:, None] == y).double()  # [positives, negatives]
    return float(above.mean()), above.mean(1), above.mean(0)


def edge(units):
    """The least share that `units` independent units, all of which are right, do not rule out.

    That is x with x^units = 2.5 % (Clopper and Pearson's bound).
    """
    return 0.025 ** (1 / units)


def auc_bounds(value, variance, units, z=Z):
    """(low, high) of an AUC by its variance on the logit scale; z: the quantile.

    That covers near 0 and 1, where the plain scale does not. At 0 or 1 the variance is 0 and says
    nothing. There the bound is `edge` of `units`, the independent texts or facts of the smaller
    class.
    """
    if value in (0, 1):
        return (edge(units), 1.0) if value == 1 else (0.0, 1 - edge(units))
    half = z * math.sqrt(variance) / (value * (1 - value))
    ends = torch.tensor([-half, half], dtype=torch.float64) + math.log(value / (1 - value))
    low, high = ends.sigmoid().tolist()
    return min(low, value), max(high, value)


def fold_auc(scores, labels, fold, units=None, groups=None):
    """(AUC, low, high), the mean over folds, on which `fold` [n] the texts' scores were made.

    The folds' scores come from different classifiers, so they do not compare with each other.
    units: how many of the smaller class are independent, by default its groups; see `auc_bounds`.
    groups [n]: what each text is about, where the texts of one group (an entity) are not
    independent; by default itself. The variance is DeLong's with the placements of a group's texts
    summed, of both classes and all folds (Obuchowski 1997). The quantile is Student's, with the
    groups of the smaller class less one in each fold. No interval from fewer than FEWEST groups.
    """
    scores, labels, fold = (torch.as_tensor(x).cpu() for x in (scores, labels, fold))
    numbers, count = number_groups(groups, len(labels))
    every, values = fold.unique(), []
    influence = torch.zeros(count, dtype=torch.float64)  # of a group on the mean over folds
    freedom = [0, 0]
    for f in every:
        inside = fold == f
        value, *by_class = placements(scores[inside], labels[inside])
        values.append(value)
        for side, placed in zip((1, 0), by_class, strict=True):
            members = numbers[inside & (labels == side)]
            own = len(members.unique())
            freedom[side] += own - 1
            correction = math.sqrt(own / (own - 1)) if own > 1 else 0.0
            share = correction / len(members) / len(every)
            influence.index_add_(0, members, (placed - value) * share)
    mean = sum(values) / len(values)
    sizes = [len(numbers[labels == side].unique()) for side in (1, 0)]
    if min(sizes) < FEWEST or min(freedom) < 1:
        return mean, None, None
    z = student(min(freedom))
    return mean, *auc_bounds(mean, float(influence.square().sum()), units or min(sizes), z)


def resample(units, draws, seed, name=""):
    """[draws, n] float64: how often a bootstrap sample holds each of n items.

    units: n, and then items are drawn; or [n] names of groups (entities), and then groups are
    drawn, each with all its items.
    """
    groups = None if isinstance(units, int) else units
    numbers, count = number_groups(groups, units if groups is None else len(groups))
    picked = torch.randint(count, (draws, count), generator=generator(seed, name))
    drawn = torch.zeros(draws, count, dtype=torch.float64).scatter_add_(
        1, picked, torch.ones_like(picked, dtype=torch.float64)
    )
    return drawn if groups is None else drawn[:, numbers]


def count_units(units):
    """How many `units` of `resample` are drawn: n, or the different names of groups."""
    return units if isinstance(units, int) else len(set(units))


def levels(n):
    """The probabilities (low, high) of the bounds of a 95 % percentile interval from n units.

    They are widened so that the interval covers like Student's (Hesterberg 2015, "expanded
    percentile").
    """
    if n < 2:
        return 0.0, 1.0
    from scipy.special import ndtr

    low = float(ndtr(-math.sqrt(n / (n - 1)) * student(n - 1)))
    return low, 1 - low


def quantiles(values, units, measured=None):
    """(low, high), 95 %, of the finite values of a bootstrap, None where there is none.

    units: how many items or groups were drawn. The quantiles are widened for so many
    (`levels`), and from fewer than FEWEST there are none.
    measured: the value itself, where sampling moves it to one side: a distance is larger between
    means of few texts, and larger still between means of resampled ones. The quantiles are then
    Efron's (1987), corrected for the share of draws that lie below it, by MOST_BIAS at most.
    """
    from scipy.special import ndtr, ndtri

    values = torch.as_tensor(values, dtype=torch.float64)
    values = values[values.isfinite()]
    if not len(values) or units < FEWEST:
        return None, None
    ends = levels(units)
    if measured is not None:
        below = float(
            (values < measured).double().mean() + (values == measured).double().mean() / 2
        )
        bias = min(MOST_BIAS, max(-MOST_BIAS, float(ndtri(below))))
        ends = [float(ndtr(2 * bias + ndtri(end))) for end in ends]
    low, high = torch.quantile(values, torch.tensor(ends, dtype=torch.float64)).tolist()
    return low, high


def split_groups(units, parts, seed, name=""):
    """[n] int64: which of `parts` random parts each item is in; the parts have one size.

    units: as in `resample`; the items of a group are never parted. Where there are fewer groups
    than parts, items are parted.
    """
    numbers, count = _number_parted(units, parts)
    return _part_of_group(count, parts, seed, name)[numbers]


def _number_parted(units, parts):
    """`number_groups` of what is dealt to the parts: groups, or items where groups are too few."""
    if not isinstance(units, int) and count_units(units) < parts:
        units = len(units)
    groups = None if isinstance(units, int) else units
    return number_groups(groups, units if groups is None else len(groups))


def _part_of_group(count, parts, seed, name):
    """[count] int64: which of the parts each group is dealt to."""
    order = torch.randperm(count, generator=generator(seed, name))
    of_group = torch.empty(count, dtype=torch.int64)
    of_group[order] = torch.arange(count) * parts // count
    return of_group


class Sample(NamedTuple):
    """One side of a ratio of shares: two tensors [n], and what is drawn (see `resample`)."""

    inside: torch.Tensor
    whole: torch.Tensor
    units: object  # n, or [n] names of groups


def ratio_of_shares(one, other, draws=1000, seed=0, name=""):
    """(ratio, low, high) of (sum inside / sum whole) of one `Sample` over that of another.

    The units of each sample are drawn with replacement, each sample by itself.
    """

    def shares(sample, side):
        counts = resample(sample.units, draws, seed, name + side)
        drawn = (counts @ sample.inside.double()) / (counts @ sample.whole.double())
        return float(sample.inside.sum() / sample.whole.sum()), drawn

    (value, many), (against, others) = shares(one, "/a"), shares(other, "/b")
    if against == 0:
        return (0.0, 0.0, 0.0) if value == 0 else (None, None, None)
    units = min(count_units(one.units), count_units(other.units))
    return value / against, *quantiles(many / others, units)


def ratios_of_halves(sample, splits=200, seed=0, name=""):
    """[splits]: (sum inside / sum whole) of one random half of a `Sample` over that of the other.

    The halves part groups (entities), never the items of one; split i is that of `split_groups`
    for name + i. Not finite where a half has no whole.
    """
    numbers, count = _number_parted(sample.units, 2)
    dealt = [_part_of_group(count, 2, seed, f"{name}{i}") for i in range(splits)]
    half = torch.stack(dealt)[:, numbers]
    shares = [
        (weights @ sample.inside.double()) / (weights @ sample.whole.double())
        for weights in (half.double(), 1 - half.double())
    ]
    return shares[0] / shares[1]
