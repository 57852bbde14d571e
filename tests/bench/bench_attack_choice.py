"""Does the reported recovery hold over attack seeds and over two ways to compute?

    uv run python tests/bench/bench_attack_choice.py --jobs 2

Runs the default relearning attack (eval/tamper.py, three attack seeds) on an unlearned model five
times, with attack seeds that no two runs share, on one and on two threads, whose kernels sum in
another order. Then eval/recovery.py chooses and reports, as it does in the pipeline. Printed are
the reported values, their intervals, how far a value lies from the mean of the five at most, and
how many intervals hold that mean.
"""

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (0, 3, 6, 9, 12)  # of five runs, with three attack seeds each
THREADS = (1, 2)


def call(script, *arguments, threads=1):
    """Run a script of the repository; returns its seconds."""
    start = time.time()
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return time.time() - start


def name_of(model):
    """What a model's folder of results is called."""
    path = Path(model)
    return path.parent.name if path.name == "unlearned_model" else path.name


def attack(work):
    """One run of the attack. work: (model, folder, data, attack seeds, threads)."""
    model, folder, data, seeds, threads = work
    options = ["--model", model, "--outdir", folder / name_of(model) / "tamper", "--data", data]
    options += ["--seeds", ",".join(map(str, seeds)), "--device", "cpu"]
    return call("eval/tamper.py", *options, threads=threads)


def report(folder, models):
    """The row of recovery.csv of the unlearned model, whose results lie in `folder`."""
    base, filtered, unlearned = models
    options = ["--base", base, "--filtered", filtered, "--unlearned", unlearned]
    call("eval/recovery.py", *options, "--root", folder, "--outdir", folder / "recovery")
    with open(folder / "recovery" / "recovery.csv", newline="") as file:
        return list(csv.DictReader(file))[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="outputs/models/mini-base")
    parser.add_argument("--filtered", default="outputs/models/mini-filtered")
    parser.add_argument("--unlearned", default="outputs/mini-base__cb_lat/unlearned_model")
    parser.add_argument("--data", default="data/mini")
    parser.add_argument("--outdir", type=Path, default=Path("outputs/bench/attack_choice"))
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    models = (given.base, given.filtered, given.unlearned)
    work, ends = [], given.outdir / "ends"
    # of Base and Filtered only what they are as made enters the value, and where Base breaks
    work += [(model, ends, given.data, [0], 1) for model in models[:2]]
    for threads in THREADS:
        for seed in SEEDS:
            folder = given.outdir / f"{threads}-{seed}"
            seeds = range(seed, seed + 3)
            work.append((models[2], folder, given.data, seeds, threads))
    with ThreadPoolExecutor(given.jobs) as pool:
        seconds = list(pool.map(attack, work))
    for _, folder, *_ in work[2:]:
        for end in models[:2]:
            at = name_of(end)
            shutil.copytree(ends / at, folder / at, dirs_exist_ok=True)
    print("| threads | seeds | recovery | interval | sd over its seeds |")
    print("|---|---|---|---|---|")
    values, intervals = [], []
    for threads in THREADS:
        for seed in SEEDS:
            row = report(given.outdir / f"{threads}-{seed}", models)
            value, low, high = (
                float(row[column]) for column in ("recovery_over_filtered", "ci_low", "ci_high")
            )
            values.append(value)
            intervals.append((low, high))
            spread = float(row["seed_sd"])
            name = f"{seed} to {seed + 2}"
            print(f"| {threads} | {name} | {value:.3f} | [{low:.3f}, {high:.3f}] | {spread:.3f} |")
    mean = statistics.fmean(values)
    moved = max(abs(value - mean) for value in values)
    half = min(high - low for low, high in intervals) / 2
    held = sum(low <= mean <= high for low, high in intervals)
    print(f"mean {mean:.3f}; moves by {moved:.3f} at most; least half width {half:.3f};")
    print(f"{held} of {len(intervals)} intervals hold the mean")
    print(f"seconds of a run of three attack seeds, {given.jobs} at a time:", end=" ")
    print(" ".join(f"{number:.0f}" for number in seconds[2:]))
    return 0 if moved < half and held == len(intervals) else 1


if __name__ == "__main__":
    sys.exit(main())
