"""Intervals: against scikit-learn and scipy, and by how often they hold the truth."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from brittle.filters.ablation import published
from brittle.maths import intervals

torch.set_num_threads(1)


def draw(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_auc_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    scores, labels = draw(200).mul(3).round(), draw(200, 1) > 0.3  # rounded: with ties
    assert intervals.fold_auc(scores, labels, torch.zeros(200))[0] == pytest.approx(
        roc_auc_score(labels, scores), abs=1e-12
    )
    assert intervals.auc(scores, labels) == roc_auc_score(labels, scores)
    infinite = torch.tensor([-torch.inf, 0.0, torch.inf, torch.inf])
    assert intervals.auc(infinite, torch.tensor([0, 0, 1, 0])) == 2.5 / 3
    assert (
        intervals.auc(labels.double(), labels) == 1
        and intervals.auc(torch.zeros(200), labels) == 0.5
    )


def test_wilson_is_statsmodels_formula_at_the_ends():
    assert intervals.wilson(0, 10)[0] == 0 and intervals.wilson(10, 10)[1] == 1
    low, high = intervals.wilson(50, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_auc_interval_holds_one_half():
    """Scores that say nothing: the 95 % interval holds 0.5 in about 95 % of draws."""
    labels, fold, held = torch.arange(100) % 2, torch.arange(100) // 20, 0
    for seed in range(200):
        _, low, high = intervals.fold_auc(draw(100, seed), labels, fold)
        held += low <= 0.5 <= high
    assert 0.88 < held / 200 < 0.99


def test_mean_interval_is_students():
    from scipy.stats import t

    x = draw(20)
    mean, low, high = intervals.mean_interval(x)
    wanted = t.interval(0.95, 19, float(x.mean()), float(x.std()) / 20**0.5)
    assert (low, high) == pytest.approx(wanted) and mean == pytest.approx(float(x.mean()))
    assert intervals.mean_interval([3.0]) == (3.0, None, None)


def test_resampling_keeps_the_count_and_the_seed():
    counts = intervals.resample(30, 50, 1, "x")
    assert (counts.sum(1) == 30).all() and torch.equal(counts, intervals.resample(30, 50, 1, "x"))
    assert not torch.equal(counts, intervals.resample(30, 50, 2, "x")) and not torch.equal(
        counts, intervals.resample(30, 50, 1, "y")
    )


def test_ratio_of_shares():
    part, whole = torch.rand(60, generator=torch.Generator().manual_seed(0)), torch.ones(60)

    def sample(inside):
        return intervals.Sample(inside, whole, 60)

    ratio, low, high = intervals.ratio_of_shares(sample(part), sample(part / 2), seed=1)
    assert ratio == pytest.approx(2) and low < 2 < high
    assert intervals.ratio_of_shares(sample(part * 0), sample(part * 0)) == (0, 0, 0)
    assert intervals.ratio_of_shares(sample(part), sample(part * 0)) == (None, None, None)


def test_no_quantile_of_nothing():
    assert intervals.quantiles(torch.tensor([torch.nan]), 10) == (None, None)


def test_auc_interval_covers_near_one():
    """M8: 20 and 20 texts at a true AUC of .92 and .97. On the plain scale DeLong held .92 in 87 %,
    .97 in 77 % of draws.
    """
    labels, fold, g = torch.arange(40) % 2, torch.zeros(40), torch.Generator().manual_seed(5)
    for truth in (0.92, 0.97):
        shift, held = (
            2**0.5 * float(torch.special.ndtri(torch.tensor(truth, dtype=torch.float64))),
            0,
        )
        for _ in range(300):
            scores = torch.randn(40, generator=g, dtype=torch.float64) + shift * labels
            value, low, high = intervals.fold_auc(scores, labels, fold)
            assert 0 <= low <= value <= high <= 1
            held += low <= truth <= high
        assert held / 300 > 0.92, truth


@pytest.mark.parametrize(
    "interval",
    [
        lambda scores, labels: intervals.fold_auc(scores, labels, torch.zeros(len(labels))),
        lambda scores, labels: published.auc_with_interval(scores.tolist(), labels.tolist()),
    ],
)
def test_auc_of_one_has_an_interval(interval):
    """M8: five texts told apart from thirty leave an AUC of 0.48 possible: 0.48^5 = 2.5 %."""
    scores, labels = torch.arange(35.0), torch.arange(35) >= 30
    assert interval(scores, labels) == (1.0, pytest.approx(0.478, abs=1e-3), 1.0)
    assert interval(-scores, labels) == (0.0, 0.0, pytest.approx(0.522, abs=1e-3))


def test_share_between_questions_and_entities():
    """One question an entity: Wilson over questions. Questions that repeat: as many as entities."""
    right = [1, 0, 0, 1, 1, 1, 0, 1]
    assert intervals.share(right) == (5 / 8, *intervals.wilson(5, 8))
    assert intervals.share(right, range(8)) == intervals.share(right, list("abcdefgh"))
    assert intervals.share(right, range(8)) == intervals.share(right)
    twice, pairs = [r for r in right for _ in range(2)], [i // 2 for i in range(16)]
    quantile = stats.t.ppf(0.975, 7)  # of eight groups; the effect is 2, estimated or not
    assert intervals.share(twice, pairs)[1:] == pytest.approx(intervals.wilson(5, 8, quantile))


@pytest.mark.parametrize("groups", [3, 8, 40])
def test_all_right_is_no_certainty(groups):
    names = [i % groups for i in range(10 * groups)]
    share, low, high = intervals.share([1] * len(names), names)
    assert (share, high) == (1, 1) and low == pytest.approx(intervals.wilson(groups, groups)[0])
    assert intervals.share([0] * len(names), names) == (0, 0, pytest.approx(1 - low))


def test_a_share_of_numbers_is_none():
    for answers in ([], [0.5, 1], [2]):
        with pytest.raises(AssertionError, match="right or wrong"):
            intervals.share(answers)


def test_prediction_interval_holds_the_next_draw():
    """M9: from three draws, the fourth lies within in 95 %; the interval of their mean held it in
    far fewer.
    """
    x, held, mean_held = draw(4 * 2000, 3).view(2000, 4), 0, 0
    for *three, fourth in x.tolist():
        mean, low, high = intervals.prediction_interval(three)
        held += low <= fourth <= high
        mean_held += (
            intervals.mean_interval(three)[1] <= fourth <= intervals.mean_interval(three)[2]
        )
        assert low <= mean <= high
    assert 0.935 < held / 2000 < 0.965 and mean_held / 2000 < 0.9
    assert intervals.prediction_interval([3.0]) == (3.0, None, None)


@pytest.mark.parametrize("units", [10, list("aabbbcdeff"), ["one"] * 10])
def test_ratios_of_halves_are_those_of_split_groups(units):
    inside = torch.arange(1.0, 11, dtype=torch.float64)
    whole = inside.square() + 1
    sample = intervals.Sample(inside, whole, units)
    ratios = intervals.ratios_of_halves(sample, 30, 5, "x")
    for i, ratio in enumerate(ratios.tolist()):
        one = intervals.split_groups(units, 2, 5, f"x{i}") == 1
        shares = [float(inside[side].sum() / whole[side].sum()) for side in (one, ~one)]
        assert ratio == pytest.approx(shares[0] / shares[1], rel=1e-12)
    assert len(set(ratios.tolist())) > 10


def test_share_by_its_formula():
    """The design effect of five entities, averaged with its largest value by how few are rare."""
    answers = {"a": [1, 1, 1, 0], "b": [1] * 4, "c": [0, 0], "d": [1] * 3, "e": [1, 0, 1, 1]}
    right = [x for own in answers.values() for x in own]
    groups = [name for name, own in answers.items() for _ in own]
    n, p = len(right), sum(right) / len(right)
    spread = sum((sum(own) - p * len(own)) ** 2 for own in answers.values())
    estimated = spread * 5 / 4 / n**2 / (p * (1 - p) / (n - 1))
    largest = sum(len(own) ** 2 for own in answers.values()) / n
    assert 1 < estimated < largest
    wrong = [len(own) - sum(own) for own in answers.values()]
    rare = sum(wrong) ** 2 / sum(x * x for x in wrong)
    unseen = (1 - rare / 5) * math.exp(-rare / intervals.RARE_GROUPS)
    effect = unseen * largest + (1 - unseen) * estimated
    wanted = intervals.wilson(sum(right) / effect, n / effect, stats.t.ppf(0.975, 4))
    assert intervals.share(right, groups) == pytest.approx((p, *wanted))


def test_bounded_mean_is_wilsons_of_as_many_answers():
    values = [0.2, 0.5, 0.9, 0.7]
    answers = 0.575 * 0.425 / (np.var(values, ddof=1) / 4)
    wanted = intervals.wilson(0.575 * answers, answers, stats.t.ppf(0.975, 3))
    assert intervals.bounded_mean(values) == pytest.approx((0.575, *wanted))


@pytest.mark.parametrize(
    ("fold", "freedom"),
    [([0] * 10, 3), ([0, 0, 1, 1, *[0, 1] * 3], 2), ([0, 1, 1, 2, *[0, 1, 2] * 2], 1)],
)
def test_auc_over_folds_is_delongs_with_students_quantile(fold, freedom):
    """Four positives and six negatives in one, two or three folds, and the other way round; a fold
    with one text of a class adds neither a degree of freedom nor, of that class, a variance.
    """
    scores, few, fold = draw(10, 7), torch.tensor([1] * 4 + [0] * 6), torch.tensor(fold)
    for labels in (few, 1 - few):
        check_folds(scores, labels, fold, freedom)


def check_folds(scores, labels, fold, freedom):
    values, variance = [], 0.0
    for f in fold.unique():
        inside = fold == f
        value, *placed = intervals.placements(scores[inside], labels[inside])
        values.append(value)
        variance += (
            sum(float(v.var()) / len(v) for v in placed if len(v) > 1) / len(fold.unique()) ** 2
        )
    mean = sum(values) / len(values)
    wanted = intervals.auc_bounds(mean, variance, 4, stats.t.ppf(0.975, freedom))
    assert 0 < mean < 1
    assert intervals.fold_auc(scores, labels, fold) == pytest.approx((mean, *wanted))


def test_auc_over_folds_of_one_positive_each_has_no_interval():
    fold = torch.tensor([0, 1, 2, *[0, 1, 2] * 2])
    _, *ends = intervals.fold_auc(draw(9, 1), [1] * 3 + [0] * 6, fold)
    assert ends == [None, None]


def test_levels_and_quantiles_by_their_formulas():
    low = stats.norm.cdf(-((10 / 9) ** 0.5) * stats.t.ppf(0.975, 9))
    assert intervals.levels(10) == pytest.approx((low, 1 - low))
    assert intervals.levels(1) == (0.0, 1.0)
    values = (torch.arange(2001) / 2000).double()  # uniform: a quantile is its own level
    assert intervals.quantiles(values, 10) == pytest.approx((low, 1 - low))
    # .6 of the draws lie below the value itself: Efron's correction moves both ends up
    bias = 2 * stats.norm.ppf(0.6)
    moved = [stats.norm.cdf(bias + stats.norm.ppf(end)) for end in (low, 1 - low)]
    assert intervals.quantiles(values, 10, 0.6) == pytest.approx(moved, abs=1e-3)


def test_halves_part_groups_and_items_where_there_is_one_group():
    pairs = list("aabbccdd")
    part = intervals.split_groups(pairs, 2, 0)
    assert torch.equal(part[::2], part[1::2]) and part.sum() == 4
    assert intervals.split_groups(["a"] * 4, 2, 0).sum() == 2
    sample = intervals.Sample(torch.tensor([1, 1, 3, 3]), torch.ones(4), list("aabb"))
    found = intervals.ratios_of_halves(sample, splits=20)
    assert set(found.round(decimals=6).tolist()) == {3.0, 0.333333}
