"""The scoreboard: its numbers by hand, missing values, what it reads and shows; claims judged by
their intervals; curves.
"""

import csv
import importlib.util
import json

import pytest

from brittle.base.errors import UserError
from brittle.pipeline import methods
from brittle.report import attacks as attacks_module
from brittle.report import claims
from brittle.report import scoreboard as scoreboard_module
from brittle.report.claims import DIFFERS, FAILED, HELD, MISSING, NOT, OPEN, PASSED
from support import commands
from support.places import ROOT

spec = importlib.util.spec_from_file_location("scoreboard", ROOT / "experiment" / "scoreboard.py")
scoreboard = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scoreboard)
FACTS = 50


def cell(a, b, retain=1.0, note="", variant="v"):
    """What one attack left: accuracies on halves A and B (of FACTS, two questions each) and on
    retain.
    """

    def part(share, n=2 * FACTS):
        return {
            "accuracy": share,
            "accuracy_low": 0.0,
            "accuracy_high": 1.0,
            "n": n,
            "variant": variant,
            "read_sha256": "f",
        }

    facts = {f"f{i}": (2 * int(i < b * FACTS), 2) for i in range(FACTS)}
    splits = {"forget_a": part(a), "forget_b": part(b), "retain": part(retain, 60)}
    return {"splits": splits, "facts": facts, "note": note}


def boards(**methods):
    made = {
        "base": {("none", 0): cell(1, 1), ("cut", 0): cell(1, 0.9)},
        "filtered": {("none", 0): cell(0.2, 0.2), ("cut", 0): cell(1, 0.3)},
    }
    return made | methods


def test_recovery_is_between_filtered_and_base_under_the_same_attack():
    board = boards(npo={("none", 0): cell(0.2, 0.28), ("cut", 0): cell(1, 0.6, 0.9)})
    table = {(r["method"], r["attack"]): r for r in scoreboard.rows(board, ["none", "cut"], [0])}
    assert scoreboard.COLUMNS[:6] == [
        "method",
        "attack",
        "seed",
        "forget_accuracy",
        "heldout_recovery",
        "retain_accuracy",
    ]
    row = table["npo", "cut"]
    assert row["heldout_recovery"] == pytest.approx((0.6 - 0.3) / (0.9 - 0.3)) and row[
        "forget_accuracy"
    ] == pytest.approx(0.8)
    assert (row["retain_accuracy"], row["heldout_accuracy"], row["n_forget"], row["n_heldout"]) == (
        0.9,
        0.6,
        200,
        100,
    )
    assert row["heldout_recovery_low"] < 0.5 < row["heldout_recovery_high"]
    for name, value in (("base", 1), ("filtered", 0)):
        assert [table[name, a]["heldout_recovery"] for a in ("none", "cut")] == [value, value]
    assert table["npo", "none"]["heldout_recovery"] == pytest.approx(0.1)


def test_without_filtered_recovery_is_from_chance_and_base_as_made(tmp_path):
    board = boards(npo={("none", 0): cell(0.2, 0.28), ("cut", 0): cell(1, 0.6, 0.9)})
    del board["filtered"]
    with pytest.raises(UserError, match="before its results had the column chance"):
        list(scoreboard.rows(board, ["none", "cut"], [0]))
    board["base"]["none", 0]["splits"]["forget_b"]["chance"] = 0.25
    table = list(scoreboard.rows(board, ["none", "cut"], [0]))
    by = {(r["method"], r["attack"]): r for r in table}
    row = by["npo", "cut"]
    assert row["recovery_from_chance"] == pytest.approx((0.6 - 0.25) / (1 - 0.25))
    assert row["recovery_from_chance_low"] < 0.46 < row["recovery_from_chance_high"]
    assert row["heldout_recovery"] is None and row["chance_of"] == "guessing"
    assert by["base", "none"]["recovery_from_chance"] == 1
    html = attacks_module.board_html(table, tmp_path / "none.png")
    assert "Recovery from chance after each attack" in html and 'class="chance"' in html
    assert "no cell says that facts were removed" in html
    figure = scoreboard.plot(table, "title")
    assert figure.axes[0].get_title().startswith("recovery from chance")
    assert figure.axes[0].images[0].get_cmap().name == "plasma"
    claims_of = claims.claims(tmp_path, table)
    assert {claim.verdict for claim in claims_of} == {MISSING}
    # never-seen questions are the better zero
    unseen = {"accuracy": 0.4, "accuracy_low": 0.3, "accuracy_high": 0.5}
    board["base"]["none", 0]["splits"]["never_seen"] = unseen
    by = {(r["method"], r["attack"]): r for r in scoreboard.rows(board, ["none", "cut"], [0])}
    assert by["npo", "cut"]["recovery_from_chance"] == pytest.approx((0.6 - 0.4) / (1 - 0.4))
    assert by["npo", "cut"]["chance_of"] == "Base on never-seen questions"


