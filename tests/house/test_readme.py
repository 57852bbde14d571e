"""The README says what is true: its commands and flags exist, its tables are those of the code, CI runs its test command."""

import re
import runpy
import shlex
import subprocess
import sys

import pytest
from support.places import ROOT

from brittle.report import docs_tables

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks():
    return re.findall(r"^```bash\n(.*?)^```", README, re.M | re.S)


def commands():
    lines = [
        line.partition("  #")[0].strip()
        for block in blocks()
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line and not line.startswith("#")]


def test_the_first_block_holds_the_two_commands_and_ci_runs_the_second():
    first, second = blocks()[0].strip().splitlines()
    assert first == "./experiment/pipeline.sh"
    assert second == "uv run pytest"
    assert second in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()


def test_tables_are_those_of_the_code(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert docs_tables.render(README) == README, "run: uv run python -m brittle.report.docs_tables"


@pytest.fixture(scope="module")
def helps():
    """{script: its --help}, asked once a script."""
    found = {}

    def ask(script):
        if script not in found:
            target = "experiment/pipeline.py" if script.endswith("pipeline.sh") else script
            done = subprocess.run(
                [sys.executable, target, "--help"], cwd=ROOT, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            found[script] = done.stdout
        return found[script]

    return ask


@pytest.mark.parametrize("command", commands())
def test_commands_name_scripts_and_flags_that_exist(command, helps):
    words = shlex.split(command)
    words = words[2:] if words[:2] == ["uv", "run"] else words[words[0] == "sbatch" :]
    if words[0] in ("pytest", "python", "accelerate", "ruff", "wandb"):
        assert all((ROOT / w).is_file() for w in words if w.endswith((".py", ".yaml")))
        return
    if words[0].endswith(".sbatch"):  # what follows is for unlearn.py
        words[0] = "unlearn/unlearn.py"
    assert (ROOT / words[0]).is_file(), words[0]
    flags = [w.partition("=")[0] for w in words if w.startswith("--")]
    text = helps(words[0]) if words[0].endswith((".py", "pipeline.sh")) else ""
    for flag in flags:
        assert flag in text, f"{words[0]} has no {flag}"


def test_paths_in_the_text_exist():
    for path in set(
        re.findall(r"`((?:brittle|experiment|eval|unlearn|tests|hooks)/[\w./-]+)`", README)
    ):
        assert (ROOT / path).exists(), path


def test_scripts_start_with_the_question_they_answer():
    for script in {row["script"] for row in _steps()}:
        first = (
            (runpy.run_path(str(ROOT / script), run_name="docs")["__doc__"] or "")
            .strip()
            .splitlines()[0]
        )
        assert len(first) > 15, script


def _steps():
    import csv

    with open(ROOT / "experiment/steps.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
