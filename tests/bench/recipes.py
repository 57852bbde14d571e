"""Do the cookbook's recipes run, word for word, in a fresh clone, with models that they make?

    uv run tests/bench/recipes.py                       every recipe
    uv run tests/bench/recipes.py "chat model" TOFU     those whose heading holds one of these words
    uv run tests/bench/recipes.py TOFU --in DIR         in a clone that an earlier call left

Clones what is committed, and runs the first recipe (experiment/create_examples.py), which makes what the
others call my_..., then the chosen ones in their order, offline. A Python block of a recipe is
written to the file that the recipe names. Prints the seconds of every command. Ends with 1 where a
command failed, whose output is shown. It takes as long as its commands: those of whole studies some
minutes each. The test suite runs the same commands on tiny models (tests/house/test_cookbook.py).
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command
from brittle.base.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
COOKBOOK = "docs/cookbook.md"
# `uv run` with the Python at hand: a clone would make an environment of its own
UV = """#!/usr/bin/env bash
shift
while [[ "$1" == --* ]]; do [[ "$1" == --project ]] && shift; shift; done
[[ "$1" == *.py ]] && exec {python} "$@"
exec "$@"
"""


def recipes(text):
    """{heading: (commands, {file: Python})} of a Markdown document; those without are left out."""
    parts = re.split(r"^## (.*)$", text, flags=re.M)[1:]
    listed = {}
    for heading, body in zip(parts[::2], parts[1::2], strict=True):
        lines = "".join(re.findall(r"^```bash\n(.*?)^```", body, re.M | re.S)).splitlines()
        code = re.findall(r"^```python\n(.*?)^```", body, re.M | re.S)
        names = re.findall(r"`(my_\w+\.py)`", body)
        files = dict(zip(names, code, strict=False))
        commands = [line for line in lines if line.strip()]
        if commands:
            listed[heading] = commands, files
    return listed


def run(line, clone, tools):
    """Run one command in the clone. Returns (exit status, seconds, output)."""
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(clone),
        "HF_HUB_OFFLINE": "1",
    }
    began = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=clone,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, time.monotonic() - began, done.stdout


def make_tools(folder):
    """A folder with a `uv` that runs this Python."""
    folder.mkdir()
    path = folder / "uv"
    path.write_text(UV.format(python=sys.executable), encoding="utf-8")
    path.chmod(0o755)
    return folder


def chosen(listed, words):
    """The headings that hold one of the words; all of them without words."""
    named = [h for h in listed if any(word.casefold() in h.casefold() for word in words)]
    if words and not named:
        raise UserError(f"no recipe has {' or '.join(words)} in its heading.")
    return named if words else list(listed)


def main(
    words: Annotated[
        list[str] | None, typer.Argument(help="Words of the headings to run (all).")
    ] = None,
    place: Annotated[
        Path | None, typer.Option("--in", help="A clone of an earlier call, which is gone on with.")
    ] = None,
):
    """Run the commands of the cookbook in a fresh clone."""
    home = Path(tempfile.mkdtemp(prefix="recipes-"))
    clone, tools = place or home / "clone", make_tools(home / "tools")
    if place is None:
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    listed = recipes((clone / COOKBOOK).read_text(encoding="utf-8"))
    headings = chosen(listed, words or [])
    first = next(iter(listed))
    if not (clone / "my_model").exists():
        headings = list(dict.fromkeys([first, *headings]))
    failed = 0
    print(f"in {clone}")
    for heading in headings:
        commands, files = listed[heading]
        for name, code in files.items():
            (clone / name).write_text(code, encoding="utf-8")
        print(f"\n{heading}", flush=True)
        for line in commands:
            status, seconds, output = run(line, clone, tools)
            failed += status != 0
            print(f"{'✗' if status else '✓'} {seconds:6.1f} s  {line}", flush=True)
            if status:
                print(output[-4000:], flush=True)
    print(f"\n{failed} commands failed" if failed else "\nall ran")
    return int(failed > 0)


if __name__ == "__main__":
    command.run(main)
