"""Agreement of raters against published and second implementations; matching of values in texts."""

import pytest
from sklearn.metrics import cohen_kappa_score

from brittle.maths import agreement


def test_krippendorffs_worked_example():
    """Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers,
    twelve units, gaps.
    """
    observers = [
        "123321412...",
        "12332241 25.3".replace(" ", ""),
        ".33323422 51.".replace(" ", ""),
        "12332441 251.".replace(" ", ""),
    ]
    units = [[None if r[i] == "." else int(r[i]) for r in observers] for i in range(12)]
    labels = [1, 2, 3, 4, 5]
    for scale, value in (("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)):
        assert agreement.krippendorff_alpha(units, labels, scale) == pytest.approx(value, abs=5e-4)
    low, high = agreement.alpha_interval(units, labels, draws=200)
    assert low < 0.743 < high
    assert agreement.krippendorff_alpha([[1, 1], [1, 1]], labels) is None  # nothing varies
    assert agreement.krippendorff_alpha([[1, None]], labels) is None


def test_kappa_is_sklearns_and_ac1_is_not_fooled_by_skew():
    a, b = list("aabbbcccaa"), list("abbbbccaaa")
    assert agreement.cohen_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b))
    assert agreement.cohen_kappa(["x"] * 5, ["x"] * 5) is None
    skewed = (["n"] * 18 + ["y", "n"], ["n"] * 18 + ["n", "y"])
    assert agreement.cohen_kappa(*skewed) < 0 < 0.85 < agreement.gwet_ac1(*skewed)
