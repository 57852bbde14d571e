"""Which changes of losses, methods, metrics, intervals and attacks do their tests not notice?

    uv run python tests/bench/mutation.py list
    uv run python tests/bench/mutation.py run --jobs 2 --minutes 60
    uv run python tests/bench/mutation.py survivors

`list` writes the mutants of mutation.toml (cosmic-ray makes them). `run` needs pytest, torch and
transformers alone: it takes copies of the tree, finds out once which test reaches which line, and
then runs, for each mutant, the tests that reach it, quick ones first, up to the first that fails.
Tests that fail without a mutant are left out. It stops after `--minutes`; a further call goes on
where it ended. `survivors [FOLDER or results.csv ...]` adds the mutants that no test noticed, in
any of these runs, to tests/bench/mutation_survivors.csv. What stands there stays, with its reason,
unless one of the runs noticed it or its line is gone.
"""

import argparse
import contextlib
import csv
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path

import pytest
from mutants import Mutant, digest, list_mutants
from mutation_plugins import Choice, Reach
from survivors import read_results, write_survivors

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_suffix(".toml")
SURVIVORS = Path(__file__).with_name("mutation_survivors.csv")
PRELOADED = (
    "transformers accelerate peft pandas scipy.stats sklearn.linear_model matplotlib.pyplot typer "
    "datasets lm_eval.models.huggingface rich.console tokenizers"
).split()
NOT_COPIED = {"outputs", "data"}
COLUMNS = [*Mutant._fields, "status", "seconds", "tests", "by"]
PYTEST = ["-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", "-o", "addopts=", "-W", "ignore"]
GRACE = 15.0  # seconds behind the deadline in which what runs may end
SHORTEST, FACTOR = 30.0, 4.0  # a mutant's tests may take their own seconds, so many times, and more


def preload():
    """Import what tests import, once: every run is a fork of this process."""
    import importlib

    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    os.environ.update(**one_thread, **offline, MPLBACKEND="agg")
    import torch

    torch.set_num_threads(1)
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"not preloaded: {error}", flush=True)
    if threading.active_count() > 1:
        raise SystemExit(f"threads before the fork: {threading.enumerate()}")


def copy_tree(folder):
    """A copy of the repository without results, caches and environments."""

    def left_out(path, names):
        top = Path(path) == ROOT
        hidden = {name for name in names if name.startswith(".") or name == "__pycache__"}
        return hidden | (NOT_COPIED & set(names) if top else set())

    shutil.copytree(ROOT, folder, ignore=left_out)
    (folder / "outputs").mkdir(exist_ok=True)
    return folder


class Slot:
    """A copy of the tree in which one process after the other runs."""

    def __init__(self, folder):
        self.folder, self.log = copy_tree(folder), Path(f"{folder}.log")
        self.scratch = Path(f"{folder}.tmp")
        self.clock = int(time.time()) - 10**8

    def write(self, module, text):
        """Write a module; its time is one that no version had, so no compiled file fits it."""
        path = self.folder / module
        path.write_text(text, encoding="utf-8")
        self.clock += 1
        os.utime(path, (self.clock, self.clock))

    def fork(self, work):
        """Run `work()` in a fork, in this copy, in a session of its own; returns its pid."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            os.setsid()
            stream = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number in (1, 2):
                os.dup2(stream, number)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
            os.chdir(self.folder)
            sys.path[:0] = [str(self.folder), str(self.folder / "tests")]
            os.environ["PYTHONPATH"] = f"{self.folder}:{self.folder / 'tests'}"
            os.environ["TMPDIR"] = tempfile.tempdir = str(self.scratch)
            code = work()
        finally:
            sys.stdout.flush()
            os._exit(code)


def collect_reach(slot, test_file, modules, answer):
    """Run one test file without a mutant; its tests' seconds and lines go into the file `answer`.

    A test that fails is noted, and no mutant is held against it.
    """
    reach = Reach(slot.folder, modules)
    reach.start()
    options = [option for option in PYTEST if option != "-x"]
    pytest.main([*options, f"--rootdir={slot.folder}", test_file], plugins=[reach])
    sys.settrace(None)
    for nodeid in reach.failed:
        reach.tests.pop(nodeid, None)
    found = {"tests": reach.tests, "at_import": sorted(reach.at_import)}
    answer.write_text(json.dumps({**found, "failed": sorted(reach.failed)}))
    return 0


def run_tests(slot, tests, answer):
    """Run `tests` of the copy up to the first that fails; which one goes into `answer`."""
    choice = Choice(tests)
    files = list(dict.fromkeys(test.split("::")[0] for test in tests))
    code = pytest.main([*PYTEST, f"--rootdir={slot.folder}", *files], plugins=[choice])
    answer.write_text(choice.killer or "")
    return int(code)


class Pool:
    """Runs jobs in forks, one a slot. A job: (start(slot) -> pid, seconds, finish(code, time))."""

    def __init__(self, slots, deadline):
        self.free, self.busy, self.deadline = list(slots), {}, deadline

    def run(self, jobs):
        """Run all `jobs`, or those that can be started before the deadline."""
        jobs = iter(jobs)
        job = next(jobs, None)
        while job or self.busy:
            while job and self.free and time.time() < self.deadline:
                slot, (start, limit, finish) = self.free.pop(), job
                self.busy[start(slot)] = (slot, time.time(), limit, finish)
                job = next(jobs, None)
            if time.time() >= self.deadline:
                job = None
            self.reap()
            time.sleep(0.02)

    def reap(self):
        for pid, (slot, began, limit, finish) in list(self.busy.items()):
            seconds = time.time() - began
            ended, status = os.waitpid(pid, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if ended else None
            is_late = time.time() > self.deadline + GRACE
            if not ended and seconds < limit and not is_late:
                continue
            stop_session(pid)
            if not ended:
                os.waitpid(pid, 0)
            del self.busy[pid]
            if ended or seconds >= limit:  # what the deadline cuts off has no result
                finish(slot, code, seconds)
                self.free.append(slot)


def stop_session(pid):
    """End what a fork has left behind in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def reach_of(folder, pool, config, groups):
    """{test file: {tests, at_import, failed}}, from the folder's reach/ or measured now."""
    modules = sorted(
        p.relative_to(ROOT).as_posix()
        for entry in config["groups"].values()
        for pattern in entry["modules"]
        for p in ROOT.glob(pattern)
    )
    home = folder / "reach"
    home.mkdir(parents=True, exist_ok=True)
    wanted = [t for g in groups for test in config["groups"][g]["tests"] for t in test_files(test)]

    def answer_of(test):
        return home / (test.replace("/", "__") + ".json")

    def job(test):
        def start(slot):
            return slot.fork(lambda: collect_reach(slot, test, modules, answer_of(test)))

        def finish(_slot, code, seconds):
            print(f"reach of {test}: {seconds:.0f} s" + (f", ended {code}" if code else ""))

        return start, 900, finish

    missing = [t for t in dict.fromkeys(wanted) if not answer_of(t).is_file()]
    pool.run(map(job, missing))
    return {t: json.loads(answer_of(t).read_text()) for t in wanted if answer_of(t).is_file()}


