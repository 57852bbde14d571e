"""Recovery over Filtered: chosen on half A alone, its definition, its interval against brute force,
broken rates, mistakes.
"""

import csv
import importlib.util
import random
from pathlib import Path

import numpy as np
import pytest

from brittle.base.errors import UserError
from brittle.metrics.recovery import (
    GAP,
    heldout_recovery,
    recovery_over_filtered,
    recovery_over_start,
)

SCRIPT = Path(__file__).parents[2] / "eval" / "recovery.py"
spec = importlib.util.spec_from_file_location("recovery", SCRIPT)
recovery = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recovery)

FACTS = 40


def attack(root, model, b, a=None, rates=(0.001, 0.01), broken=(), items=True, seed=0):
    """Write tamper.csv and tamper_items.csv of `model`: b and a are {step: right facts of FACTS}, a
    tuple one entry a rate.
    """
    folder, draw = root / model / "tamper", random.Random(seed)
    folder.mkdir(parents=True)
    a, order = a or b, draw.sample(range(FACTS), FACTS)
    with (
        open(folder / "tamper.csv", "w", newline="") as one,
        open(folder / "tamper_items.csv", "w", newline="") as two,
    ):
        table, outcomes = csv.writer(one), csv.writer(two)
        table.writerow(recovery.TAMPER)
        outcomes.writerow(recovery.ITEMS)
        for number, lr in enumerate(rates):
            for step in b:
                right = [x[number] if isinstance(x, tuple) else x for x in (a[step], b[step])]
                values = {
                    "forget_a": right[0] / FACTS,
                    "forget_b": right[1] / FACTS,
                    "retain": 0.9,
                    "general": 0.8,
                }
                for split, value in values.items():
                    table.writerow(
                        [model, lr, step, split, "" if lr in broken and step else value, FACTS]
                    )
                for fact in range(FACTS):
                    outcomes.writerow(
                        [model, lr, step, f"f{fact:02}", 0, int(order.index(fact) < right[1])]
                    )
    if not items:
        (folder / "tamper_items.csv").unlink()


@pytest.fixture
def root(tmp_path):
    attack(tmp_path, "base", {0: 40, 5: 40, 20: 40})
    attack(tmp_path, "filtered", {0: 10, 5: 12, 20: 8}, {0: 10, 5: 20, 20: 38})
    return tmp_path


