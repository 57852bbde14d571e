"""What the tests share: a small world, two small models of the mini family, and ways to run a
script.

Scripts run in this process (`script`), or in a fork of it (`fork`): a process of its own with its
own streams and exit status, to which signals can be sent, without the ten seconds that importing
torch and transformers cold would cost.
"""

import contextlib
import io
import json
import math
import os
import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from support import bytecode

# nobody's downloads are seen, and nothing is left in anybody's cache
CACHE = tempfile.TemporaryDirectory()
os.environ.update(
    HF_HOME=CACHE.name,
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    OMP_NUM_THREADS="1",
    MPLBACKEND="agg",
)
COMPILED = tempfile.TemporaryDirectory()
if sys.dont_write_bytecode:
    bytecode.share(COMPILED.name)

import pytest  # noqa: E402

from support.made_once import made_once  # noqa: E402
from support.places import ROOT  # noqa: E402
from support.processes import Child, run_script  # noqa: E402


def pytest_collection():
    """Not at the top: the process that only hands out tests has no use for torch."""
    import torch

    torch.set_num_threads(1)  # forks of a process with a running thread pool can hang


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Commands run in the repository root, without the user's tokens."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture(scope="session", autouse=True)
def figures_drawn_once():
    """A figure of each kind is drawn, and later ones are its copies."""
    from matplotlib.figure import Figure

    from support import figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", figures.draw_once())
        yield


@pytest.fixture
def each_figure(figures_drawn_once, monkeypatch):
    """For a test that looks at figures: each is drawn."""
    from matplotlib.figure import Figure

    from support import figures

    monkeypatch.setattr(Figure, "savefig", figures.savefig)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The files of a mini world of six entities a domain. Read only."""
    from brittle.data.world_files import write_world

    folder = tmp_path_factory.mktemp("world") / "data"
    write_world(folder, 0, 6, 2)
    return folder


@pytest.fixture(scope="session")
def brief(data, tmp_path_factory):
    """Like `data`, with twenty questions a split. Read only.

    For a command that is not asked for its accuracies, and scores all questions before and after
    it trains.
    """
    folder = tmp_path_factory.mktemp("brief") / "data"
    shutil.copytree(data, folder)
    for path in folder.glob("mcq_*.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        every = len(lines) // 20
        path.write_text("".join(lines[::every]), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def family(data, tmp_path_factory):
    """.base and .filtered: GPT-NeoX folders (2 blocks, width 32) with random weights, a little
    apart. Read only.
    """
    import torch

    from brittle.data.texts import read_lines
    from brittle.training.mini import make_model, make_tokenizer
    from support.tiny_models import MINI_SIZES

    tokenizer = make_tokenizer(read_lines(data / "tokenizer.txt"), 400)
    root = tmp_path_factory.mktemp("family") / "models"
    model = make_model(tokenizer, **MINI_SIZES)
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


@pytest.fixture(scope="session")
def knowing(family, data, tmp_path_factory):
    """The folder of a small model that has learned the forget and retain questions by heart. Read
    only: the first test process that needs it trains it for all.
    """
    return str(made_once("knowing", tmp_path_factory, partial(learn_by_heart, family.base, data)))


@pytest.fixture(scope="session")
def chatting(brief, tmp_path_factory):
    """.model: the folder of a small chat model that has learned, through its template, to answer
    the forget and retain questions of the folder .data. Read only.
    """
    from support import chats

    home = made_once("chatting", tmp_path_factory, partial(chats.make, brief))
    return SimpleNamespace(model=str(home / "chat"), data=home / "data")


def learn_by_heart(start, data, folder):
    """Train the model in the folder `start` on the answered questions of `data`, for `folder`."""
    import torch

    from brittle.data.batches import pad
    from brittle.data.texts import read_lines
    from brittle.models.load import load_model, load_tokenizer
    from brittle.models.logprobs import nll

    model, tokenizer = load_model(start), load_tokenizer(start)
    lines = [
        line
        for s in ("forget", "retain")
        for line in read_lines(data / f"{s}.txt")
        if "Answer:" in line
    ]
    ids = sorted(tokenizer(lines)["input_ids"], key=len)
    size = math.ceil(len(ids) / 4)
    batches = [pad(ids[at : at + size], tokenizer.pad_token_id) for at in range(0, len(ids), size)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for batch in batches * 30:
        optimizer.zero_grad()
        nll(model, batch).backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def script(monkeypatch):
    """script(path, *arguments) -> .code, .out, .err, in this process: what a test has patched holds
    for the script.
    """

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
            patch.chdir(Path.cwd())  # the pipeline goes to the repository, and a test stays
            code = run_script(argv)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())

    return run


@pytest.fixture(scope="session")
def imported():
    """What scripts import is there before they fork."""
    from brittle.pipeline import runner

    runner.preload()


@pytest.fixture
def fork(tmp_path_factory, imported):
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
