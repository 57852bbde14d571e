"""What is written is said before it is written, and removed weights leave results true."""

import json
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from brittle.base import disk
from brittle.base.errors import UserError
from brittle.base.files import REMOVED, removed
from brittle.base.record import Run, why_run
from brittle.models.find import model_folder
from brittle.pipeline import runner, steps

MAKE, MEASURE = ["make.py", "--x", "1"], ["measure.py", "--model", "out/model"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (14_250_000_000, "14.2 GB")],
)
def test_sizes_are_shown_in_units_of_1000(size, text):
    assert disk.shown(size) == text


def test_space_is_said_and_what_cannot_fit_is_refused(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(100, 0, 5_000_000)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage)
    folder = tmp_path / "not" / "yet"
    said = f"writes weights: about 5 MB in {folder} (5 MB are free)"
    assert disk.space_line("weights", 5_000_000, folder) == said
    with pytest.raises(UserError, match=r"would take 5 MB .* where 5 MB are free\. Free space"):
        disk.space_line("weights", 5_000_001, folder)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A model that one command made, and a measurement of it."""
    monkeypatch.chdir(tmp_path)
    write_model()
    measure()
    return Path("out/model")


def write_model(text="weights"):
    sys.argv = MAKE
    with Run("out/model", whole=True) as run:
        run.path("config.json").write_text("{}")
        run.path("model.safetensors").write_text(text)
        run.csv("history.csv", ["a"], [{"a": 1}])


def measure():
    sys.argv = MEASURE
    with Run("out/measured", models={"model": "out/model"}) as run:
        run.csv("x.csv", ["a"], [{"a": 1}])


@pytest.fixture(autouse=True)
def keep_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)


def whys():
    return why_run("out/model/history.csv", MAKE), why_run("out/measured/x.csv", MEASURE)


def test_removed_weights_leave_records_true(study):
    assert whys() == (None, None)
    assert disk.remove_weights(study) == len("weights")
    assert not list(study.glob("*.safetensors")) and disk.has_removed_weights(study)
    assert whys() == (None, None)
    assert disk.remove_weights(study) == 0 and whys() == (None, None)
    with pytest.raises(UserError, match="weights of out/model were removed to save space"):
        model_folder("out/model")
    assert model_folder("out/model", weights=False) == study


def test_a_model_that_is_made_again_is_compared_by_what_it_is(study):
    disk.remove_weights(study)
    write_model()
    assert not (study / REMOVED).exists() and whys() == (None, None)
    disk.remove_weights(study)
    write_model("other weights")
    assert whys() == (None, "out/model/model.safetensors changed")


def test_weights_that_vanish_otherwise_are_missed(study):
    (study / "model.safetensors").unlink()
    assert whys()[0] == "model.safetensors is not what was written"
    # a note on other weights says nothing of these
    note = {"model.safetensors": {"sha256": "0" * 64}}
    (study / REMOVED).write_text(json.dumps(note))
    assert removed(study) == note and whys()[0] == "model.safetensors is not what was written"


def plan(**more):
    make = steps.Task("make", "unlearn", "", MAKE, Path("out/model/history.csv"))
    measured = steps.Task("measure", "x", "", MEASURE, Path("out/measured/x.csv"), ["make"])
    return [make, measured]


def test_the_pipeline_makes_a_model_again_where_its_weights_are_read(study, capsys):
    disk.remove_weights(study)
    runner.run(plan(), Path("out"), dry_run=True)
    assert "would run" not in capsys.readouterr().out.replace("→", "would run")
    Path("out/measured/x.csv").write_text("damaged")
    runner.run(plan(), Path("out"), dry_run=True)
    out = capsys.readouterr().out
    assert "its weights were removed, and measure reads them" in out
    assert "x.csv is not what was written" in out


def test_readers_are_the_tasks_that_load_a_model(study):
    make, measured = plan()
    assert runner.readers_of([make, measured]) == {"out/model": [measured]}
