"""How long the two commands take: the pipeline from nothing, the second run with all steps skipped,
and the test suite.

    uv run tests/bench/bench_pipeline.py            clones what is committed into a temporary folder and runs there
Prints one table; CPU seconds are of the command and its children. Run it on an otherwise idle
machine.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    ("install (uv sync)", ["uv", "sync", "--frozen"]),
    ("pipeline from nothing", ["./experiment/pipeline.sh"]),
    ("pipeline again (all skipped)", ["./experiment/pipeline.sh"]),
    ("create_datasets.py --help", ["uv", "run", "create_datasets.py", "--help"]),
    ("unlearn.py --help", ["uv", "run", "unlearn/unlearn.py", "--help"]),
    ("test suite (uv run pytest)", ["uv", "run", "pytest"]),
)


def timed(command, folder):
    """(exit status, wall seconds, CPU seconds of the children)."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.returncode, time.time() - started, cpu


def main():
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "-q", str(ROOT), f"{folder}/clone"], check=True)
        print(f"| {'command':<32} | exit | wall s | CPU s |\n|{'-' * 34}|-----:|-------:|------:|")
        for label, command in COMMANDS:
            code, wall, cpu = timed(command, f"{folder}/clone")
            print(f"| {label:<32} | {code:>4} | {wall:>6.1f} | {cpu:>5.1f} |", flush=True)


if __name__ == "__main__":
    main()
