"""Run tasks in forked children, side by side where they are independent, and time them."""

import contextlib
import ctypes
import fcntl
import gc
import importlib
import itertools
import os
import pkgutil
import runpy
import signal
import sys
import time
from collections import Counter
from typing import NamedTuple

import typer

import brittle
from brittle.base import bars, code
from brittle.base.disk import has_removed_weights
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
# transformers imports the module of a class only when the class is asked for
PRELOADED_CLASSES = (
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "GPTNeoXForCausalLM",
    "PreTrainedTokenizerFast",
)
READS = ("--model", "--model-b", "--baked")  # flags behind which a task loads a model
OUTCOMES = {"ran": "✓", "skipped": "·", "failed": "✗", "blocked": "✗", "would run": "→"}


@contextlib.contextmanager
def only_one(root):
    """Hold a lock on `root`: two pipelines in one folder would write over each other.

    Freed however the process ends.
    """
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


def run(
    tasks,
    root,
    *,
    force=False,
    dry_run=False,
    jobs=None,
    accept_older_code=False,
    on_end=None,
    whole=False,
):
    """Run what has to be run. Returns 0, or 1 where a task failed.

    force: also what is up to date. dry_run: only say what would be done and why. jobs: how many
    side by side. accept_older_code: what was made by older code of brittle/ counts as up to date.
    on_end: called with {task: TaskResult} of all that ended, whenever one has. whole: models whose
    weights were removed are made again, also where no task reads them.
    """

    def why_alone(task):
        return "--force" if force else task.why(accept_older_code=accept_older_code)

    needed = _needed_again(tasks, why_alone)
    if whole:
        without = [task.name for task in tasks if _is_without_weights(task)]
        needed |= {name: "its weights were removed" for name in without if name not in needed}

    def why(task):
        return why_alone(task) or needed.get(task.name)

    if dry_run:
        return _plan(tasks, why)
    with only_one(root):
        logs = root / "logs"
        logs.mkdir(exist_ok=True)
        return _Work(tasks, why, logs, jobs, accept_older_code, on_end).run()


def readers_of(tasks):
    """{model folder: the tasks that load it} of the models that tasks make."""
    makers = {str(task.output.parent) for task in tasks}
    readers = {}
    for task in tasks:
        for flag, value in itertools.pairwise(task.command):
            if flag in READS and value in makers:
                readers.setdefault(value, []).append(task)
    return readers


def _needed_again(tasks, why):
    """{task: reason} of models whose weights were removed, where another task has to load them."""
    makers = {str(task.output.parent): task for task in tasks if _is_without_weights(task)}
    needed = {}
    for folder, readers in readers_of(tasks).items() if makers else []:
        due = [task.name for task in readers if folder in makers and why(task)]
        if due:
            needed[makers[folder].name] = f"its weights were removed, and {due[0]} reads them"
    return needed


def _is_without_weights(task):
    return has_removed_weights(task.output.parent)


def _plan(tasks, why):
    """Print what `run` would do. A task runs too where one that it needs does."""
    would_run = set()
    for task in tasks:
        reason = why(task) or next((f"{n} runs" for n in task.needs if n in would_run), None)
        outcome = "would run" if reason else "skipped"
        print(f"{OUTCOMES[outcome]} {task.name:<34} {reason or task.why_skipped()}")
        if reason:
            would_run.add(task.name)
            print(f"    {' '.join(task.command)}")
    return 0


class TaskResult(NamedTuple):
    """How a task ended (a key of OUTCOMES), why, and what it took."""

    outcome: str
    why: str
    seconds: float = 0.0
    megabytes: float = 0.0

    @property
    def is_bad(self):
        return self.outcome in ("failed", "blocked")


class Child(NamedTuple):
    """A task that runs in a process of its own, since `started` (monotonic seconds)."""

    task: object
    why: str
    started: float