def test_failed_attacks_are_missing_values():
    failed = {"splits": {}, "facts": {}, "note": "it broke"}
    board = boards(
        npo={("none", 0): cell(0.2, 0.2), ("cut", 0): failed},
        ga={("cut", 0): cell(1, 0.5), ("weak", 0): cell(1, 1)},
    )
    board["base"]["weak", 0], board["filtered"]["weak", 0] = cell(0.3, 0.22), cell(0.3, 0.2)
    table = {
        (r["method"], r["attack"]): r for r in scoreboard.rows(board, ["none", "cut", "weak"], [0])
    }
    row = table["npo", "cut"]
    assert row["note"] == "it broke"
    assert all(
        row[c] is None for c in scoreboard.COLUMNS if c not in ("method", "attack", "seed", "note")
    )
    assert (
        table["ga", "weak"]["heldout_recovery"] is None
        and "0.2 above Filtered" in table["ga", "weak"]["note"]
    )
    # an attack that takes more than .2 of half B from Base says so
    assert table["ga", "weak"]["note"].startswith("the attack breaks Base: half B falls from 1.00")
    assert "breaks" not in (table["ga", "cut"]["note"] or "")
    board["filtered"]["cut", 0] = failed
    row = next(r for r in scoreboard.rows(board, ["cut"], [0]) if r["method"] == "ga")
    assert (
        row["heldout_recovery"] is None
        and row["heldout_accuracy"] == 0.5
        and "failed on Base or on Filtered" in row["note"]
    )


def test_the_interval_of_a_mean_over_seeds_is_over_seeds_and_facts():
    def seed(value, half):
        columns = ("heldout_recovery", "heldout_recovery_low", "heldout_recovery_high")
        return dict(zip(columns, (value, value - half, value + half), strict=True))

    one = [seed(0.5, 0.1)]
    assert scoreboard_module.over_seeds(one) == pytest.approx((0.5, 0.4, 0.6))
    same = [seed(0.5, 0.1)] * 3  # the facts are shared: more seeds alone do not narrow it
    assert scoreboard_module.over_seeds(same) == pytest.approx((0.5, 0.4, 0.6))
    apart = [seed(value, 0.1) for value in (0.3, 0.5, 0.7)]
    mean, low, high = scoreboard_module.over_seeds(apart)
    student = 4.302653 * 0.2 / 3**0.5
    assert (mean, high - mean) == pytest.approx((0.5, (student**2 + 0.1**2) ** 0.5))
    assert mean - low == pytest.approx(high - mean)
    blank = dict.fromkeys(one[0])
    assert scoreboard_module.over_seeds([blank, *one]) == pytest.approx((0.5, 0.4, 0.6))
    assert scoreboard_module.over_seeds([blank]) == (None, None, None)
    assert attacks_module.cell(apart) == f"0.50 [{low:.2f}, {high:.2f}]".replace("-", "−")


