"""fit -> tune -> bake -> verify without a number from the user, and one line a mistake.

The methods' table and the report follow.
"""

import csv
import json

import pytest
import torch

from brittle.base.errors import UserError
from brittle.filters import folder as filters_folder
from brittle.filters.fit import refuse
from brittle.filters.folder import UNTUNED, load_candidates, load_tuned, table_row
from brittle.models.filter import Filter, hooked, load, load_filtered
from brittle.models.load import load_model
from brittle.report import filter

SMALL = ("--max-samples", "60")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("filter") / "base__filter"


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_all_scripts_in_a_row(knowing, family, data, home, script, monkeypatch):
    """The chain runs on a small model, and what it writes belongs together.

    The verdict may be any of the three there.
    """
    texts = ["--forget", data / "forget.txt", "--retain", data / "retain.txt"]
    where, baked = home / "filter", home / "unlearned_model"
    fit = script("hooks/fit_filter.py", "--model", knowing, *texts, "--out", where, *SMALL)
    assert fit.code == 0, fit.err
    candidates = load_candidates(where)
    assert ("post_norm", True) in candidates and {
        float(r["n_forget"]) > 0 for r in rows(where / "spectrum.csv")
    } == {True}
    early = script("hooks/bake_filter.py", "--model", knowing, "--filter", where, "--out", baked)
    assert early.code == 2 and "no strength yet" in early.err
    few = [*SMALL, "--items", "4", "--tune-samples", "24"]
    wide = ["--retain-limit", "5", "--general-limit", "5"]
    of = ["--model", knowing, "--filter", where]
    tune = script("hooks/tune_strength.py", *of, *texts, *few, *wide)
    assert tune.code == 0, tune.err
    told, made = json.loads((where / "strength.json").read_text()), load(where)
    assert (
        told["status"] in ("matched", "retain-limited", "site-limited")
        and 0 < told["strength"] <= 1
    )
    assert (made.site, made.strength, made.k) == (told["site"], told["strength"], told["k"])
    chosen = [r for r in rows(where / "strength.csv") if r["stage"] == "chosen"]
    assert len(chosen) == 1 and float(chosen[0]["retain_kl"]) <= 5
    curve = [r for r in rows(where / "strength.csv") if r["stage"] == "curve"]
    assert (
        min(float(r["strength"]) for r in curve) == 0
        and max(float(r["strength"]) for r in curve) == 1
    )
    bake = script("hooks/bake_filter.py", "--model", knowing, "--filter", where, "--out", baked)
    assert bake.code == 0, bake.err
    verify = script(
        "hooks/verify_filter.py",
        "--model",
        knowing,
        "--filter",
        where,
        "--baked",
        baked,
        "--data",
        data,
    )
    assert verify.code == 0 and "equal" in verify.out, verify.err
    (row,) = rows(home / "verify" / "verify.csv")
    monkeypatch.setattr(filters_folder, "folder_of", lambda root, model: where)
    table = table_row("outputs", knowing)
    assert (
        table["forget_accuracy"] == float(row["forget_accuracy"])
        and table["seconds"] > 0
        and table["steps"] == 0
    )
    ((anchor, heading, html),) = filter.sections(home.parent)
    assert (
        anchor == "filter"
        and "base__filter" in heading
        and told["status"] in html
        and "suppression" in html
    )
    assert where / "strength.json" in filter.sources(home.parent)
    wrong = script(
        "hooks/verify_filter.py",
        *["--model", family.filtered, "--filter", where, "--baked", baked, "--data", data],
        *["--outdir", home / "wrong"],
    )
    assert wrong.code == 2 and "first module that differs: gpt_neox.embed_in" in wrong.err
    elsewhere = ["--strength", "1.5", "--applied-at", "block:0"]
    explain = script(
        "hooks/explain_filter.py", *of, *texts, *SMALL, "--outdir", home / "causes", *elsewhere
    )
    assert explain.code == 0, explain.err
    causes = {r["cause"].split()[0]: r["applies"] for r in rows(home / "causes" / "causes.csv")}
    assert causes["vi"] == "1" and causes["viii"] == "" and len(causes) == 9
    assert causes["iv"] == ("0" if made.site == "block:0" else "1")