def test_files(place):
    """The test files of a folder or the one named, as posix paths from the root."""
    path = ROOT / place
    files = sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
    return [file.relative_to(ROOT).as_posix() for file in files]


class Chooser:
    """Which tests can notice a mutant."""

    def __init__(self, config, reach):
        self.config, self.reach = config, reach
        self.sets = {
            file: {test: set(map(tuple, row["lines"])) for test, row in entry["tests"].items()}
            for file, entry in reach.items()
        }
        self.imports = {f: set(map(tuple, entry["at_import"])) for f, entry in reach.items()}

    def tests_for(self, mutant):
        """[tests]: of each file that reaches the mutant's lines those that do, then the others.

        The others come last: a cache may have spared them a line that their result hangs on.
        """
        lines = {(mutant.module, n) for n in range(int(mutant.first), int(mutant.last) + 1)}
        direct, others = [], []
        for place in self.config["groups"][mutant.group]["tests"]:
            for file in test_files(place):
                if file not in self.reach:
                    continue
                hit = [t for t, reached in self.sets[file].items() if lines & reached]
                if hit or lines & self.imports[file]:
                    direct += hit
                    others += [t for t in self.sets[file] if t not in set(hit)]
        return self.in_order(direct) + self.in_order(others)

    def seconds(self, test):
        return self.reach[test.split("::")[0]]["tests"][test]["seconds"]

    def in_order(self, tests):
        """Quick files first, quick tests first within a file."""
        files = {}
        for test in dict.fromkeys(tests):
            files.setdefault(test.split("::")[0], []).append(test)
        cost = {file: sum(map(self.seconds, own)) for file, own in files.items()}
        return [t for f in sorted(files, key=cost.get) for t in sorted(files[f], key=self.seconds)]

    def within(self, tests, most):
        """The first of `tests` that together take no more than `most` seconds, at least one."""
        chosen, total = [], 0.0
        for test in tests:
            seconds = self.seconds(test)
            if not chosen or total + seconds <= most:
                chosen.append(test)
                total += seconds
        return chosen