def run(root, *unlearned):
    recovery.main(
        base="base", filtered="filtered", unlearned=list(unlearned), outdir=root / "out", root=root
    )
    with open(root / "out" / "recovery.csv", newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def test_definition(root):
    attack(root, "cut", {0: 10, 5: 25, 20: 34}, {0: 10, 5: 30, 20: 39}, seed=1)
    found = run(root, "cut")
    row = found["cut"]
    assert float(row["recovery_over_filtered"]) == pytest.approx((34 - 10) / (40 - 10))
    assert (float(row["lr"]), int(row["step"]), row["role"]) == (0.001, 20, "unlearned")
    assert (
        float(row["recovery_early"]) == float(row["recovery_over_filtered"])
        and int(row["early_step"]) == 20
    )
    assert (float(row["retain_accuracy"]), float(row["general_accuracy"])) == (0.9, 0.8)
    assert float(row["ci_low"]) < 0.8 < float(row["ci_high"])
    assert (
        float(found["base"]["recovery_over_filtered"]) == 1 and found["base"]["step"] == "0"
    )  # a tie takes the smallest step
    assert float(found["filtered"]["recovery_over_filtered"]) == pytest.approx(-2 / 30)
    assert (root / "out" / "tamper.png").stat().st_size > 10_000


def test_half_b_has_no_say(root):
    # on B rate .01 at step 5 is best by far; A prefers rate .001 at step 20
    attack(root, "cut", {0: 10, 5: (10, 40), 20: (15, 20)}, {0: 10, 5: (12, 30), 20: (36, 33)})
    row = run(root, "cut")["cut"]
    assert (float(row["lr"]), int(row["step"]), float(row["heldout_accuracy"])) == (
        0.001,
        20,
        15 / FACTS,
    )
    shuffled = {
        (0.001, 20): {"forget_a": 0.9, "forget_b": 0.3},
        (0.01, 5): {"forget_a": 0.9, "forget_b": 1.0},
        (0.001, 5): {"forget_a": 0.9, "forget_b": 0.1},
    }
    assert recovery.choose(shuffled) == (0.001, 5)


def test_among_equals_the_fewest_steps_count_and_what_that_missed_is_said(root):
    # all of half A is right from step 5 on; half B is best at rate .01, step 20
    attack(root, "cut", {0: 10, 5: (21, 20), 20: (22, 30)}, {0: 10, 5: 40, 20: 40})
    row = run(root, "cut")["cut"]
    assert (float(row["lr"]), int(row["step"]), float(row["heldout_accuracy"])) == (
        0.001,
        5,
        21 / FACTS,
    )
    assert float(row["recovery_most"]) == pytest.approx(
        float(row["recovery_over_filtered"]) * (30 - 10) / (21 - 10)
    )
    equal = {(0.01, 5): {"forget_a": 1}, (0.001, 20): {"forget_a": 1}, (0.1, 0): {"forget_a": 0}}
    assert recovery.choose(equal) == (0.01, 5)


def test_a_broken_rate_is_skipped(root):
    attack(
        root,
        "cut",
        {0: 10, 5: (20, 39), 20: (24, 39)},
        {0: 10, 5: (30, 40), 20: (31, 40)},
        broken=(0.01,),
    )
    attack(root, "gone", {0: 10, 5: 20, 20: 24}, broken=(0.01, 0.001))
    found = run(root, "cut", "gone")
    assert (
        float(found["cut"]["lr"]) == 0.001 and float(found["cut"]["heldout_accuracy"]) == 24 / FACTS
    )
    assert {k: v for k, v in found["gone"].items() if v} == {"model": "gone", "role": "unlearned"}


def test_undefined_where_base_and_filtered_agree(tmp_path, capsys):
    attack(tmp_path, "base", {0: 11, 5: 11})
    attack(tmp_path, "filtered", {0: 10, 5: 12})
    attack(tmp_path, "cut", {0: 10, 5: 30})
    found = run(tmp_path, "cut")
    assert all(
        row["recovery_over_filtered"] == row["ci_low"] == row["recovery_early"] == ""
        for row in found.values()
    )
    assert capsys.readouterr().out.startswith("recovery is undefined")


def test_interval_without_items(root):
    attack(root, "cut", {0: 10, 5: 25}, items=False)
    row = run(root, "cut")["cut"]
    assert row["recovery_over_filtered"] and row["ci_low"] == row["ci_high"] == ""


def test_interval_is_the_bootstraps():
    """With filtered at 0 and base at 1 on every fact, recovery is a mean of n draws: sd sqrt(p q /
    n) for facts as clusters.
    """
    n, level = 400, {"base": 1.0, "filtered": 0.0}
    base, filtered = dict.fromkeys(range(n), (2, 2)), dict.fromkeys(range(n), (0, 2))
    attacked = {
        f: (2 * (f % 4 > 0), 2) for f in range(n)
    }  # both items of a fact alike: n clusters, not 2 n items
    low, high = recovery.interval(attacked, filtered, base, level)
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.75 * 0.25 / n), rel=0.1)
    assert recovery.interval(attacked, filtered, base, level) == (low, high)  # seeded
    assert recovery.interval(attacked, {}, {}, level) == pytest.approx((low, high))
    assert recovery.interval(base, filtered, base, level) == (1.0, 1.0)
    assert recovery.interval(attacked, base, base, level) == (None, None)


def test_mistakes(root):
    with pytest.raises(UserError, match=r"tamper\.csv not found"):
        run(root, "nobody")
    with pytest.raises(UserError, match="once"):
        run(root, "filtered")
    attack(root, "cut", {0: 10, 5: 25})
    (root / "base" / "tamper" / "tamper.csv").write_text("model,lr\nx,1\n")
    with pytest.raises(UserError, match="no column step"):
        run(root, "cut")


def test_three_recoveries_have_three_zeros():
    """One model, three questions: Filtered .25 as made and .40 attacked, Base 1 and .90, start
    .30.
    """
    accuracy = 0.65
    assert heldout_recovery(accuracy, 0.40, 0.90) == pytest.approx(0.5)
    assert recovery_over_filtered(accuracy, 0.25, 1.0) == pytest.approx(0.4 / 0.75)
    assert recovery_over_start(accuracy, 0.30, 1.0) == pytest.approx(0.5)
    for recovered in (heldout_recovery, recovery_over_filtered, recovery_over_start):
        assert [recovered(a, 0.25, 1.0) for a in (0.25, 1.0)] == [0, 1]
        assert recovered(0.5, 0.5, 0.5 + GAP / 2) is None and recovered(None, 0.2, 1.0) is None
