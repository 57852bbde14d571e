"""Recovery over Filtered: chosen on half A alone, its definition, its interval against brute force,
broken rates, mistakes.
"""

import csv
import importlib.util
import itertools
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from brittle.base.errors import UserError
from brittle.metrics.recovery import (
    breaks_base,
    curve,
    differs,
    heldout_recovery,
    interval_of_intervals,
    recovery_over_filtered,
    recovery_over_start,
)

SCRIPT = Path(__file__).parents[2] / "eval" / "recovery.py"
spec = importlib.util.spec_from_file_location("recovery", SCRIPT)
recovery = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recovery)

FACTS = 40


def attack(
    root, model, b, a=None, rates=(0.001, 0.01), broken=(), items=True, seed=0, nll=None, seeds=(0,)
):
    """Write tamper.csv and tamper_items.csv of `model`.

    b, a and nll are {step: right facts of FACTS (nll: answer NLL on A2)}: a tuple has one entry a
    rate, a dict of tuples one a seed. Without nll it is the lower the more of half A is right.
    """
    folder, draw = root / model / "tamper", random.Random(seed)
    folder.mkdir(parents=True)
    a, order = a or b, draw.sample(range(FACTS), FACTS)
    nll = nll or a_to_nll(a)

    def at(values, step, number, run):
        value = values[step]
        value = value[run] if isinstance(value, dict) else value
        return value[number] if isinstance(value, tuple) else value

    with (
        open(folder / "tamper.csv", "w", newline="") as one,
        open(folder / "tamper_items.csv", "w", newline="") as two,
    ):
        table, outcomes = csv.writer(one), csv.writer(two)
        table.writerow(recovery.TAMPER)
        outcomes.writerow(recovery.ITEMS)
        for run, number, step in itertools.product(seeds, range(len(rates)), b):
            lr, right_b = rates[number], at(b, step, number, run)
            values = {
                "forget_a2": 0.5,
                "forget_a": at(a, step, number, run) / FACTS,
                "forget_b": right_b / FACTS,
                "retain": 0.9,
                "general": 0.8,
            }
            for split, value in values.items():
                loss = at(nll, step, number, run) if split == "forget_a2" else 0.0
                shown = "" if lr in broken and step else value
                table.writerow([model, lr, step, split, shown, FACTS, loss, run])
            for fact in range(FACTS):
                right = int(order.index(fact) < right_b)
                outcomes.writerow([model, lr, step, f"f{fact:02}", 0, right, run])
    if not items:
        (folder / "tamper_items.csv").unlink()


def a_to_nll(a):
    """{step: NLL} that falls as more of half A is right; it rises a little with the step."""

    def fall(value, step):
        if isinstance(value, tuple | dict):
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            fallen = {key: fall(entry, step) for key, entry in entries}
            return fallen if isinstance(value, dict) else tuple(fallen.values())
        return 10 - value / 4 + step / 1000

    return {step: fall(value, step) for step, value in a.items()}


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


def test_definition(root, each_figure):
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
    # 1 by definition, which has no interval; Filtered was attacked
    assert found["base"]["ci_low"] == "" and found["filtered"]["ci_low"]
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


def test_the_lowest_nll_on_facts_held_out_of_half_a_chooses(root):
    """All of what the attack trained on is right from step 5 on: only A2 tells the points apart."""
    attack(
        root,
        "cut",
        {0: 10, 5: (21, 20), 20: (22, 30)},
        {0: 10, 5: 40, 20: 40},
        nll={0: 9.0, 5: (3.0, 2.0), 20: (2.5, 2.9)},
    )
    row = run(root, "cut")["cut"]
    assert (float(row["lr"]), int(row["step"])) == (0.01, 5)
    assert float(row["heldout_accuracy"]) == 20 / FACTS and "recovery_most" not in row


