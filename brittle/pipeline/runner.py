"""Run tasks in forked children, side by side where they are independent, and say where the time went."""

import contextlib
import ctypes
import fcntl
import gc
import os
import pkgutil
import runpy
import signal
import sys
import time

import brittle
from brittle.base.errors import UserError

PRELOAD = (
    "torch",
    "transformers",
    "accelerate",
    "pandas",
    "matplotlib.pyplot",
    "sklearn.linear_model",
    "scipy.stats",
)
OUTCOMES = {"ran": "✓", "skipped": "·", "failed": "✗", "blocked": "✗", "would run": "→"}


@contextlib.contextmanager
def only_one(root):
    """Hold a lock on `root`: two pipelines in one folder would write over each other. Freed however the process ends."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = open(root / ".pipeline.lock", "a")  # noqa: SIM115  (held open for the whole run)
    except (FileExistsError, NotADirectoryError):
        raise UserError(
            f"--root {root} is or lies under a file, not a folder. Choose another."
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another pipeline is running in {root}. Wait for it, or choose another --root."
            ) from None
        yield


def run(tasks, root, force=False, dry_run=False, jobs=None):
    """Run what has to be run. Returns 0, or 1 where a task failed. `dry_run` only says what would be done and why."""
    if dry_run:
        return _plan(tasks, force)
    with only_one(root):
        logs = root / "logs"
        logs.mkdir(exist_ok=True)
        return _work(tasks, logs, force, jobs)


def _plan(tasks, force):
    again = set()
    for task in tasks:
        reason = "--force" if force else task.why()
        reason = reason or next((f"{need} runs" for need in task.needs if need in again), None)
        if reason:
            again.add(task.name)
        print(
            f"{OUTCOMES['would run' if reason else 'skipped']} {task.name:<34} {reason or 'up to date'}"
        )
        if reason:
            print(f"    {' '.join(task.command)}")
    return 0


def _work(tasks, logs, force, jobs):
    waiting, running, results, due, side_by_side = list(tasks), {}, {}, {}, None
    names = {task.name for task in tasks}
    try:
        while waiting or running:
            for task in list(waiting):
                needs = [
                    n for n in task.needs if n in names
                ]  # with --only the others are taken as they are
                bad = [
                    n for n in needs if results.get(n, {}).get("outcome") in ("failed", "blocked")
                ]
                if bad and not task.takes_what_there_is:
                    waiting.remove(task)
                    _finish(results, task, "blocked", f"{bad[0]} failed")
                    continue
                if any(n not in results for n in needs):
                    continue
                if task.name not in due:  # asked once, when everything it needs is final
                    due[task.name] = "--force" if force else task.why()
                reason = due[task.name]
                if not reason:
                    waiting.remove(task)
                    _finish(results, task, "skipped", "up to date")
                    continue
                side_by_side = side_by_side or preload()
                if len(running) < (jobs or side_by_side):
                    waiting.remove(task)
                    running[_fork(task, logs)] = (task, reason, time.monotonic())
            if running:
                _reap(running, results, logs)
    except BaseException:
        _stop(running)
        raise
    _table(tasks, results)
    return int(any(r["outcome"] in ("failed", "blocked") for r in results.values()))


def _stop(children):
    """Let the children clean up after themselves, for at most 5 seconds, then end them."""
    for pid in children:
        os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + 5
    for pid in children:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.05)


def preload():
    """Import once what most steps need, and fill what libraries keep from their first use (fonts, tables of weight names).

    Returns how many steps may run side by side.
    """
    import importlib

    print("  loading libraries ...", flush=True)
    os.environ.setdefault(
        "PYTORCH_NVML_BASED_CUDA_CHECK", "1"
    )  # asking for a GPU must not start CUDA before the forks
    os.environ.setdefault("MPLBACKEND", "agg")
    for name in (
        *PRELOAD,
        *(module.name for module in pkgutil.walk_packages(brittle.__path__, "brittle.")),
    ):
        importlib.import_module(name)
    import torch
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from brittle.base import figures

    get_checkpoint_conversion_mapping("gpt_neox")
    figure, axes = figures.figure("0", "1")
    figures.line(axes[0], [0, 1], [0, 1], "forget")
    figures.finish(axes[0], "x", "y")
    figure.canvas.draw()
    figures.plt.close(figure)
    gc.freeze()  # the children's collections do not walk, so do not copy, the pages shared here

    return 1 if torch.cuda.is_available() else min(2, os.cpu_count() or 1)


def _log_file(task, logs):
    return logs / (task.name.replace(" ", "_").replace("/", "_")[:120] + ".log")


def _fork(task, logs):
    print(f"  {task.name} started", flush=True)
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        ctypes.CDLL(None).prctl(
            1, signal.SIGKILL
        )  # PR_SET_PDEATHSIG: a child does not outlive a killed pipeline
        if os.getppid() != parent:
            os._exit(1)
        os.setpgid(
            0, 0
        )  # Ctrl-C reaches the pipeline alone, which passes it on once: a second would break the clean-up
        log = os.open(_log_file(task, logs), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (
            os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2)
        )  # whatever they were before
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = _script(task)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _script(task):
    """Run the task's script as `python script ...` would, in this process. Returns its exit status."""
    import torch

    if not torch.cuda.is_available():
        # one thread whatever runs beside it: the order of float sums, so the CSVs, do not depend on the machine's load
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
    sys.argv = task.command
    try:
        runpy.run_path(task.command[0], run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    return 0


def _reap(running, results, logs):
    """Wait for a child to end; meanwhile, on a terminal, show what the running ones last said."""
    while True:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if pid in running:
            break
        if sys.stdout.isatty():
            said = " | ".join(
                f"{t.name}: {_last_line(_log_file(t, logs))[:60]}" for t, _, _ in running.values()
            )
            print(f"\r\033[K  {said[: os.get_terminal_size().columns - 4]}", end="", flush=True)
        time.sleep(0.05)
    if sys.stdout.isatty():
        print("\r\033[K", end="")
    task, reason, started = running.pop(pid)
    code = os.waitstatus_to_exitcode(status)
    if code == 0 and not task.output.is_file():
        code, reason = 1, f"it ended without {task.output}"
    elif code:
        log = _log_file(task, logs)
        reason = f"exit {code}: {_last_line(log)} (log: {log})"
    outcome = "ran" if code == 0 else "failed"
    _finish(results, task, outcome, reason, time.monotonic() - started, usage.ru_maxrss / 1024)


def _last_line(path):
    """The last thing a log says; progress bars rewrite their line, so \\r separates too."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2000))
        parts = file.read().decode("utf-8", "replace").replace("\r", "\n").split("\n")
        return next((p.strip() for p in reversed(parts) if p.strip()), "")
    return ""


def _short(text):
    """At most 100 characters, the middle left out: a reason ends with what changed."""
    return text if len(text) <= 100 else f"{text[:40]} ... {text[-55:]}"


def _finish(results, task, outcome, why, seconds=0.0, megabytes=0.0):
    results[task.name] = {
        "outcome": outcome,
        "why": why,
        "seconds": seconds,
        "megabytes": megabytes,
    }
    if outcome != "skipped":
        taken = f" {seconds:.1f} s" if seconds else ""
        print(
            f"{OUTCOMES[outcome]} {task.name}{taken}" + (f": {why}" if outcome != "ran" else ""),
            flush=True,
        )


def _table(tasks, results):
    print(f"\n{'step':<36} {'seconds':>8} {'peak MB':>8}  outcome")
    for task in tasks:
        r = results[task.name]
        cells = (f"{r['seconds']:.1f}", f"{r['megabytes']:.0f}") if r["seconds"] else ("", "")
        print(
            f"{OUTCOMES[r['outcome']]} {task.name:<34} {cells[0]:>8} {cells[1]:>8}  {r['outcome']}: {_short(r['why'])}"
        )
    counts = {
        o: sum(r["outcome"] == o for r in results.values())
        for o in ("ran", "skipped", "failed", "blocked")
    }
    print(", ".join(f"{n} {o}" for o, n in counts.items() if n))
