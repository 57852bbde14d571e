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
    # one unit, two ratings that differ: the disagreement is that of chance
    assert agreement.krippendorff_alpha([[1, 2]], labels) == 0


def test_kappa_is_sklearns_and_ac1_is_not_fooled_by_skew():
    a, b = list("aabbbcccaa"), list("abbbbccaaa")
    assert agreement.cohen_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b))
    assert agreement.cohen_kappa(["x"] * 5, ["x"] * 5) is None
    assert agreement.gwet_ac1(["x"] * 5, ["x"] * 5) == 1.0
    skewed = (["n"] * 18 + ["y", "n"], ["n"] * 18 + ["n", "y"])
    assert agreement.cohen_kappa(*skewed) < 0 < 0.85 < agreement.gwet_ac1(*skewed)


def test_ac1_by_hand():
    """Gwet 2008, equations 3 and 17: 8 of 10 agree; labels a, b, c have shares .4, .35, .25."""
    by_chance = (0.4 * 0.6 + 0.35 * 0.65 + 0.25 * 0.75) / 2
    wanted = (0.8 - by_chance) / (1 - by_chance)
    assert agreement.gwet_ac1("aabbbcccaa", "abbbbccaaa") == pytest.approx(wanted)
    # all agree: 1; none does: minus the ratio of chance
    assert agreement.gwet_ac1("ab", "ab") == 1 and agreement.gwet_ac1("ab", "ba") == -1