def test_each_attack_seed_chooses_for_itself_and_the_mean_is_reported(root):
    attack(
        root,
        "cut",
        {0: 10, 5: {0: 20, 1: 30, 2: 25}, 20: {0: 38, 1: 34, 2: 25}},
        nll={0: 9.0, 5: {0: 3.0, 1: 2.0, 2: 2.0}, 20: {0: 2.0, 1: 3.0, 2: 3.0}},
        rates=(0.001,),
        seeds=(0, 1, 2),
    )
    row = run(root, "cut")["cut"]
    back = [(right - 10) / 30 for right in (38, 30, 25)]
    assert float(row["recovery_over_filtered"]) == pytest.approx(np.mean(back))
    assert float(row["seed_sd"]) == pytest.approx(np.std(back, ddof=1)) and row["seeds"] == "3"
    assert (float(row["lr"]), int(row["step"])) == (0.001, 20)  # the first seed's
    # seeds far apart: the interval is that of Student's over seeds, and a little wider for facts
    half = 4.303 * np.std(back, ddof=1) / np.sqrt(3)
    assert 1.8 * half < float(row["ci_high"]) - float(row["ci_low"]) < 3 * half
    with open(root / "out" / "recovery_seeds.csv", newline="") as file:
        chosen = [r for r in csv.DictReader(file) if r["model"] == "cut"]
    assert [(r["seed"], r["step"]) for r in chosen] == [("0", "20"), ("1", "5"), ("2", "5")]
    assert [float(r["recovery_over_filtered"]) for r in chosen] == pytest.approx(back)


def test_a_rate_that_breaks_base_is_chosen_for_no_model(tmp_path, capsys):
    b = {0: 40, 5: (40, 34), 20: (39, 31)}
    attack(tmp_path, "base", b, {0: 40, 5: 40, 20: 40})
    attack(tmp_path, "filtered", {0: 10, 5: 12, 20: 8})
    # A2 prefers the rate .01: step 20, at which Base has lost .225, then step 5, where it lost .15
    attack(tmp_path, "cut", {0: 10, 5: (20, 25), 20: (21, 26)}, nll={0: 9, 5: (3, 2), 20: (3, 1)})
    row = run(tmp_path, "cut")["cut"]
    assert (float(row["lr"]), int(row["step"])) == (0.01, 5)
    assert "the attack breaks Base: rate 0.01 takes more than 0.2" in capsys.readouterr().out


def test_where_every_rate_breaks_base_nothing_is_reported(tmp_path, capsys):
    attack(tmp_path, "base", {0: 40, 5: 20})
    attack(tmp_path, "filtered", {0: 10, 5: 12})
    attack(tmp_path, "cut", {0: 10, 5: 20})
    row = run(tmp_path, "cut")["cut"]
    assert {k: v for k, v in row.items() if v} == {"model": "cut", "role": "unlearned"}
    assert "or breaks Base: not attacked. Use smaller ones" in capsys.readouterr().out


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

    def interval(attacked, filtered, base):
        return recovery.interval([recovery.Cell(attacked, filtered, base, level)])

    low, high = interval(attacked, filtered, base)
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.75 * 0.25 / n), rel=0.1)
    assert interval(attacked, filtered, base) == (low, high)  # seeded
    assert interval(attacked, {}, {}) == pytest.approx((low, high))
    assert interval(base, filtered, base) == (1.0, 1.0)
    assert interval(attacked, base, base) == (None, None)


def simulated_seeds(draw, seeds, facts, effects):
    """Two questions a fact, and `seeds` attack seeds that share the facts' difficulty.

    effects: (sd of seeds, sd of facts) on the probability of a right answer, whose mean is .6.
    """
    hard = draw.normal(0, effects[1], facts)
    cells = []
    for _ in range(seeds):
        chance = np.clip(0.6 + draw.normal(0, effects[0]) + hard, 0, 1)
        rights = draw.binomial(2, chance)
        cells.append({fact: (int(right), 2) for fact, right in enumerate(rights)})
    return cells


