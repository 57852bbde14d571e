"""experiment/clean.py lists what is there, and removes what it lists when it is told to."""

import os

import pytest

from brittle.base.files import REMOVED, hold
from support.places import ROOT
from support.processes import run_script


@pytest.fixture
def root(tmp_path):
    files = {
        "models/mini-base/model.safetensors": 4000,
        "mini-base__npo/unlearned_model/model.safetensors": 3000,
        "mini-base__npo/unlearned_model/training_history.run.json": 10,
        "mini-base__mine/unlearned_model/model.safetensors": 3000,  # no record
        "mini-base__ga/checkpoint/state": 500,
        "mini-base__ga/.unlearned_model.part-00": None,
        "mini-base__rmu/checkpoint/state": 600,
        "mini-base/harness/.run.part-11/accuracy.csv": 70,
        "mini-base/harness/accuracy.csv": 70,
    }
    for name, size in files.items():
        path = tmp_path / "outputs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if size is None else path.write_bytes(b"x" * size)
    return tmp_path / "outputs"


def clean(root, monkeypatch, *arguments):
    argv = [str(ROOT / "experiment/clean.py"), "--root", str(root), *arguments]
    monkeypatch.setattr("sys.argv", argv)
    return run_script(argv)


def files(root):
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("weights", [True, False])
def test_what_is_listed_is_removed_and_nothing_else(root, monkeypatch, capsys, running, weights):
    held = hold(root / "mini-base__ga/.unlearned_model.part-00") if running else None
    before, flags = files(root), ["--weights"] if weights else []
    assert clean(root, monkeypatch, *flags) == 0
    listed = capsys.readouterr().out
    assert files(root) == before and "Nothing was removed. --remove does it." in listed
    assert clean(root, monkeypatch, *flags, "--remove") == 0
    capsys.readouterr()
    gone = {"mini-base__rmu/checkpoint/state", "mini-base/harness/.run.part-11/accuracy.csv"}
    if not running:
        gone.add("mini-base__ga/checkpoint/state")
    if weights:
        gone.add("mini-base__npo/unlearned_model/model.safetensors")
    assert before - files(root) == gone
    new = files(root) - before
    assert new - {".pipeline.lock"} == (
        {f"mini-base__npo/unlearned_model/{REMOVED}"} if weights else set()
    )
    for name in gone:
        assert name.partition("/")[0] in listed
    assert clean(root, monkeypatch, *flags) == 0
    assert "nothing can be removed" in capsys.readouterr().out
    if held:
        os.close(held)
