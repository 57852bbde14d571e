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


SHARDS = ("model-1-of-2.safetensors", "model-2-of-2.safetensors")
OLD_SHARDS = ("pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin")


@pytest.mark.parametrize(
    ("files", "loaded", "all_bytes"),
    [
        ({"model.safetensors": 3}, 3, 3),
        # a second copy, as Mistral ships it, and an older format beside it
        ({"model.safetensors": 3, "consolidated.safetensors": 3, "pytorch_model.bin": 3}, 3, 9),
        ({"model.safetensors.index.json": SHARDS, **dict.fromkeys(SHARDS, 4)}, 8, 8),
        ({"pytorch_model.bin": 5, "training_args.bin": 1, "optimizer.pt": 9}, 5, 5),
        ({"pytorch_model.bin.index.json": OLD_SHARDS, **dict.fromkeys(OLD_SHARDS, 4)}, 8, 8),
        ({"adapter_model.safetensors": 2, "training_args.bin": 1}, 2, 2),
        ({"adapter_model.bin": 2}, 2, 2),
        ({"llama-q4.gguf": 6, "config.json": 1}, 6, 6),
        ({"tf_model.h5": 6}, 6, 6),
        ({"tokenizer.json": 7}, 0, 0),
    ],
)
def test_weights_count_in_every_format_and_what_is_loaded_once(files, loaded, all_bytes, tmp_path):
    for name, holds in files.items():
        if isinstance(holds, tuple):
            index = {"weight_map": {"a": holds[0], "b": holds[1], "c": holds[0]}}
            (tmp_path / name).write_text(json.dumps(index))
        else:
            (tmp_path / name).write_text("x" * holds)
    assert disk.weights_size(tmp_path) == loaded
    assert disk.weights_all(tmp_path) == all_bytes


def test_weights_behind_links_of_the_cache_count_for_the_model(tmp_path):
    (tmp_path / "blob").write_text("12345")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "pytorch_model.bin").symlink_to(tmp_path / "blob")
    assert disk.weights_size(tmp_path / "snapshot") == 5
    assert disk.weights_all(tmp_path) == 0


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
    with pytest.raises(
        UserError, match=r"to save space\. Make them again with: uv run make\.py --x 1"
    ):
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


def test_what_cannot_be_made_again_is_said(study):
    disk.remove_weights(study)
    for record in study.glob("*.run.json"):
        record.unlink()
    with pytest.raises(UserError, match="No record says how to make them"):
        model_folder("out/model")


def plan(**more):
    make = steps.Task("make", "unlearn", "", MAKE, Path("out/model/history.csv"))
    measured = steps.Task("measure", "x", "", MEASURE, Path("out/measured/x.csv"), ["make"])
    return [make, measured]


def test_all_models_are_made_again_where_that_is_asked_for(study, capsys):
    """create_all --no-attack makes models that are missing, those without weights among them."""
    disk.remove_weights(study)
    for whole, wanted in ((False, 0), (True, 1)):
        runner.run(plan(), Path("out"), dry_run=True, whole=whole)
        out = capsys.readouterr().out
        assert out.count("its weights were removed") == wanted, out


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
