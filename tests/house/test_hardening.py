"""What the machine does to a run: a full disk, a clock set back; names that stay in their folder,
cells that stay data.
"""

import csv
import json
import os
import resource
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from brittle.base.layout import comparison_dir, model_name, unlearned_dir
from brittle.base.record import Run, why_run
from brittle.base.tables import write_csv

pytestmark = pytest.mark.usefixtures("imported")


@pytest.fixture
def limited():
    """No file may grow beyond 2,000 bytes, as on a full disk or under ulimit -f; forks inherit
    it.
    """
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    signal.signal(signal.SIGXFSZ, handler)


def test_files_that_may_not_grow(limited, family, data, tmp_path, script, snapshot):
    """Weights, tables, a sweep: one line, nothing half-written, what was there is there."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "earlier.csv").write_text("a\n1\n")
    before = snapshot(tmp_path)
    file = tmp_path / "out"
    texts = ["--forget", data / "forget.txt", "--max-samples", "8", "--batch-size", "2"]
    for arguments in (
        [
            "unlearn/unlearn.py",
            "--model",
            family.base,
            "--method",
            "ga",
            *texts,
            "--steps",
            "1",
            "--root",
            file,
        ],
        [
            "experiment/collect_param_stats.py",
            "--model-a",
            family.base,
            "--model-b",
            family.filtered,
            "--outdir",
            file,
        ],
        [
            "infer.py",
            "--sweep",
            "--models",
            family.base,
            "--prompts-file",
            data / "holdout.txt",
            "--max-new-tokens",
            "2",
            "--outdir",
            file,
        ],
    ):
        done = script(*arguments)
        line = [
            part for part in done.err.replace("\r", "\n").split("\n") if part.startswith("error: ")
        ]
        assert done.code == 2 and len(line) == 1 and "File too large" in line[0], (
            arguments[0],
            done.err[-500:],
        )
        assert snapshot(tmp_path) == before, arguments[0]


def make(inputs):
    with Run("out", inputs) as run:
        run.csv("x.csv", ["a"], [{"a": 1}])
    return json.loads(Path("out/x.run.json").read_text())


def test_a_clock_set_back_changes_nothing(tmp_path, monkeypatch):
    """Neither what has to be run again nor a duration comes from the clock."""
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_text("one")
    record = make(["in.txt"])
    now, command = time.time(), record["command"]
    monkeypatch.setattr(time, "time", lambda: now - 365 * 86400)
    assert why_run("out/x.csv", command) is None
    os.utime("in.txt", (1, 1))
    os.utime(
        "out/x.csv", (now + 1e6, now + 1e6)
    )  # made in the future, of inputs of 1970: the bytes are the same
    assert why_run("out/x.csv", command) is None
    Path("in.txt").write_text("two")
    os.utime("in.txt", (1, 1))
    assert why_run("out/x.csv", command) == "in.txt changed"
    ticks = iter([now, now - 3600])
    monkeypatch.setattr(time, "time", lambda: next(ticks, now - 3600))
    assert 0 <= make(["in.txt"])["seconds"] < 60
    assert why_run("out/x.csv", command) is None


CELLS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "=cmd|' /C calc'!A0",
    "\tx",
    "carriage\rreturn",
    "two\nlines",
    'a "quote"',
    "a,b",
    "",
    "NA",
    "é🙂",
]


def test_cells_that_look_like_formulas_are_data(tmp_path):
    """Whatever a cell starts with or holds, two readers give it back as it was."""
    rows = [{"text": cell, "number": -0.5, "none": None} for cell in CELLS]
    write_csv(tmp_path / "x.csv", ["text", "number", "none"], rows)
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        assert [tuple(r.values()) for r in csv.DictReader(file, strict=True)] == [
            (cell, "-0.5", "") for cell in CELLS
        ]
    read = pd.read_csv(tmp_path / "x.csv", keep_default_na=False, dtype={"text": str})
    assert read["text"].tolist() == CELLS and (read["number"] == -0.5).all()


NAMES = [
    "../../x",
    "..",
    ".",
    "/",
    "/etc/passwd",
    "a/../../b",
    "~",
    "CON",
    "nul.txt",
    "-rf",
    "a" * 255,
    "é" * 127,
    "a\nb",
    "$(x)",
    " ",
]


@pytest.mark.parametrize("model", NAMES)
def test_names_stay_in_the_output_folder(model, tmp_path):
    """A model's name is one part of a path, below the root, and a shell or a listing takes it for
    no option of its own.
    """
    name = model_name(model)
    assert name and "/" not in name and "\0" not in name and name not in (".", "..")
    for folder in (
        comparison_dir(tmp_path, model, model).name,
        unlearned_dir(tmp_path, model, "ga").parent.name,
    ):
        assert (tmp_path / folder).resolve().parent == tmp_path.resolve()


@pytest.mark.parametrize("shell", ["\0", "a\0b", "a" * 300])
def test_names_that_are_none(shell):
    with pytest.raises(ValueError, match="cannot be the name of a folder"):
        model_name(shell)
