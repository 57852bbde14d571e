"""Progress bars are drawn where somebody sees them, and nowhere else."""

import io
import os
import re
import sys

import pytest
from tqdm import tqdm
from tqdm.auto import tqdm as of_notebooks

from brittle.base import bars
from brittle.pipeline import runner
from support.places import ROOT


class Terminal(io.StringIO):
    def isatty(self):
        return True


def training():
    with bars.progress_bar(3, 0, "npo") as bar:
        for _ in range(3):
            bar.update()


def library():
    """As lm-eval calls it: it says itself that the bar is wanted."""
    for kind in (tqdm, of_notebooks):
        list(kind(range(3), desc="npo", disable=False))


@pytest.fixture(autouse=True)
def follow_the_rule():
    bars.everywhere()
    yield
    bars.draw_in(None)


@pytest.mark.parametrize("work", [training, library])
@pytest.mark.parametrize(("stream", "seen"), [(io.StringIO, False), (Terminal, True)])
def test_bars_are_drawn_on_a_terminal_alone(monkeypatch, work, stream, seen):
    monkeypatch.setattr("sys.stderr", stream())
    work()
    assert ("npo" in sys.stderr.getvalue()) is seen
    assert sys.stderr.getvalue() == "" or seen


@pytest.mark.parametrize("work", [training, library])
def test_a_step_of_the_pipeline_leaves_one_line_and_no_log(monkeypatch, tmp_path, work):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    log, other = tmp_path / "unlearn.log", tmp_path / "other.log"
    log.write_text("note: first\n")
    other.write_text("note: second\n")
    bars.draw_in(runner._bar_file(log))
    work()
    assert sys.stderr.getvalue() == ""
    (line,) = runner._bar_file(log).read_text().splitlines()
    assert re.match(r"npo: 100%.*3/3", line)
    assert runner._last_said(log) == line and runner._last_said(other) == "note: second"


def test_a_line_that_is_newer_than_the_bar_is_what_a_step_says_last(monkeypatch, tmp_path):
    log = tmp_path / "unlearn.log"
    bars.draw_in(runner._bar_file(log))
    training()
    log.write_text("note: saved\n")
    later = runner._bar_file(log).stat().st_mtime_ns + 1
    os.utime(log, ns=(later, later))
    assert runner._last_said(log) == "note: saved"


def test_bars_have_one_home():
    """A bar that is made elsewhere would not follow the rule."""
    files = [*(ROOT / "brittle").rglob("*.py"), *ROOT.glob("*.py")]
    files += [
        p
        for folder in ("eval", "experiment", "hooks", "unlearn")
        for p in (ROOT / folder).rglob("*.py")
    ]
    users = {
        p.relative_to(ROOT).as_posix()
        for p in files
        if "import tqdm" in p.read_text() or "from tqdm" in p.read_text()
    }
    assert users == {"brittle/base/bars.py"}
