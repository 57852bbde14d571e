"""Intervals: against scikit-learn and scipy, and by how often they hold the truth."""

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