class _Work:
    """The tasks that wait, those that run (by process id), and the results of those that ended."""

    def __init__(self, tasks, why, logs, jobs, accept_older_code, on_end=None):
        self.tasks, self.why, self.logs = tasks, why, logs
        self.jobs, self.accept_older_code = jobs, accept_older_code
        self.on_end = on_end or (lambda results: None)
        self.names = {task.name for task in tasks}
        self.waiting = list(tasks)
        self.running = {}
        self.results = {}
        self.due = {}  # {task: the reason to run it, None where it is up to date}
        self.side_by_side = None

    def run(self):
        try:
            while self.waiting or self.running:
                for task in list(self.waiting):
                    self._advance(task)
                if self.running:
                    self._reap()
        except BaseException:
            _stop(self.running)
            raise
        _table(self.tasks, self.results)
        return int(any(result.is_bad for result in self.results.values()))

    def _advance(self, task):
        """Start `task`, or say that it is skipped or blocked, where what it needs has ended.

        Else it is left waiting.
        """
        # with --only the tasks that are not among `tasks` are taken as they are
        needs = [name for name in task.needs if name in self.names]
        bad = [name for name in needs if name in self.results and self.results[name].is_bad]
        if bad and not task.takes_what_there_is:
            self._finish(task, TaskResult("blocked", f"{bad[0]} failed"))
            return
        if any(name not in self.results for name in needs):
            return
        if task.name not in self.due:  # asked once, when everything it needs is final
            self.due[task.name] = self.why(task)
        if not self.due[task.name]:
            self._finish(task, TaskResult("skipped", task.why_skipped()))
            return
        if self.side_by_side is None:
            self.side_by_side = self.jobs or preload()
        if len(self.running) < self.side_by_side:
            self.waiting.remove(task)
            pid = _fork(task, self.logs, accept_older_code=self.accept_older_code)
            self.running[pid] = Child(task, self.due[task.name], time.monotonic())

    def _finish(self, task, result):
        if task in self.waiting:
            self.waiting.remove(task)
        self.results[task.name] = result
        self.on_end(self.results)
        if result.outcome == "skipped":
            return
        seconds = f" {result.seconds:.1f} s" if result.seconds else ""
        why = "" if result.outcome == "ran" else f": {result.why}"
        print(f"{OUTCOMES[result.outcome]} {task.name}{seconds}{why}", flush=True)

    def _reap(self):
        """Wait for a child to end; meanwhile, on a terminal, show what each last said."""
        while True:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid in self.running:
                break
            if sys.stdout.isatty():
                self._show_progress()
            time.sleep(0.05)
        if sys.stdout.isatty():
            print("\r\033[K", end="")
        child = self.running.pop(pid)
        task, why = child.task, child.why
        _bar_file(_log_file(task, self.logs)).unlink(missing_ok=True)
        exit_code = os.waitstatus_to_exitcode(status)
        outcome = "failed"
        if exit_code:
            log = _log_file(task, self.logs)
            why = f"exit {exit_code}: {_last_line(log)} (log: {log})"
        elif not task.output.is_file():
            why = f"it ended without {task.output}"
        else:
            outcome = "ran"
        seconds, megabytes = time.monotonic() - child.started, usage.ru_maxrss / 1024
        self._finish(task, TaskResult(outcome, why, seconds, megabytes))

    def _show_progress(self):
        last = (
            f"{child.task.name}: {_last_said(_log_file(child.task, self.logs))[:60]}"
            for child in self.running.values()
        )
        width = os.get_terminal_size().columns - 4
        print(f"\r\033[K  {' | '.join(last)[:width]}", end="", flush=True)


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
    """Import once what most steps need, and fill what libraries keep from their first use.

    (Fonts, and tables of weight names.) Returns how many steps may run side by side.
    """
    print("  loading libraries ...", flush=True)
    # asking for a GPU must not start CUDA before the forks
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    os.environ.setdefault("MPLBACKEND", "agg")
    code.digests()
    with code.uncounted():
        for name in PRELOAD:
            importlib.import_module(name)
        modules = pkgutil.walk_packages(brittle.__path__, "brittle.")
        names = [module.name for module in modules]
        for name in names:
            importlib.import_module(name)
        code.closure(names)  # reads the imports of every file once, so that no child has to
        _warm_libraries()
    gc.freeze()  # the children's collections do not walk, so do not copy, the pages shared here

    import torch

    return 1 if torch.cuda.is_available() else min(2, os.cpu_count() or 1)