def test_a_filter_hooked_for_good_is_the_hooked_one(family, home):
    model, again = load_model(family.base), load_model(family.base)
    ids = {"input_ids": torch.arange(3, 12)[None]}
    made = load_filtered(again, home / "filter")
    with torch.no_grad():
        plain = model(**ids).logits
        with hooked(model, load(home / "filter")):
            assert torch.equal(model(**ids).logits, again(**ids).logits)
        made.strength = 0.0
        assert torch.equal(again(**ids).logits, plain)


def test_mistakes_are_one_line(family, data, tmp_path, script):
    model = ["--model", family.base]
    texts = ["--forget", data / "forget.txt", "--retain", data / "retain.txt"]
    out, where = ["--out", tmp_path / "f"], tmp_path / "fitting"
    where.mkdir()
    Filter("post_norm", torch.eye(32)[:, :2], about={"status": "matched"}).save(where)
    fit = ["hooks/fit_filter.py", *model, *texts, *out]
    baked = ["--out", tmp_path / "b"]
    bake = ["hooks/bake_filter.py", *model, *baked, "--filter"]
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    Filter("post_norm", torch.eye(8)[:, :2], about={"status": "matched"}).save(narrow)
    verify = ["hooks/verify_filter.py", *model, "--filter", where]
    cases = {
        "--site": [*fit, "--site", "middle"],
        "blocks 0 to 1": [*fit, "--site", "block:7", *SMALL],
        "--basis svd": [*fit, "--basis", "svd"],
        "--k 99, but states have 32": [*fit, "--site", "post_norm", "--k", "99", *SMALL],
        "holds no text": [*fit, "--retain", empty],
        "outside [0, 1]": [*bake, where, "--strength", "1.5"],
        "width 8": [*bake, narrow],
        "holds no filter": ["hooks/tune_strength.py", *model, "--filter", tmp_path / "none"],
        "no record of baking": [*verify, "--baked", family.base],
    }
    for word, command in cases.items():
        done = script(*command)
        assert done.code == 2 and word in done.err and len(done.err.strip().splitlines()) == 1, (
            word,
            done.err,
        )
    assert not (tmp_path / "f").exists() and not (tmp_path / "b").exists()


def test_a_basis_that_cannot_be_selective_is_refused_and_the_better_site_named():
    about = {"basis": "gep", "ratio": 1.4, "energy_forget": 0.2, "energy_retain": 0.1}
    with pytest.raises(UserError, match="block:1 could"):
        refuse(about, "post_norm", lambda: {"post_norm": 1.4, "block:1": 6.0, "block:0": 3.0})
    with pytest.raises(UserError, match="--gate"):
        refuse(about, "post_norm", lambda: {"block:1": 1.2})
    with pytest.raises(UserError, match="gep"):
        refuse(
            {**about, "basis": "pca", "ratio": 9.0, "energy_forget": 0.7, "energy_retain": 0.8},
            "pre_norm",
            dict,
        )
    refuse({**about, "ratio": 5.0}, "post_norm", dict)


def test_a_filter_is_read_back_at_its_strength_or_at_the_one_that_is_given(tmp_path):
    Filter("post_norm", torch.eye(8)[:, :2], 0.0, about={"status": UNTUNED}).save(tmp_path)
    with pytest.raises(UserError, match="no strength yet"):
        load_tuned(tmp_path)
    assert load_tuned(tmp_path, 0.5).strength == 0.5
    with pytest.raises(UserError, match="outside"):
        load_tuned(tmp_path, 1.5)
    assert load_tuned(tmp_path, 1.5, allow_reflection=True).strength == 1.5
    Filter("post_norm", torch.eye(8)[:, :2], 0.25, about={"status": "matched"}).save(tmp_path)
    assert load_tuned(tmp_path).strength == 0.25