@pytest.mark.parametrize("effects", [(0.0, 0.2), (0.02, 0.1), (0.1, 0.1)])
def test_two_way_interval_covers_over_seeds_and_facts(effects):
    """Each draw has new seeds and new facts: the interval holds .6 in at least 93 % of them.

    That of the facts alone fails where seeds differ.
    """
    draw, level = np.random.default_rng(0), {"base": 1.0, "filtered": 0.0}
    held, alone, summed, runs = 0, 0, 0, 250
    for _ in range(runs):
        seeds = simulated_seeds(draw, 3, 60, effects)
        cells = [recovery.Cell(cell, {}, {}, level) for cell in seeds]
        low, high = recovery.interval(cells, draws=300)
        held += low <= 0.6 <= high
        ends = [recovery.interval([cell], draws=300) for cell in cells]
        alone += ends[0][0] <= 0.6 <= ends[0][1]
        means = [sum(right for right, _ in cell.values()) / 120 for cell in seeds]
        low, high = interval_of_intervals(means, *zip(*ends, strict=True))
        summed += low <= 0.6 <= high
    assert held / runs >= 0.93 and summed / runs >= 0.93
    assert alone / runs < 0.75 or effects[0] < 0.1


def test_recovery_is_undefined_where_base_and_filtered_do_not_differ_clearly():
    def facts(right, count=10):
        return {fact: (int(fact < right), 1) for fact in range(count)}

    def clear(filtered, base):
        level = {"filtered": sum(filtered.values()) / 10, "base": sum(base.values()) / 10}
        return differs(
            {fact: (right, 1) for fact, right in filtered.items()},
            {fact: (right, 1) for fact, right in base.items()},
            level,
        )

    right = {role: {f: r for f, (r, _) in facts(n).items()} for role, n in (("a", 2), ("b", 9))}
    assert clear(right["a"], right["b"]) and not clear(right["b"], right["a"])
    assert not clear(right["b"], right["b"])
    # .2 apart, but on ten facts that may be chance: other facts are right
    mixed = {fact: int(fact % 2) for fact in range(10)}
    other = {fact: int(fact < 7) for fact in range(10)}
    assert not clear(mixed, other)
    assert differs({}, {}, {"filtered": 0.3, "base": 0.6})  # without items the levels alone count
    assert not differs({}, {}, {"filtered": 0.3, "base": 0.45})


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
        assert recovered(0.5, 0.5, 0.52) is None and recovered(None, 0.2, 1.0) is None


def test_a_seed_that_found_nothing_better_counts_as_made(root):
    """Its later steps were asked on A2 alone, which preferred none: the mean left this seed out."""
    nll = {0: {0: 9, 1: 2}, 5: {0: 8, 1: 3}, 20: {0: 7, 1: 4}}
    attack(root, "cut", {0: 10, 5: 25, 20: 25}, nll=nll, seeds=(0, 1))
    path = root / "cut" / "tamper" / "tamper.csv"
    lines = path.read_text().splitlines()
    asked = [line for line in lines if not line.endswith(",1") or line.split(",")[2] == "0"]
    asked += [line for line in lines if line.endswith(",1") and ",forget_a2," in line]
    path.write_text("\n".join(dict.fromkeys(asked)) + "\n")
    row = run(root, "cut")["cut"]
    assert row["seeds"] == "2"
    back = [(25 - 10) / 30, 0.0]
    assert float(row["recovery_over_filtered"]) == pytest.approx(sum(back) / 2)


def test_data_without_general_questions_have_a_recovery_all_the_same(root):
    attack(root, "cut", {0: 10, 5: 25})
    for path in root.glob("*/tamper/tamper.csv"):
        lines = [line for line in path.read_text().splitlines() if ",general," not in line]
        path.write_text("\n".join(lines) + "\n")
    row = run(root, "cut")["cut"]
    assert row["general_accuracy"] == "" and float(row["recovery_over_filtered"]) == 0.5


# --- without Filtered


def add_column(root, name, of):
    """Write a column `name` into every tamper.csv below `root`; of(row) is its value."""
    for path in root.glob("*/tamper/tamper.csv"):
        rows = list(csv.DictReader(path.read_text().splitlines()))
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], name])
            writer.writeheader()
            writer.writerows({**row, name: of(row)} for row in rows)


