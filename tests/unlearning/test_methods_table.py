"""Every method at once: the tasks that make and compare them, the table, and what it says of
each.
"""

import csv
import importlib
import re
import runpy

import pytest

from brittle.base import knobs
from brittle.methods import METHODS, describe, method_class
from brittle.pipeline import given, steps
from support.places import ROOT

SEED_METHODS = (
    "ga_simple",
    "ga",
    "grad_diff",
    "dpo",
    "npo",
    "simnpo",
    "rmu",
    "cb",
    "lat",
    "cb_lat",
    "wt_dist",
    "wt_dist_reg",
)


@pytest.mark.parametrize("name", METHODS)
def test_every_published_method_names_its_paper_and_every_one_its_formula(name):
    about = describe(name)
    module = importlib.import_module(method_class(name).__module__)
    head = module.__doc__.strip().partition("\n\n")[0]
    # an unpublished method names none; a year or a number that cannot be read is a slip
    is_published = bool(re.search(r"arXiv|github|\b(19|20)\d\d\b", head))
    if is_published:
        address = r"https://(arxiv\.org/abs/\d{4}\.\d{5}|github\.com/\w+/\w+)"
        assert re.fullmatch(address, about.url)
        assert re.search(r"\w+ (et al\. )?20\d\d", about.paper)
        assert ":" in about.title
    else:
        assert about.url == about.paper == "" and about.title
    assert "=" in about.formula
    assert method_class(name).kind in ("loss", "representation", "gradient", "weight-space")


def test_a_method_without_a_publication_or_formula_is_described_all_the_same(monkeypatch):
    module = importlib.import_module(method_class("npo").__module__)
    monkeypatch.setattr(module, "__doc__", "Own idea: push the facts away.\n\nNo formula.\n")
    assert describe("npo") == ("Own idea: push the facts away", "", "", "")
    monkeypatch.setattr(module, "__doc__", None)
    assert describe("npo").title == "npo"


def test_the_seeds_methods_are_all_there_with_their_flags():
    assert set(SEED_METHODS) <= set(METHODS)
    flags = {
        "grad_diff": "forget_weight",
        "dpo": "beta",
        "npo": "beta",
        "simnpo": "beta",
        "wt_dist": "wt_noise_std",
        "wt_dist_reg": "wt_reg_lambda",
    }
    for name, knob in flags.items():
        assert knob in knobs.knobs(method_class(name))
    assert {"layer_id", "steering_coeff", "alpha"} <= set(knobs.knobs(method_class("rmu")))
    assert {"layer_id", "alpha", "lat_eps", "lat_steps"} <= set(knobs.knobs(method_class("cb_lat")))


def test_dry_run_makes_each_model_before_its_attack_and_the_table_last(script):
    done = script("unlearn/create_all.py", "--dry-run", "--force", "--methods", "ga,rmu")
    assert done.code == 0, done.err
    names = [
        line.split("  ")[0][2:].strip()
        for line in done.out.splitlines()
        if not line.startswith(("    ", "writes "))
    ]
    assert names[:3] == ["data", "base", "filtered"] and names[-2:] == ["recovery", "table"]
    assert names.index("unlearn rmu") < names.index("tamper mini-base__rmu")
    done = script(
        "unlearn/create_all.py", "--dry-run", "--force", "--no-attack", "--methods", "filter"
    )
    chain = [
        "data",
        "base",
        "filtered",
        "fit filter",
        "tune filter",
        "unlearn filter",
        "verify filter",
        "table",
    ]
    names = [
        line.split("  ")[0][2:].strip()
        for line in done.out.splitlines()
        if not line.startswith(("    ", "writes "))
    ]
    assert names == chain
    done = script("unlearn/create_all.py", "--dry-run", "--methods", "ga,nope")
    assert done.code == 2 and "nope" in done.err and "npo" in done.err


