"""Intervals: against scikit-learn and scipy, and by how often they hold the truth."""

import pytest
import torch

from brittle.filters.ablation import published
from brittle.maths import intervals

torch.set_num_threads(1)


def draw(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_auc_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    scores, labels = draw(200).mul(3).round(), draw(200, 1) > 0.3  # rounded: with ties
    assert intervals.auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
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
    ratio, low, high = intervals.ratio_of_shares(part, whole, part / 2, whole, seed=1)
    assert ratio == pytest.approx(2) and low < 2 < high
    assert intervals.ratio_of_shares(part * 0, whole, part * 0, whole) == (0, 0, 0)
    assert intervals.ratio_of_shares(part, whole, part * 0, whole) == (None, None, None)


def test_no_quantile_of_nothing():
    assert intervals.quantiles(torch.tensor([torch.nan])) == (None, None)


def test_auc_interval_covers_near_one():
    """M8: 20 and 20 texts at a true AUC of .92 and .97. On the plain scale DeLong held .92 in 87 %, .97 in 77 % of draws."""
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


@pytest.mark.parametrize("interval", [
    lambda scores, labels: intervals.fold_auc(scores, labels, torch.zeros(len(labels))),
    lambda scores, labels: published.told_apart(scores.tolist(), labels.tolist()),
])  # fmt: skip
def test_auc_of_one_has_an_interval(interval):
    """M8: five texts told apart from thirty leave an AUC of 0.48 possible: 0.48^5 = 2.5 %."""
    scores, labels = torch.arange(35.0), torch.arange(35) >= 30
    assert interval(scores, labels) == (1.0, pytest.approx(0.478, abs=1e-3), 1.0)
    assert interval(-scores, labels) == (0.0, 0.0, pytest.approx(0.522, abs=1e-3))


def test_wilson_over_facts_covers_and_that_over_questions_does_not():
    """L7: 30 facts, four questions each that are often right together."""
    g, facts = torch.Generator().manual_seed(2), [i // 4 for i in range(120)]
    grouped = plain = 0
    for _ in range(300):
        known, own = (torch.rand(n, generator=g) < 0.5 for n in (30, 120))
        right = torch.where(
            (torch.rand(30, generator=g) < 0.5).repeat_interleave(4),
            known.repeat_interleave(4),
            own,
        )
        (low, high), (lower, higher) = (
            intervals.wilson_grouped(right, facts),
            intervals.wilson(int(right.sum()), 120),
        )
        grouped, plain = grouped + (low <= 0.5 <= high), plain + (lower <= 0.5 <= higher)
    assert grouped / 300 > 0.91 and plain / 300 < 0.85


def test_wilson_over_facts_between_items_and_facts():
    """One question a fact: Wilson over questions. Questions that repeat: Wilson over facts. All right: over facts as well."""
    right = [1, 0, 0, 1, 1, 1, 0, 1]
    assert intervals.wilson_grouped(right, range(8)) == pytest.approx(intervals.wilson(5, 8))
    twice = [r for r in right for _ in range(2)]
    assert intervals.wilson_grouped(twice, [i // 2 for i in range(16)]) == pytest.approx(
        intervals.wilson(5, 8)
    )
    assert intervals.wilson_grouped([1] * 16, [i // 2 for i in range(16)]) == pytest.approx(
        intervals.wilson(8, 8)
    )
    low, high = intervals.wilson_grouped(
        [1, 0, 1, 0], list("aaaa")
    )  # one fact says next to nothing
    assert low < 0.1 and high > 0.9


def test_prediction_interval_holds_the_next_draw():
    """M9: from three draws, the fourth lies within in 95 %; the interval of their mean held it in far fewer."""
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