def test_from_attacks_to_the_page(family, data, tmp_path, script):
    """eval/attack.py on two models, then the table, heat map and page from what it wrote; again:
    nothing to do.
    """
    for name in ("base", "filtered"):
        command = [
            "eval/attack.py",
            "--model",
            getattr(family, name),
            "--data",
            data,
            "--outdir",
            tmp_path / name,
            "--attacks",
            "lens",
            "--seeds",
            "0,1",
            "--max-items",
            "8",
        ]
        done = script(*command)
        assert done.code == 0, done.err
    again = script(*command).out
    assert (
        " s, of CPU " in done.out and " s, of CPU " not in again and done.out.endswith(again)
    )  # no cell is made again
    assert len(list((tmp_path / "base" / "cells").iterdir())) == 4
    found = {name: scoreboard.read(tmp_path / name) for name in ("base", "filtered")}
    assert set(found["base"]) == {(a, s) for a in ("none", "lens") for s in (0, 1)}
    for one in found["base"].values():
        right = [float(one["splits"]["forget_b"][k]) for k in ("accuracy", "n")]
        assert sum(r for r, _ in one["facts"].values()) == pytest.approx(right[0] * right[1])
    head, *lines = [line.split() for line in again.splitlines()]
    assert head == ["attack", "seed", "variant", "half", "A", "half", "B", "retain"]
    for attack, seed, *_, a, b, retain in lines[:4]:
        splits = found["filtered"][attack, int(seed)]["splits"]
        shares = [float(splits[s]["accuracy"]) for s in ("forget_a", "forget_b", "retain")]
        assert [a, b, retain] == [f"{share:.3f}" for share in shares]
    assert lines[4:] == [
        ["accuracy", "by", "guessing:", "0.250"],
        [f"{tmp_path}/filtered/attacks.csv:", "all", "variants"],
    ]
    table = list(scoreboard.rows(found | {"npo": found["base"]}, ["none", "lens"], [0, 1]))
    assert len(table) == 12
    figure = scoreboard.plot(table, "tiny")
    figure.savefig(tmp_path / "scoreboard.png")
    page = attacks_module.board_page(table, ["rmu"], tmp_path / "scoreboard.png", tmp_path)
    assert (
        "No model, so not in the table: rmu." in page and "1 unlearned model under 1 attack" in page
    )
    with open(tmp_path / "scoreboard.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, scoreboard.COLUMNS)
        writer.writeheader()
        writer.writerows(table)
    assert [s[0] for s in attacks_module.sections(tmp_path)] == ["scoreboard", "claims"]
    assert tmp_path / "scoreboard.csv" in attacks_module.sources(tmp_path)
    assert attacks_module.sections(tmp_path / "base") == []


def test_models_that_exist_and_those_that_do_not(tmp_path, script):
    folder = tmp_path / "b__npo" / "unlearned_model"
    folder.mkdir(parents=True)
    assert methods.found_models(tmp_path, "b", ["npo", "ga"]) == ({}, ["npo", "ga"])
    (folder / "config.json").write_text(json.dumps({}))
    assert methods.found_models(tmp_path, "b", ["npo", "ga"]) == ({"npo": str(folder)}, ["ga"])
    given = [str(tmp_path / "b__rmu" / "unlearned_model")]
    assert methods.unlearned_models(tmp_path, "b", "", given) == ({"rmu": given[0]}, [])
    (work,) = scoreboard.tasks({"npo": str(folder)}, tmp_path, ["--seeds", "0"])
    assert work.command[:3] == ["eval/attack.py", "--model", str(folder)]
    assert work.output == tmp_path / "b__npo" / "attacks" / "attacks.csv"
    for task in scoreboard.claim_tasks({"base": "b", "npo": str(folder)}, tmp_path, tmp_path):
        text = script(task.command[0], "--help").out.split()
        assert all(part in text for part in task.command if part.startswith("--"))
    mistakes = {
        "create_all_unlearning_models.sh --root": ["--root", tmp_path / "empty"],
        "Name models that lie elsewhere with --unlearned": ["--root", tmp_path / "empty"],
        "no attack 'x'": ["--attacks", "x"],
        "--seeds a": ["--seeds", "a"],
        "--seeds 0,0: different": ["--seeds", "0,0"],
        "no method 'x'": ["--methods", "x"],
    }
    for words, options in mistakes.items():
        done = script("experiment/scoreboard.py", *options)
        assert done.code == 2 and words in done.err and len(done.err.splitlines()) == 1


def test_the_advice_fits_models_and_data_of_ones_own(tmp_path, script):
    """First use 18: "make them with create_all_unlearning_models.sh" makes mini models."""
    make = "./unlearn/create_all_unlearning_models.sh"
    assert methods.how_to_make("outputs", "outputs/models/mini-base") == make
    assert methods.how_to_make("outputs", "outputs/models/mini-base", ["npo", "ga"]) == (
        f"{make} --methods npo,ga"
    )
    own = ["--base", "my base", "--filtered", "f", "--data", "my_data", "--methods", "npo"]
    done = script("experiment/scoreboard.py", *own, "--root", tmp_path)
    wanted = f"{make} --base 'my base' --filtered f --data my_data --root {tmp_path} --methods npo"
    assert done.code == 2 and done.err.rstrip().endswith(wanted), done.err
    done = script("unlearn/methods_table.py", "--model", "b", "--root", tmp_path)
    assert done.err.rstrip().endswith(f"{make} --base b --data DIR --root {tmp_path}")
    parsed = commands.parse(*commands.split(wanted))
    assert parsed["base"] == "my base" and parsed["methods"] == "npo"


def test_the_models_of_a_searchs_settings_are_made_and_compared(family, brief, tmp_path, script):
    """best.toml of a search goes into the scoreboard: two methods, of which one is asked for."""
    config, root = tmp_path / "best.toml", tmp_path / "out"
    config.write_text("[npo]\nsteps = 1\nlr = 3e-3\n[ga]\nsteps = 2\n")
    own = ["--base", family.base, "--data", brief, "--root", root]
    makers = methods.by_config(config, [], family.base, brief, root)
    assert [task.name for task in makers.values()] == ["unlearn npo", "unlearn ga"]
    call = [*own, "--config", config, "--attacks", "none", "--max-items", 8]
    done = script("experiment/scoreboard.py", *call, "--methods", "npo", "--jobs", 1)
    assert done.code == 0, done.out + done.err
    record = json.loads((makers["npo"].output.parent / "training_history.run.json").read_text())
    assert record["rows"]["training_history.csv"] == 1
    assert record["settings"]["lr"] == 3e-3
    with open(root / "scoreboard.csv", newline="") as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"base", "npo"}
    assert makers["npo"].why() is None and makers["ga"].why() == "no output yet"
    mistakes = {
        "has no table [rmu]; it has npo, ga": ["--config", config, "--methods", "rmu"],
        "leave --unlearned out": ["--config", config, "--unlearned", family.base],
        "No such file": ["--config", tmp_path / "none.toml"],
    }
    for words, options in mistakes.items():
        done = script("experiment/scoreboard.py", *own, *options)
        assert done.code == 2 and words in done.err and len(done.err.splitlines()) == 1