def test_weights_go_once_all_that_was_asked_for_is_measured(tmp_path, monkeypatch):
    """Method after method; a failed measurement keeps the weights; the filter's files stay."""
    from types import SimpleNamespace

    monkeypatch.chdir(ROOT)
    script = runpy.run_path("unlearn/create_all.py", run_name="create_all")
    study = steps.override(steps.read_study("mini"), root=str(tmp_path))
    wanted = [row for row in steps.read_steps() if row["scope"] in ("family", "unlearn", "model")]
    tasks = script["all_tasks"](study, wanted, ["ga", "filter"], attack=True, by_method=True)
    names = [task.name for task in tasks]
    assert names.index("tamper mini-base__ga") < names.index("fit filter")
    for task in tasks:
        if task.step == "unlearn":
            task.output.parent.mkdir(parents=True, exist_ok=True)
            (task.output.parent / "x.safetensors").write_text(task.name)
    remove = script["remover"](tasks)

    def left():
        return sorted(p.parent.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("x.safe*"))

    everything = left()
    good, bad = (SimpleNamespace(is_bad=is_bad) for is_bad in (False, True))
    results = {"unlearn ga": good, "unlearn filter": good, "verify filter": good}
    remove(results)
    assert left() == everything
    remove(results | {"tamper mini-base__ga": bad, "tamper mini-base__filter": good})
    assert left() == [p for p in everything if p != "mini-base__filter/unlearned_model"]
    remove(results | {"tamper mini-base__ga": good})
    assert "mini-base__ga/unlearned_model" not in left() and "mini-base__filter/filter" in left()


def test_the_table_has_a_row_a_model(family, data, tmp_path, script):
    done = script("unlearn/methods_table.py", "--model", family.base, "--root", tmp_path)
    assert done.code == 2 and "create_all_unlearning_models.sh" in done.err
    for method in ("ga", "wt_dist"):
        made = script(
            "unlearn/unlearn.py",
            "--model",
            family.base,
            "--method",
            method,
            "--forget",
            data / "forget.txt",
            "--root",
            tmp_path,
            "--steps",
            "2",
            "--batch-size",
            "4",
            "--device",
            "cpu",
        )
        assert made.code == 0, made.err
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "recovery.csv").write_text(
        "model,recovery_over_filtered\nmini-base__ga,0.75\n"
    )
    printed = script("unlearn/methods_table.py", "--model", family.base, "--root", tmp_path)
    assert printed.code == 0, printed.err
    *table, where = printed.out.splitlines()  # first use 17: it printed nothing
    assert [line.split()[0] for line in table] == ["method", "ga", "wt_dist"]
    assert " 0.750 " in table[1] and where == f"{tmp_path}/methods.csv: 2 rows"
    with open(tmp_path / "methods.csv", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["ga", "wt_dist"] and rows["ga"]["recovery_over_filtered"] == "0.75"
    assert (
        rows["wt_dist"]["recovery_over_filtered"] == ""
        and rows["ga"]["steps"] == "2"
        and float(rows["ga"]["seconds"]) > 0
    )
    assert all(
        0 <= float(rows["ga"][f"{split}_accuracy"]) <= 1
        for split in ("forget", "retain", "general")
    )
    shown = script(
        "unlearn/methods_table.py", "--model", family.base, "--root", tmp_path, "--markdown"
    ).out.splitlines()
    assert (
        len(shown) == 2 + len(METHODS)
        and len({len(re.findall(r"(?<!\\)\|", line)) for line in shown}) == 1
    )


def test_data_of_ones_own_are_unlearned_on(script, family, data, tmp_path):
    """First use 16: a model of one's own was to be unlearned on the mini world without a word."""
    models = ["--base", family.base, "--filtered", family.filtered]
    plan = ["unlearn/create_all.py", "--dry-run", "--methods", "npo", "--root", tmp_path / "out"]
    done = script(*plan, *models, "--data", data)
    assert done.code == 0, done.err
    assert f"--forget {data}/forget.txt" in done.out and "data/mini" not in done.out
    assert "create_models.py" not in done.out
    done = script(*plan, *models[:2])
    assert done.code == 0 and given.NO_TWIN in done.out
    assert f"eval/recovery.py --base {family.base} --unlearned" in done.out
    done = script(*plan, *models[:2], "--no-attack", "--data", data)
    assert done.code == 0 and "create_models.py" not in done.out and "mini-filtered" not in done.out
