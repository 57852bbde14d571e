"""Does the whole study give the same bytes twice? Every table, text and weight of two runs from
nothing, compared.

    uv run tests/bench/determinism.py                        two fresh clones of what is committed, one pipeline in each
    uv run tests/bench/determinism.py --against outputs      one fresh clone, compared with the results that are here
Names every file that differs or is missing on one side; exit status 1 where there is one. One
machine, one set of library versions, CPU. The test suite does the same with a study of seconds
(tests/test_pipeline.py).
"""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command
from brittle.base.errors import UserError
from brittle.base.files import sha256

ROOT = Path(__file__).resolve().parents[2]
KINDS = (".csv", ".txt", ".jsonl", ".safetensors")


def study(folder):
    """Clone what is committed into `folder` and run the pipeline there. Returns the results'
    folder.
    """
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["./experiment/pipeline.sh"], cwd=folder, env=environment, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise UserError(f"the pipeline in {folder} ended with status {done.returncode}.")
    return folder / "outputs"


def digests(outputs):
    """{relative path: sha256} of all that is read as a result; records and logs hold times."""
    found = [
        p
        for p in outputs.rglob("*")
        if p.suffix in KINDS and p.is_file() and "inference" not in p.parts
    ]
    return {str(p.relative_to(outputs)): sha256(p) for p in sorted(found)}


def main(
    against: Annotated[Path | None, typer.Option(help="Results to compare one run with.")] = None,
):
    """Run the study twice (once with --against) and compare."""
    with tempfile.TemporaryDirectory() as place:
        one = digests(study(Path(place) / "one"))
        two = digests(against) if against else digests(study(Path(place) / "two"))
    apart = sorted(name for name in one if one[name] != two.get(name))
    for name in apart:
        print(f"{name}: {'differs' if name in two else 'is missing in the other'}")
    print(f"{len(one) - len(apart)} of {len(one)} files are the same.")
    return int(bool(apart))


if __name__ == "__main__":
    command.run(main)
