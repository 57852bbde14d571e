"""The sequential log as configurations: each row is what the log says, at the log's own size, and
runs at another.
"""

import csv
import runpy

import pytest
import torch

from brittle.base.knobs import build
from brittle.base.tables import write_csv
from brittle.methods import method_class
from brittle.methods.sequential import phases
from brittle.metrics.recovery import recovery_over_start
from brittle.report import sequential
from brittle.unlearning.grid import AT, STEPS, Lab, scaled

SCRIPT = "unlearn/sequential_grid.py"


@pytest.fixture(scope="module")
def log():
    with open("unlearn/sequential_log.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def grid():
    return runpy.run_path(SCRIPT, run_name="grid")


def test_rows_are_the_logs_at_its_own_size_and_keep_their_depth_at_another(log):
    rows = [r for r in log if r["adapter"]]
    assert (
        len({(r["group"], r["run"]) for r in log}) == len(log)
        and len([r for r in rows if r["role"] == "log"]) == 48
    )
    for row in rows:
        knobs, settings = scaled(row, 32, 4096, 2048, 1.0, 1.0)
        assert knobs["layers"] == row["layers"] and knobs["retain_coef"] == float(
            row["retain_coef"]
        )
        assert settings["steps"] == int(row["steps"]) and settings["lr"] == float(row["lr"])
        for blocks, tokens in ((32, 2048), (4, 14)):
            knobs, _ = scaled(row, blocks, 128, tokens, 0.5, 2.0)
            rule = build(method_class("sequential"), "sequential", knobs)
            rule.adapters = row["adapter"] == "lora"
            rule.check()
            found = phases.parse_layers(rule.layers)
            assert found[0] <= blocks - 1 and len(found) == (
                len(phases.parse_layers(row["layers"])) if blocks == 32 else len(found)
            )
    by_name = {(r["group"], r["run"]): r for r in rows}
    short, _ = scaled(by_name["Same-sign", "3"], 4, 128, 16, 1, 1)
    assert (
        short["retain_coef"] == 200 * 2048 / 16 and short["layers"] == "3:1:1"
    )  # a sum over a text: a token keeps its weight
    fixed, _ = scaled(by_name["LoRA, max entropy, L2 retain", "1"], 8, 128, 16, 1, 1)
    assert fixed["retain_blocks"] == "1,2,3,5,6,7"


def test_recovery_is_the_logs_and_is_undefined_where_nothing_was_forgotten(grid, log):
    row = next(r for r in log if r["group"] == "LoRA, L2 retain" and r["run"] == "5")
    found = [recovery_over_start(float(row[f"log_tamper_{t}"]), 0.2696, 0.4297) for t in (10, 100)]
    assert found == pytest.approx([0.849, 0.928], abs=1e-3)
    assert (
        recovery_over_start(0.9, 0.97, 1.0) is None and recovery_over_start(None, 0.3, 1.0) is None
    )


def test_findings_are_paired_by_seed(grid):
    def row(run, seed, forget, kept):
        return {
            "role": "control",
            "run": run,
            "seed": seed,
            "forget_accuracy": forget,
            "retain_accuracy": kept,
            "general_accuracy": 1.0,
            "recovery_over_start_10": 0.9 + 0.01 * seed,
            "recovery_over_start_100": None,
        }

    table = [row("sum", s, 0.5 + 0.1 * s, 0.9) for s in range(3)] + [
        row("same_sign", s, 0.7 + 0.1 * s, 0.9) for s in range(3)
    ]
    table += [row("l2-1", s, 0.6, 0.9) for s in range(3)] + [
        row("l2-5", s, 0.3, 0.9) for s in range(3)
    ]
    table += [row("kl-30", s, 0.3, 0.8) for s in range(3)]
    found = {(f["finding"].split()[0], f["measure"]): f for f in grid["findings"](table)}
    assert found["same-sign", "forget_accuracy"]["mean"] == pytest.approx(0.2)
    assert found["same-sign", "forget_accuracy"]["low"] == pytest.approx(
        0.2
    )  # the seeds' own levels cancel
    assert found["L2", "selectivity"]["mean"] == pytest.approx(0.1)  # the better of its two weights
    back = found["recovery", "recovery_over_start_10"]
    assert (
        back["mean"] == pytest.approx(0.91) and back["low"] < 0.91 < back["high"] and back["n"] == 3
    )


def test_the_grid_runs_a_row_and_the_report_shows_it(family, data, tmp_path, script):
    out = tmp_path / "sequential"
    more = [
        "--model",
        family.base,
        "--data",
        data,
        "--outdir",
        out,
        "--steps-scale",
        "0.02",
        "--max-items",
        "5",
        "--batch-size",
        "2",
    ]
    done = script(SCRIPT, *more, "--only", "l2-sp, chat/21", "--device", "cpu")
    assert done.code == 0, done.err
    with open(out / "results.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (
        row["filled"] == "mini"
        and row["retain_loss"] == "kl_sum"
        and row["layers"] == "1:0:1"
        and row["seed"] == "0"
    )
    assert all(
        0 <= float(row[f"{s}_low"]) <= float(row[f"{s}_accuracy"]) <= float(row[f"{s}_high"]) <= 1
        for s in ("forget", "retain", "general", "heldout")
    )
    assert int(row["attack_step"]) in STEPS
    if int(row["attack_step"]) in AT:
        assert row["heldout_accuracy_attacked"] == row[f"heldout_accuracy_{row['attack_step']}"]
    assert (
        row["heldout_accuracy_10"]
        and row["heldout_accuracy_100"]
        and row["heldout_accuracy_attacked"]
        and row["n"] == "5"
        and row["log_wmdp"] == ""
    )
    assert {f.name for f in out.iterdir()} >= {"sequential.png", "findings.csv", "results.run.json"}
    ((anchor, _, html),) = sequential.sections(tmp_path)
    assert (
        anchor == "sequential" and "chat / 21*" in html and len(sequential.sources(tmp_path)) == 3
    )
    assert "chat / 21*" in script(SCRIPT, "--outdir", out, "--markdown").out
    done = script(SCRIPT, *more, "--only", "no such group")
    assert done.code == 2 and "no such group" in done.err
    done = script(SCRIPT, *more[:-2], "--batch-size", "3", "--only", "chat/21")
    assert done.code == 2 and "other settings" in done.err
    assert (
        script(SCRIPT, *more, "--only", "baseline", "--device", "cpu").code == 0
    )  # joins what was measured before
    with open(out / "results.csv", newline="") as file:
        assert list(csv.DictReader(file))[1] == row
    assert sequential.sections(tmp_path / "none") == []


def test_a_row_that_broke_has_empty_cells(tmp_path, grid):
    row = dict.fromkeys(grid["COLUMNS"]) | {
        "group": "g",
        "run": "1",
        "role": "log",
        "note": "step 3: ... is nan",
    }
    write_csv(tmp_path / "results.csv", grid["COLUMNS"], [row])
    assert "– / – / –" in sequential.markdown(tmp_path)


def test_the_attack_chooses_its_step_without_half_b(monkeypatch):
    """The step with the highest merit counts, not the one at which half B is answered best."""
    half_b = {5: 0.9, 10: 0.5, 20: 0.6, 50: 0.3, 100: 0.2}
    merits = {5: -3.0, 10: -2.0, 20: -1.0, 50: -1.0, 100: -4.0}
    now = []

    def relearn(model, seed, measure):
        for step in STEPS:
            now[:] = [step]
            measure(step, merits[step])

    nothing = dict.fromkeys(("base", "tokenizer", "sets", "items", "chats", "accelerator"))
    lab = Lab(**nothing, relearn=relearn, batch_size=1)
    monkeypatch.setattr(lab, "measure", lambda model, splits: {"heldout_accuracy": half_b[now[0]]})
    assert lab.attack(torch.nn.Linear(1, 1), 0) == {
        "heldout_accuracy_attacked": 0.6,
        "attack_step": 20,
        "heldout_accuracy_10": 0.5,
        "heldout_accuracy_100": 0.2,
    }


def test_recovery_is_undefined_where_little_was_forgotten(grid):
    """Base .90 of 20 entities. A start of .80 is .10 below, which 20 questions cannot tell."""

    def measured(right, each):
        facts = {f"forget/{i:03d}/x": (each * (i < right), each) for i in range(20)}
        return {"heldout_accuracy": right / 20, "heldout_facts": facts}

    def recovered(start):
        measures = measured(start, 1) | {"heldout_accuracy_10": 0.85}
        return grid["recoveries_of"](measures, measured(18, 1))

    assert recovered(4)["recovery_over_start_10"] == pytest.approx(0.65 / 0.7)
    assert recovered(4)["recovery_over_start"] is None  # not attacked
    assert set(recovered(16).values()) == {None} == set(recovered(18).values())
    assert set(grid["recoveries_of"]({}, measured(18, 1)).values()) == {None}


def test_an_attack_that_breaks_base_is_named(grid):
    measures = {"heldout_accuracy": 1.0, "heldout_accuracy_10": 0.9, "heldout_accuracy_100": 0.7}
    note = grid["broken_base"]({"adapter": ""}, measures)
    assert note == "the attack breaks Base: half B falls from 1.00 to 0.70"
    assert grid["broken_base"]({"adapter": "lora"}, measures) == ""
    assert grid["broken_base"]({"adapter": ""}, {"heldout_accuracy": 1.0}) == ""