def test_weights_that_are_gone_are_said_before_the_work(tmp_path):
    """Each attack of such a model ended in an error, behind those of all others."""
    model = tmp_path / "b__npo" / "unlearned_model"
    model.mkdir(parents=True)
    (model / "weights.removed.json").write_text('{"model.safetensors": {"sha256": "0"}}')
    (work,) = scoreboard.tasks({"npo": str(model)}, tmp_path, [])
    make = f"--no-attack --data d --root {tmp_path} --methods npo"
    with pytest.raises(UserError, match=f"the weights of npo were removed .* {make}$"):
        scoreboard.check_weights([work], {"npo": str(model)}, tmp_path, "b", "d")
    scoreboard.check_weights([], {"npo": str(model)}, tmp_path, "b", "d")
    (model / "model.safetensors").write_text("made again")
    scoreboard.check_weights([work], {"npo": str(model)}, tmp_path, "b", "d")


def written(retain=1, **methods):
    """Scoreboard rows {method: {attack: recovery}}, with Filtered near its chance."""
    rows = []
    for method, attacks in methods.items():
        for attack, value in attacks.items():
            rows.append(
                {
                    "method": method,
                    "attack": attack,
                    "seed": 0,
                    "heldout_recovery": value,
                    "n_heldout": 400,
                    "heldout_recovery_low": None,
                    "heldout_accuracy": 0.25 + 0.75 * value,
                    "retain_accuracy": retain,
                    "variant": "v",
                }
            )
    return rows


