"""Intervals: against scikit-learn and scipy, and by how often they hold the truth."""

import pytest
import torch

from brittle import stats

torch.set_num_threads(1)


def draw(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_auc_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    scores, labels = draw(200).mul(3).round(), draw(200, 1) > 0.3  # rounded: with ties
    assert stats.auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    assert stats.auc(labels.double(), labels) == 1 and stats.auc(torch.zeros(200), labels) == 0.5


def test_wilson_is_statsmodels_formula_at_the_ends():
    assert stats.wilson(0, 10)[0] == 0 and stats.wilson(10, 10)[1] == 1
    low, high = stats.wilson(50, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_auc_interval_holds_one_half():
    """Scores that say nothing: the 95 % interval holds 0.5 in about 95 % of draws."""
    labels, fold, held = torch.arange(100) % 2, torch.arange(100) // 20, 0
    for seed in range(200):
        _, low, high = stats.fold_auc(draw(100, seed), labels, fold)
        held += low <= 0.5 <= high
    assert 0.88 < held / 200 < 0.99


def test_mean_interval_is_students():
    from scipy.stats import t

    x = draw(20)
    mean, low, high = stats.mean_interval(x)
    wanted = t.interval(0.95, 19, float(x.mean()), float(x.std()) / 20**0.5)
    assert (low, high) == pytest.approx(wanted) and mean == pytest.approx(float(x.mean()))
    assert stats.mean_interval([3.0]) == (3.0, None, None)


def test_resampling_keeps_the_count_and_the_seed():
    counts = stats.resample(30, 50, 1, "x")
    assert (counts.sum(1) == 30).all() and torch.equal(counts, stats.resample(30, 50, 1, "x"))
    assert not torch.equal(counts, stats.resample(30, 50, 2, "x")) and not torch.equal(counts, stats.resample(30, 50, 1, "y"))


def test_ratio_of_shares():
    part, whole = torch.rand(60, generator=torch.Generator().manual_seed(0)), torch.ones(60)
    ratio, low, high = stats.ratio_of_shares(part, whole, part / 2, whole, seed=1)
    assert ratio == pytest.approx(2) and low < 2 < high
    assert stats.ratio_of_shares(part * 0, whole, part * 0, whole) == (0, 0, 0)
    assert stats.ratio_of_shares(part, whole, part * 0, whole) == (None, None, None)


def test_no_quantile_of_nothing():
    assert stats.quantiles(torch.tensor([torch.nan])) == (None, None)