def read_mutants(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [Mutant(**{key: row[key] for key in Mutant._fields}) for row in rows]


class Results:
    """results.csv, a row as soon as it is known."""

    def __init__(self, folder):
        path = folder / "results.csv"
        is_new = not path.is_file()
        self.file = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115
        self.writer = csv.DictWriter(self.file, COLUMNS)
        if is_new:
            self.writer.writeheader()

    def add(self, mutant, status, seconds, tests, by=""):
        row = {"status": status, "seconds": f"{seconds:.1f}", "tests": tests, "by": by}
        self.writer.writerow(mutant._asdict() | row)
        self.file.flush()


def mutant_job(mutant, tests, seconds, results, counts):
    """A job for the pool: write the mutant, run its tests, note the result, write it back."""
    original = (ROOT / mutant.module).read_text(encoding="utf-8")
    text = original[: int(mutant.start)] + mutant.new + original[int(mutant.end) :]

    def start(slot):
        slot.write(mutant.module, text)
        answer = Path(f"{slot.folder}.answer")
        answer.unlink(missing_ok=True)
        return slot.fork(lambda: run_tests(slot, tests, answer))

    def finish(slot, code, taken):
        slot.write(mutant.module, original)
        answer = Path(f"{slot.folder}.answer")
        killer = answer.read_text() if answer.is_file() else ""
        status = {0: "survived", None: "timeout"}.get(code, "killed")
        if status == "killed" and not killer:
            killer = f"ended with {code}: {last_line(slot.log)}"
        results.add(mutant, status, taken, len(tests), killer)
        counts[status] = counts.get(status, 0) + 1
        if sum(counts.values()) % 25 == 0 or status == "survived":
            print(f"{counts} {mutant.id if status == 'survived' else ''}", flush=True)

    return start, SHORTEST + FACTOR * seconds, finish


def last_line(path):
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line[:200] for line in reversed(lines) if line.strip()), "")


def run(options):
    """Run the mutants of options.mutants that have no result yet."""
    began, folder = time.time(), options.folder
    deadline = began + 60 * options.minutes
    folder.mkdir(parents=True, exist_ok=True)
    config = tomllib.loads(options.config.read_text(encoding="utf-8"))
    groups = options.group or list(config["groups"])
    mutants = [m for m in read_mutants(options.mutants) if m.group in groups]
    known = {
        module: digest((ROOT / module).read_text(encoding="utf-8"))
        for module in {m.module for m in mutants}
    }
    stale = sorted({m.module for m in mutants if known[m.module] != m.sha})
    if stale:
        print(f"left out, changed since the mutants were listed: {' '.join(stale)}", flush=True)
    mutants = [m for m in mutants if m.module not in stale]
    preload()
    with tempfile.TemporaryDirectory(prefix="mutation-", dir=options.work) as work:
        slots = [Slot(Path(work) / f"tree{number}") for number in range(options.jobs)]
        pool = Pool(slots, deadline)
        chooser = Chooser(config, reach_of(folder, pool, config, groups))
        results, counts = Results(folder), {}
        done = {row["id"] for row in read_results([folder])}
        jobs = []
        for mutant in mutants[: options.sample or None]:
            if mutant.id in done:
                continue
            tests = chooser.within(chooser.tests_for(mutant), options.most)
            if not tests:
                results.add(mutant, "not reached", 0, 0)
                continue
            seconds = sum(map(chooser.seconds, tests))
            jobs.append((mutant, tests, seconds))
        print(f"{len(jobs)} mutants to run, {time.time() - began:.0f} s used", flush=True)
        pool.run(mutant_job(*job, results, counts) for job in jobs)
    rows = {row["id"]: row for row in read_results([folder])}.values()
    totals = {status: sum(r["status"] == status for r in rows) for status in
              ("killed", "timeout", "survived", "not reached")}  # fmt: skip
    print(f"{totals} of {len(mutants)} mutants, {time.time() - began:.0f} s")


def write_list(options):
    """Write the mutants of mutation.toml into options.mutants."""
    config = tomllib.loads(options.config.read_text(encoding="utf-8"))
    mutants = list_mutants(ROOT, config)
    options.mutants.parent.mkdir(parents=True, exist_ok=True)
    with open(options.mutants, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Mutant._fields)
        writer.writerows(mutants)
    counts = {g: sum(m.group == g for m in mutants) for g in config["groups"]}
    print(f"{len(mutants)} mutants in {options.mutants}: {counts}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["list", "run", "survivors"])
    parser.add_argument("results", nargs="*", type=Path,
                        help="survivors: of these folders or files")  # fmt: skip
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "mutation",
                        help="results.csv and reach/")  # fmt: skip
    parser.add_argument("--mutants", type=Path, help="by default mutants.csv of --folder")
    parser.add_argument("--config", type=Path, default=CONFIG, help="groups of modules and tests")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--sample", type=int, help="the first so many of the drawn order")
    parser.add_argument("--group", action="append", help="of mutation.toml; several times")
    parser.add_argument("--most", type=float, default=60, help="seconds of tests a mutant")
    parser.add_argument("--work", type=Path, default=Path("/tmp"), help="where the copies lie")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    options.mutants = (options.mutants or options.folder / "mutants.csv").resolve()
    if options.command == "survivors":
        kinds = tomllib.loads(options.config.read_text(encoding="utf-8")).get("harmless", [])
        write_survivors(SURVIVORS, options.results or [options.folder], ROOT, kinds)
    else:
        {"list": write_list, "run": run}[options.command](options)


if __name__ == "__main__":
    main()