def test_claims_about_methods_are_judged_by_all_of_them(tmp_path):
    rows = written(
        filtered={"none": 0, "relearn": 0.02, "lens": 0.05},
        base={"none": 1},
        **{
            f"m{i}": {
                "none": 0.05,
                "relearn": 0.9 + i / 100,
                "quantize": 0.05,
                "lens": (0.1, 0.9)[i % 2],
                "relearn_benign": 0.4 + i / 100,
            }
            for i in range(6)
        },
        kept={"none": 0.9, "relearn": 0.0, "quantize": 0.0, "relearn_benign": 0.0, "lens": 0.0},
    )
    found = {c.source: c for c in claims.claims(tmp_path, rows)}
    relearning, near, quantised, benign, collapse, lens, greedy = found.values()
    assert relearning.verdict == near.verdict == benign.verdict == HELD
    assert (
        relearning.number == 1
        and near.number == pytest.approx(0.925)
        and (near.low, near.high)
        == pytest.approx((0.9, 0.95))  # the spread of these methods, no interval
    )
    assert (
        quantised.verdict == NOT and quantised.number == 0
    )  # the model that still knew everything does not count
    assert lens.verdict == DIFFERS and lens.low < claims.GAIN < lens.high
    assert "mean and spread of the 6 methods" in lens.detail and "above 0.1 in 3" in lens.detail
    assert (
        collapse.verdict == greedy.verdict == MISSING
        and "collapse.py" in collapse.detail
        and greedy.number is None
    )
    assert all(c.verdict == MISSING for c in claims.claims(tmp_path, []))


def test_few_methods_tell_nothing_of_methods(tmp_path):
    def verdicts(**methods):
        return [c.verdict for c in claims.claims(tmp_path, written(base={"none": 1}, **methods))]

    back = {"none": 0.0, "relearn": 0.9}
    assert verdicts(a=back, b=back)[:2] == [OPEN, OPEN]
    assert verdicts(a=back, b=back, c=back)[:2] == [HELD, HELD]
    assert verdicts(a=back, b=back, c=back | {"relearn": 0.6})[:2] == [HELD, DIFFERS]
    assert verdicts(a=back, b=back, c=back | {"relearn": 0.1})[:2] == [DIFFERS, DIFFERS]
    gone = back | {"relearn": 0.0}
    assert verdicts(a=gone, b=gone, c=gone)[:2] == [NOT, NOT]


def test_what_is_so_by_construction_is_a_check_and_no_claim(tmp_path):
    rows = written(filtered={"none": 0, "relearn": 0.02, "lens": 0.05}, base={"none": 1})
    (stays,) = claims.checks(tmp_path, rows)
    assert stays.verdict == PASSED and "by construction" in stays.source
    assert stays.low < stays.number == pytest.approx(0.25 + 0.75 * 0.05)
    (leaks,) = claims.checks(tmp_path, [*written(filtered={"none": 0, "gcg": 0.8}), rows[-1]])
    assert leaks.verdict == FAILED and "gcg" in leaks.detail
    assert claims.checks(tmp_path, [])[0].verdict == MISSING
    assert not any("never saw" in claim.claim for claim in claims.claims(tmp_path, rows))
    table = attacks_module.claims_table(tmp_path, rows)
    assert table.index("Claims and what we measured") < table.index("A check of the attacks")
    assert table.count("passed") and ">held<" not in table


