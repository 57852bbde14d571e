"""What the tests share: a small world, two small models of the mini family, and ways to run a script.

Scripts run in this process (`script`), or in a fork of it (`fork`): a process of its own with its own streams and exit
status, to which signals can be sent, without the ten seconds that importing torch and transformers cold would cost.
"""

import contextlib
import io
import json
import logging
import os
import runpy
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

CACHE = (
    tempfile.TemporaryDirectory()
)  # nobody's downloads are seen, and nothing is left in anybody's cache
os.environ.update(
    HF_HOME=CACHE.name,
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    OMP_NUM_THREADS="1",
    MPLBACKEND="agg",
)
COMPILED = tempfile.TemporaryDirectory()
if (
    sys.dont_write_bytecode
):  # what one process has compiled the others find, and nothing is left in the tree
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.pycache_prefix = os.environ.setdefault("PYTHONPYCACHEPREFIX", COMPILED.name)
    sys.dont_write_bytecode = False

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)  # forks of a process with a running thread pool can hang
ROOT = Path(__file__).parents[1]
SIZES = {"hidden_size": 32, "layers": 2, "heads": 4, "seed": 0}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Commands run in the repository root, without the user's tokens."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The files of a mini world of six entities a domain. Read only."""
    from brittle.data.world_files import write_world

    folder = tmp_path_factory.mktemp("world") / "data"
    write_world(folder, 0, 6, 2)
    return folder


@pytest.fixture(scope="session")
def family(data, tmp_path_factory):
    """.base and .filtered: GPT-NeoX folders (2 blocks, width 32) with random weights, a little apart. Read only."""
    from brittle.data.texts import read_lines
    from brittle.training.mini import make_model, make_tokenizer

    tokenizer = make_tokenizer(read_lines(data / "tokenizer.txt"), 400)
    root = tmp_path_factory.mktemp("family") / "models"
    model = make_model(tokenizer, **SIZES)
    folders = {}
    for name in ("base", "filtered"):
        folders[name] = str(root / f"mini-{name}")
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
        with torch.no_grad():
            generator = torch.Generator().manual_seed(1)
            for p in model.parameters():
                p.add_(0.02 * torch.randn(p.shape, generator=generator))
    return SimpleNamespace(**folders)


def _run(argv):
    """Exit status of `python script arguments ...`, run in this process."""
    try:
        runpy.run_path(str(argv[0]), run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


@pytest.fixture
def script(monkeypatch):
    """script(path, *arguments) -> .code, .out, .err, in this process: what a test has patched holds for the script."""

    def run(*argv):
        out, err = io.StringIO(), io.StringIO()
        argv = [str(a) for a in argv]
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with (
            monkeypatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.setattr(sys, "argv", argv)
            code = _run(argv)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())

    return run


class Child:
    """A script in a forked process."""

    def __init__(self, argv, log, env):
        sys.stdout.flush()
        sys.stderr.flush()
        self.files = [Path(f"{log}.out"), Path(f"{log}.err")]
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                os.setpgid(0, 0)  # a terminal's foreground job: signals go to all of it
                for stream, file in enumerate(self.files, 1):
                    os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
                sys.stdout, sys.stderr = (
                    os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2)
                )
                for logger in map(logging.getLogger, list(logging.root.manager.loggerDict)):
                    for handler in (
                        logger.handlers
                    ):  # what libraries log goes to stderr, as it would in a new process
                        if isinstance(handler, logging.StreamHandler):
                            handler.setStream(sys.stderr)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.environ.update(env)
                sys.argv = argv
                code = _run(argv)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(Exception):
                        stream.flush()
                os._exit(code)
        with contextlib.suppress(OSError):
            os.setpgid(self.pid, self.pid)

    def wait(self, seconds=120):
        """Its result; `code` is negative where a signal ended it."""
        deadline = time.time() + seconds
        while (ended := os.waitpid(self.pid, os.WNOHANG)) == (0, 0):
            if time.time() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(
                    f"no end after {seconds} s: {self.files[0].read_text()[-2000:]}"
                )
            time.sleep(0.01)
        out, err = (f.read_text() for f in self.files)
        return SimpleNamespace(code=os.waitstatus_to_exitcode(ended[1]), out=out, err=err)


@pytest.fixture(scope="session")
def imported():
    """What scripts import is there before they fork."""
    from brittle.pipeline import runner

    runner.preload()


@pytest.fixture
def fork(tmp_path_factory):
    """fork(path, *arguments, **environment) -> Child: .pid, .wait() -> .code, .out, .err."""
    logs = tmp_path_factory.mktemp("logs")
    return lambda *argv, **env: Child(
        [str(a) for a in argv], logs / str(len(list(logs.iterdir()))), env
    )


@pytest.fixture
def snapshot():
    """snapshot(folder) -> {relative path: bytes, None for a folder} of everything below it."""

    def take(folder):
        folder = Path(folder)
        return {
            str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
            for p in sorted(folder.rglob("*"))
        }

    return take


@pytest.fixture
def jsonl():
    """jsonl(path, rows) writes a JSON-lines file; jsonl(path) reads one."""

    def either(path, rows=None):
        if rows is None:
            return [
                json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()
            ]
        return Path(path).write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )

    return either