def _warm_libraries():
    import transformers
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from brittle.base import figures

    for name in PRELOADED_CLASSES:
        getattr(transformers, name)

    get_checkpoint_conversion_mapping("gpt_neox")
    # typer imports pydantic when it reads its first command line
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(_do_nothing)
    app(["1"], standalone_mode=False)
    figure, axes = figures.figure("0", "1")
    figures.line(axes[0], [0, 1], [0, 1], "forget")
    figures.finish(axes[0], "x", "y")
    figure.canvas.draw()
    figures.plt.close(figure)


def _do_nothing(number: int):
    """A command for typer to read."""


def _log_file(task, logs):
    return logs / (task.name.replace(" ", "_").replace("/", "_")[:120] + ".log")


def _bar_file(log):
    """Where a step leaves the last state of its progress bar, beside its log."""
    return log.with_suffix(".bar")


def _fork(task, logs, *, accept_older_code):
    """Start `task` in a child of this process. Returns the child's process id."""
    print(f"  {task.name} started", flush=True)
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        # PR_SET_PDEATHSIG: a child does not outlive a killed pipeline
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        # Ctrl-C reaches the pipeline alone, which passes it on once. A second one would break the
        # clean-up.
        os.setpgid(0, 0)
        log = _log_file(task, logs)
        if sys.stdout.isatty():  # somebody watches
            bars.draw_in(_bar_file(log))
        _redirect(log)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if accept_older_code:
            code.accept_older()
        status = _script(task)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _redirect(log):
    """Send what this process prints to the file `log`, and read from nowhere."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # whatever they were before
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _script(task):
    """Run the task's script as `python script ...` would, in this process.

    Returns its exit status.
    """
    import torch

    if not torch.cuda.is_available():
        # One thread whatever runs beside it: the order of float sums, and so the CSVs, must not
        # depend on the machine's load.
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
    sys.argv = task.command
    code.start()
    try:
        runpy.run_path(task.command[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code is None:
            return 0
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def _last_said(log):
    """What a step says or shows last: a line of its log, or the state of its bar."""
    with contextlib.suppress(OSError):
        bar = _bar_file(log)
        if bar.stat().st_mtime_ns >= log.stat().st_mtime_ns:
            return _last_line(bar)
    return _last_line(log)


def _last_line(path):
    """The last thing a log says; some libraries rewrite their line, so \\r separates too."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2000))
        lines = file.read().decode("utf-8", "replace").replace("\r", "\n").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


def _short(text):
    """At most 100 characters, the middle left out: a reason ends with what changed."""
    return text if len(text) <= 100 else f"{text[:40]} ... {text[-55:]}"


def _table(tasks, results):
    print(f"\n{'step':<36} {'seconds':>8} {'peak MB':>8}  outcome")
    for task in tasks:
        result = results[task.name]
        seconds = f"{result.seconds:.1f}" if result.seconds else ""
        megabytes = f"{result.megabytes:.0f}" if result.seconds else ""
        outcome = f"{result.outcome}: {_short(result.why)}"
        print(f"{OUTCOMES[result.outcome]} {task.name:<34} {seconds:>8} {megabytes:>8}  {outcome}")
    counts = Counter(result.outcome for result in results.values())
    shown = [o for o in ("ran", "skipped", "failed", "blocked") if counts[o]]
    print(", ".join(f"{counts[outcome]} {outcome}" for outcome in shown))