def test_the_ends_of_the_scale_show_their_accuracies():
    rows = [
        row | {f"heldout_accuracy_{end}": row["heldout_accuracy"] for end in ("low", "high")}
        for row in written(base={"none": 1}, filtered={"none": 0}, npo={"none": 0.1})
    ]
    table = attacks_module.board_table(rows)
    assert "<td>base (accuracy)</td><td>1.00 [1.00, 1.00]</td>" in table
    assert "<td>filtered (accuracy)</td><td>0.25 [0.25, 0.25]</td>" in table
    assert "<td>npo</td>" in table


def test_collapse_is_paired_by_seed(tmp_path):
    (tmp_path / "collapse").mkdir()
    lines = ["method,beta,lr,seed,collapse_step,threshold,forget_nll_end"]
    lines += [
        f"{m},,0.1,{s},{t},0.6,5"
        for s in range(3)
        for m, t in (("ga_simple", 10 + s), ("npo", 20 + 2 * s))
    ]
    steps = ["method,beta,lr,seed,step,retain_accuracy,forget_nll,n"]
    steps += [
        f"{m},,0.1,{s},{t},1,1,9"
        for m in ("ga_simple", "npo")
        for s in range(3)
        for t in (0, 10, 48, 20)
    ]
    (tmp_path / "collapse" / "collapse_steps.csv").write_text("\n".join(lines) + "\n")
    claim = claims.collapse(tmp_path)
    assert (claim.number, claim.verdict) == (11, HELD) and "11.0 against 22.0" in claim.detail
    assert "censored" not in claim.detail
    censored = (
        "\n".join(lines).replace(",20,", ",,").replace(",24,", ",,") + "\n"
    )  # NPO in seeds 0 and 2
    (tmp_path / "collapse" / "collapse_steps.csv").write_text(censored)
    claim = claims.collapse(tmp_path)
    assert (
        claim.verdict == OPEN and claim.number is None
    )  # no curves: nobody knows how long the runs were
    (tmp_path / "collapse" / "collapse.csv").write_text("\n".join(steps) + "\n")
    claim = claims.collapse(tmp_path)
    assert (
        claim.number == pytest.approx(((48 - 10) + (22 - 11) + (48 - 12)) / 3)
        and "3 paired seeds" in claim.detail
    )
    assert "0 runs of gradient ascent, 2 of NPO" in claim.detail
    both = (
        "\n".join(
            lines[:1] + [f"{m},,0.1,{s},,0.6,5" for s in range(3) for m in ("ga_simple", "npo")]
        )
        + "\n"
    )
    (tmp_path / "collapse" / "collapse_steps.csv").write_text(both)
    claim = claims.collapse(tmp_path)
    assert (claim.number, claim.verdict) == (0, OPEN)  # neither collapsed: no sooner and no later


def test_a_broken_model_is_no_unlearned_one():
    rows = (
        written(base={"none": 1})
        + written(0.95, good={"none": 0.1})
        + written(0.85, broken={"none": 0.1})
    )
    assert scoreboard_module.forgotten(scoreboard_module.board(rows)) == ["good"]
    half = [row | {"retain_accuracy": 0.5} if row["method"] == "base" else row for row in rows]
    assert scoreboard_module.forgotten(scoreboard_module.board(half)) == [
        "good",
        "broken",
    ]  # as good as Base: it is the data that are hard
    unknown = [row | {"retain_accuracy": None} if row["method"] == "good" else row for row in rows]
    assert scoreboard_module.forgotten(scoreboard_module.board(unknown)) == []