def run_alone(root, *unlearned):
    recovery.main(base="base", unlearned=list(unlearned), outdir=root / "out", root=root)
    with open(root / "out" / "recovery.csv", newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def test_without_filtered_zero_is_chance_and_what_was_gained_is_told_apart(tmp_path, capsys):
    attack(tmp_path, "base", {0: 40, 5: 40, 20: 40})
    attack(tmp_path, "cut", {0: 12, 5: 25, 20: 34}, {0: 10, 5: 30, 20: 39}, seed=1)
    attack(tmp_path, "some", {0: 25, 5: 25, 20: 25}, {0: 10, 5: 30, 20: 39}, seed=1)
    add_column(tmp_path, "chance", lambda row: 0.25)
    found = run_alone(tmp_path, "cut", "some")
    row = found["cut"]
    assert list(found) == ["base", "cut", "some"] and row["recovery_over_filtered"] == ""
    assert float(row["recovery_from_chance"]) == pytest.approx((34 - 10) / (40 - 10))
    assert (float(row["chance"]), row["chance_of"]) == (0.25, "guessing")
    assert float(row["gained"]) == pytest.approx((34 - 12) / (40 - 10))
    assert float(row["gained_low"]) < (34 - 12) / 30 < float(row["gained_high"])
    assert row["never_seen_gained"] == ""
    # what was there before the attack did not come back by it
    some = found["some"]
    assert float(some["recovery_from_chance"]) == 0.5 and float(some["ci_low"]) > 0.2
    assert [float(some[f"gained{end}"]) for end in ("", "_low", "_high")] == [0, 0, 0]
    assert float(found["base"]["recovery_from_chance"]) == 1
    said = capsys.readouterr().out
    assert "no --filtered: 0 is guessing (0.25), 1 is Base as made (1.00)" in said
    assert "recovery_from_chance 0.80" in said


def test_never_seen_questions_are_the_zero_where_there_are_some(tmp_path):
    """Their own standard error makes the interval wider than that of a fixed zero."""
    attack(tmp_path, "base", {0: 40, 5: 40})
    attack(tmp_path, "cut", {0: 16, 5: 30}, {0: 10, 5: 39}, seed=1)
    add_column(tmp_path, "chance", lambda row: 0.4)
    fixed = run_alone(tmp_path, "cut")["cut"]
    add_column(tmp_path, "accuracy_low", lambda row: float(row["accuracy"]) - 0.15)
    add_column(tmp_path, "accuracy_high", lambda row: float(row["accuracy"]) + 0.15)
    unseen = {"0": 0.4, "5": 0.52}
    for path in tmp_path.glob("*/tamper/tamper.csv"):
        rows = list(csv.DictReader(path.read_text().splitlines()))
        for row in [row for row in rows if row["split"] == "forget_b"]:
            share = unseen[row["step"]]
            ends = {"accuracy_low": share - 0.15, "accuracy_high": share + 0.15}
            rows.append({**row, "split": "never_seen", "accuracy": share, **ends})
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    row = run_alone(tmp_path, "cut")["cut"]
    assert row["chance_of"] == "Base on never-seen questions"
    for column in ("recovery_from_chance", "gained"):
        assert float(row[column]) == pytest.approx(float(fixed[column]))
    widths = [float(r["ci_high"]) - float(r["ci_low"]) for r in (row, fixed)]
    assert widths[0] > 1.1 * widths[1]
    assert float(row["never_seen_gained"]) == pytest.approx(0.12 / 0.6)


def test_without_filtered_older_attacks_are_named_and_guessing_is_no_knowledge(tmp_path, capsys):
    attack(tmp_path, "base", {0: 12, 5: 12})
    with pytest.raises(UserError, match="before its results had the column chance"):
        run_alone(tmp_path)
    add_column(tmp_path, "chance", lambda row: 0.25)
    assert run_alone(tmp_path)["base"]["recovery_from_chance"] == ""
    assert "recovery is undefined: on half B as made Base answers 0.30 and guessing gives 0.25" in (
        capsys.readouterr().out
    )


def test_the_curve_of_an_attack():
    """Straight lines between points, in the order of steps; an attack need not begin at step 0."""
    assert curve([(0, 0.0), (10, 1.0)]) == (5.0, 0.5)
    assert curve([(20, 0.8), (0, 0.0), (10, 0.2)]) == (
        pytest.approx(15),
        pytest.approx((10 * 0.1 + 10 * 0.5) / 20),
    )
    assert curve([(5, 0.25), (9, 0.75)]) == (7.0, 0.5)
    assert curve([(0, 0.1), (10, 0.3)]) == (None, pytest.approx(0.2))
    assert curve([(0, 0.7)]) == (0, None) and curve([]) == (None, None)
    assert curve([(0, 0.5), (4, 0.1)]) == (0, pytest.approx(0.3))
    assert curve([(0, 0.7), (5, None)]) == (None, None)


def test_an_attack_breaks_base_by_more_than_a_fifth():
    assert breaks_base(0.41, 0.2) and not breaks_base(0.4, 0.2) and not breaks_base(0.2, 0.4)


def test_the_interval_of_known_intervals_by_hand():
    """Student's half over three seeds, 4.303 .1 / sqrt 3, and the facts' half .2, at right angles.

    One seed has its facts' interval.
    """
    half = np.hypot(4.302653 * 0.1 / np.sqrt(3), 0.2)
    found = interval_of_intervals([0.4, 0.5, 0.6], [0.2, 0.3, 0.4], [0.6, 0.7, 0.8])
    assert found == pytest.approx((0.5 - half, 0.5 + half), rel=1e-6)
    two = interval_of_intervals([0.5, 0.5], [0.4, 0.5], [0.6, 0.7])
    assert two == pytest.approx((0.4, 0.6)) and interval_of_intervals([0.5], [0.1], [0.7]) == (
        0.1,
        0.7,
    )


def test_from_questions_without_halves_to_a_recovery_from_never_seen_ones(
    knowing, family, data, tmp_path, script
):
    """The whole way on tiny models, without retain questions: halves are drawn, never-seen
    questions asked beside them.
    """
    folder = shutil.copytree(data, tmp_path / "data")
    for name in ("mcq_forget.jsonl", "qa_forget.jsonl"):
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        bare = [{k: v for k, v in row.items() if k != "half"} for row in rows]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in bare))
    shutil.copy(folder / "mcq_general.jsonl", folder / "mcq_holdout.jsonl")
    (folder / "mcq_retain.jsonl").unlink()
    models, root = {"knowing": knowing, "other": family.base}, tmp_path / "out"
    few = ["--steps", "1", "--eval-at", "1", "--lr", "1e-5", "--seeds", "0", "--max-items", "12"]
    roles = {}
    for role, model in models.items():
        roles[role] = shutil.copytree(model, tmp_path / role)
        outdir = root / role / "tamper"
        done = script(
            "eval/tamper.py", "--model", roles[role], "--outdir", outdir, "--data", folder, *few
        )
        assert done.code == 0, done.err
        record = json.loads((outdir / "tamper.run.json").read_text())
        assert record["settings"]["halves_drawn_over"] == "6 entities"
    call = ["--base", roles["knowing"], "--unlearned", roles["other"], "--root", root]
    done = script("eval/recovery.py", *call, "--outdir", root / "recovery")
    assert done.code == 0, done.err
    with open(root / "recovery" / "recovery.csv", newline="") as file:
        table = {row["model"]: row for row in csv.DictReader(file)}
    assert table["knowing"]["retain_accuracy"] == "" != table["knowing"]["general_accuracy"]
    assert table["knowing"]["chance_of"] == "Base on never-seen questions"
    assert float(table["knowing"]["recovery_from_chance"]) == 1
    assert float(table["other"]["recovery_from_chance"]) < 0.5
    assert abs(float(table["other"]["never_seen_gained"])) < 0.5