def test_median_steps_count_zero_never_and_the_boards_models_alone(tmp_path):
    (tmp_path / "methods").mkdir()

    def detail(**steps):
        lines = [
            "model,role,recovery_over_filtered,steps_to_half",
            "b,base,1,0",
            "f,filtered,0,",
            "b__away,unlearned,1,40",
            "b__kept,unlearned,1,40",
            "b__m9,unlearned,,",
        ]
        lines += [f"b__{name},unlearned,0.9,{step}" for name, step in steps.items()]
        (tmp_path / "methods" / "recovery.csv").write_text("\n".join(lines) + "\n")
        names = {f"m{i}": {"none": 0.1, "relearn": 0.9} for i in (1, 2, 3, 9)}
        cells = scoreboard_module.board(
            written(base={"none": 1}, kept={"none": 0.9, "relearn": 0.9}, **names)
        )
        return claims.relearning(cells, tmp_path).detail

    assert detail(m1=0, m2=4, m3=30).endswith("in 3 curves: median 4 (0 never get there)")
    assert detail(m1=0, m2=0, m3=30).endswith("median 0 (0 never get there)")
    assert detail(m1=10, m2=30, m3="").endswith("median 30 (1 never get there)")
    assert detail(m1=10, m2="", m3="").endswith("median never (2 never get there)")


def test_filtered_is_compared_with_the_interval_it_has_as_made(tmp_path):
    def claim(attacked, base=1.0, as_made=0.0, n=400):
        rows = written(base={"none": base}, filtered={"none": as_made, "cut": attacked})
        return claims.filtered_stays(
            scoreboard_module.board([row | {"n_heldout": n} for row in rows]), tmp_path
        )

    # 200 facts, .25 as made: [.19, .31]; low > .25 is no longer enough, low > .31 is
    assert claim(0.02).verdict == PASSED and claim(0.1).low > 0.25 and claim(0.1).verdict != FAILED
    assert claim(0.4).low > 0.32 and claim(0.4).verdict == FAILED
    # a third of the way to Base: with Base at .55 that is .35, and .29 with its interval of 200
    # facts does not end below
    assert (
        claim(0.05).verdict == PASSED
        and claim(0.05, base=0.4).verdict == OPEN
        and "below 0.35" in claim(0.05, base=0.4).detail
    )
    assert (
        claims.filtered_stays(
            scoreboard_module.board(written(filtered={"none": 0, "cut": 1})), tmp_path
        ).verdict
        == MISSING
    )  # no Base
    folder = tmp_path / "m" / "attacks"
    folder.mkdir(parents=True)
    lines = [
        f"{a},{s},v,f{i},1,4" for a, s in (("none", 0), ("none", 1), ("cut", 0)) for i in range(100)
    ]  # four questions a fact
    (folder / "attacks_items.csv").write_text(
        "\n".join(["attack,seed,variant,fact,right,asked", *lines]) + "\n"
    )
    assert (
        scoreboard_module.fact_count(tmp_path, 400) == 100
        and scoreboard_module.fact_count(tmp_path, 500) == 250
    )  # 500: another data set's file
    assert "over 100 facts" in claim(0.02).detail and "over 30 facts" in claim(0.02, n=60).detail


def test_bonferroni_is_wilsons_interval_of_a_smaller_level():
    from scipy.stats import binomtest

    wanted = binomtest(30, 120).proportion_ci(1 - 0.05 / 7, method="wilson")
    assert claims.bonferroni(0.25, 120, 7) == pytest.approx(tuple(wanted), abs=1e-12)


def test_what_a_model_cost_stands_in_its_rows(tmp_path):
    """FLOPs as a share of Filtered's training; nothing where a record does not say it."""
    stated = {"filtered": ("model", 400), "ga": ("training_history", 100)}
    for name, (file, flops) in stated.items():
        (tmp_path / name).mkdir()
        record = {"settings": {"cost": {"flops": flops, "label_share": 0.3}}}
        (tmp_path / name / f"{file}.run.json").write_text(json.dumps(record))
    costs = scoreboard.costs_of({n: tmp_path / n for n in ("base", "filtered", "ga")})
    assert (costs["ga"]["flops_share"], costs["ga"]["label_share"]) == (0.25, 0.3)
    assert costs["filtered"]["flops_share"] == 1
    assert set(costs["base"].values()) == {None}
