"""Every mistake gets one line (what was asked, what there is, what to do), a non-zero exit status,
and leaves nothing behind.

Scripts run in forks, so stderr holds all that a user would see, library warnings included.
"""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

from brittle.base import bars
from brittle.training import mini
from support.hub import response
from support.tiny_models import MINI_SIZES as SIZES

UNLEARN, TAMPER, MODELS = "unlearn/unlearn.py", "eval/tamper.py", "create_models.py"
PARAMS, NORMS = "experiment/collect_param_stats.py", "experiment/collect_activation_norms.py"


pytestmark = pytest.mark.usefixtures("imported")


@pytest.fixture(scope="module")
def built(tmp_path_factory, data, family):
    """A folder with good and bad models and texts."""
    from transformers import AutoTokenizer

    tmp_path = tmp_path_factory.mktemp("place")
    tokenizer = AutoTokenizer.from_pretrained(family.base)
    for name in ("base", "filtered"):
        shutil.copytree(getattr(family, name), tmp_path / name)
    for name in ("noweights", "pickle", "notokenizer", "noconfig", "badconfig", "cut"):
        shutil.copytree(family.base, tmp_path / name)
    for name in ("noweights", "pickle"):
        (tmp_path / name / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pickle" / "pytorch_model.bin")
    (tmp_path / "notokenizer" / "tokenizer.json").unlink()
    (tmp_path / "noconfig" / "config.json").unlink()
    (tmp_path / "badconfig" / "config.json").write_text("{not json")
    os.truncate(tmp_path / "cut" / "model.safetensors", 5000)
    for name, changes in (("wider", {"hidden_size": 48}), ("deeper", {"layers": 3})):
        mini.make_model(tokenizer, **{**SIZES, **changes}).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    other = (
        (tmp_path / "base" / "config.json").read_text().replace('"gpt_neox"', '"gpt_neox_japanese"')
    )
    shutil.copytree(family.base, tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(other)
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(data, tmp_path / "lacking")
    (tmp_path / "lacking" / "mcq_retain.jsonl").unlink()
    (tmp_path / "lacking" / "mcq_forget.jsonl").unlink()
    (tmp_path / "lacking" / "pretrain_filtered.txt").unlink()
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    (tmp_path / "utf16.txt").write_text("some text\n", encoding="utf-16")
    (tmp_path / "latin.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    return tmp_path


@pytest.fixture
def place(built):
    """That folder; scripts write to its `out`, which is not there."""
    yield built
    shutil.rmtree(built / "out", ignore_errors=True)


def texts(forget="{p}/data/forget.txt", retain="{p}/data/retain.txt"):
    return [f"--forget={forget}", f"--retain={retain}"]


def unlearn(
    *more, model="{p}/base", method="ga", forget="{p}/data/forget.txt", retain="{p}/data/retain.txt"
):
    short = ["--steps=2", "--batch-size=2", "--max-samples=8", "--root={p}/out"]
    return [
        UNLEARN,
        f"--model={model}",
        f"--method={method}",
        *texts(forget, retain),
        *short,
        *more,
    ]


def tamper(*more, model="{p}/base", data="{p}/data"):
    return [
        TAMPER,
        f"--model={model}",
        f"--data={data}",
        "--steps=2",
        "--eval-at=1",
        "--lr=1e-3",
        "--outdir={p}/out",
        *more,
    ]


def compare(script, b, a="{p}/base"):
    return [
        script,
        f"--model-a={a}",
        f"--model-b={b}",
        "--outdir={p}/out",
        *(texts() if script == NORMS else []),
    ]


def make(*more, data="{p}/data"):
    return [
        MODELS,
        f"--data={data}",
        "--outdir={p}/out",
        "--only=base",
        "--steps=1",
        "--batch-size=2",
        "--hidden-size=16",
        *more,
    ]


MISTAKES = {
    # models
    "unknown id": (tamper(model="nobody/nothing-70m"), "nobody/nothing-70m is no local folder"),
    "unknown id as B": (compare(PARAMS, "nobody/nothing"), "nobody/nothing is no local folder"),
    "unknown id to unlearn": (unlearn(model="nobody/nothing"), "nobody/nothing is no local folder"),
    "unknown folder": (unlearn(model="{p}/nowhere"), "nowhere not found"),
    "unknown folder as A": (compare(NORMS, "{p}/base", a="./nowhere"), "nowhere not found"),
    "a name that is none": (tamper(model="a b c"), "neither a folder nor a Hugging Face id"),
    "300 characters": (tamper(model="x" * 300), "too long|cannot be"),
    "empty name": (tamper(model=""), "is no model"),
    "a file as model": (tamper(model="{p}/empty.txt"), "is a file"),
    "no weights": (unlearn(model="{p}/noweights"), "has no weights"),
    "no weights to attack": (tamper(model="{p}/noweights"), "has no weights"),
    "no weights to compare": (compare(PARAMS, "{p}/noweights"), "has no weights"),
    "only pickle": (unlearn(model="{p}/pickle"), "only pytorch_model.bin"),
    "only pickle to compare": (compare(PARAMS, "{p}/pickle"), "only pytorch_model.bin"),
    "no config": (tamper(model="{p}/noconfig"), "no config.json"),
    "damaged config": (unlearn(model="{p}/badconfig"), "is not JSON"),
    "cut weights": (tamper(model="{p}/cut"), "safetensors file cannot be read"),
    "cut weights to compare": (compare(PARAMS, "{p}/cut"), "safetensors file cannot be read"),
    "no tokenizer": (unlearn(model="{p}/notokenizer"), "has no tokenizer"),
    "no tokenizer to attack": (tamper(model="{p}/notokenizer"), "has no tokenizer"),
    "no tokenizer to compare": (
        compare(NORMS, "{p}/base", a="{p}/notokenizer"),
        "has no tokenizer",
    ),
    "another architecture": (compare(NORMS, "{p}/other"), "differ in model_type"),
    "other width": (compare(PARAMS, "{p}/wider"), "differ in"),
    "other width, activations": (compare(NORMS, "{p}/wider"), "differ in hidden_size: 32 and 48"),
    "other depth": (compare(PARAMS, "{p}/deeper"), "only B has|differ in"),
    # texts
    "missing text": (
        unlearn(forget="{p}/nowhere.txt"),
        r"nowhere.txt not found. Check the path; one text a line",
    ),
    "missing retain text": (unlearn(retain="{p}/nowhere.txt"), "nowhere.txt not found"),
    "empty text": (unlearn(forget="{p}/empty.txt"), "empty.txt holds no text"),
    "binary text": (unlearn(forget="{p}/binary.txt"), "binary.txt is not UTF-8 text"),
    "UTF-16 text": (unlearn(forget="{p}/utf16.txt"), "utf16.txt is not UTF-8 text .byte 0.*iconv"),
    "Latin-1 text": (unlearn(forget="{p}/latin.txt"), "latin.txt is not UTF-8 text .byte 3"),
    "a folder as text": (unlearn(forget="{p}/data"), "is a folder"),
    "damaged JSONL": (unlearn(forget="{p}/broken.jsonl"), "broken.jsonl line 2 is not JSON"),
    "missing text, activations": (
        [*compare(NORMS, "{p}/filtered"), "--forget={p}/nowhere.txt"],
        "nowhere.txt not found",
    ),
    "empty text, activations": (
        [*compare(NORMS, "{p}/filtered"), "--retain={p}/empty.txt"],
        "holds no text",
    ),
    "missing questions": (tamper(data="{p}/lacking"), "mcq_forget.jsonl not found"),
    "missing data folder": (
        tamper(data="{p}/nowhere"),
        "mcq_forget.jsonl not found. .*question, choices, answer .* half",
    ),
    "no data to train on": (make(data="{p}/nowhere"), "tokenizer.txt not found"),
    "a part of the data missing": (
        make("--only=filtered", data="{p}/lacking"),
        "pretrain_filtered.txt not found",
    ),
    "no questions to train with": (make(data="{p}/lacking"), "mcq_forget.jsonl not found"),
    # methods
    "unknown method": (unlearn(method="gaa"), "no method 'gaa'. Methods: .*npo"),
    "a path as method": (unlearn(method="../../x"), "no method"),
    "unknown knob": (unlearn("--betta=1"), "No such option: --betta"),
    "a knob that ga does not read": (
        unlearn("--layer-id=1"),
        "ga does not read --layer-id; it reads --",
    ),
    "a knob that rmu does not read": (
        unlearn("--beta=1", method="rmu"),
        "rmu does not read --beta; it reads --",
    ),
    "a knob that is no number": (
        unlearn("--alpha=lots", method="rmu"),
        "--alpha lots: a number wanted",
    ),
    "a knob out of bounds": (unlearn("--alpha=-1", method="rmu"), "--alpha -1: must be at least 0"),
    "a knob that is NaN": (unlearn("--alpha=nan", method="rmu"), "--alpha nan"),
    "no block numbers": (
        unlearn("--layer-id=low", method="rmu"),
        "--layer-id low: block numbers such as",
    ),
    "no block number": (unlearn("--layer-id=", method="rmu"), "--layer-id : block numbers such as"),
    "a block that is not there": (
        unlearn("--layer-id=9", method="rmu"),
        "--layer-id 9, but this model has blocks 0 to 1",
    ),
    "an adversary's block that is not there": (
        unlearn("--layer-id=1", "--lat-layer=5", method="cb_lat"),
        "--lat-layer 5, but this model has blocks 0 to 1",
    ),
    "unknown preset": (unlearn("--preset=maxi"), "--preset maxi: choose auto"),
    # numbers
    "no steps": (unlearn("--steps=0"), "--steps"),
    "negative rate": (unlearn("--lr=-1"), "--lr"),
    "no batch": (unlearn("--batch-size=0"), "--batch-size"),
    "a step that is none": (tamper("--eval-at=1,x"), "--eval-at 1,x"),
    "no rate": (tamper("--lr=0"), "--lr"),
    "unknown device": (unlearn("--device=tpu"), "--device tpu is not usable here"),
    "unknown device to train on": (make("--device=cuda:77"), "--device cuda:77 is not usable here"),
    "nothing to resume": (unlearn("--resume"), "--resume, but there is no checkpoint"),
    "width and heads": (make("--hidden-size=30"), "--hidden-size 30 does not divide into 4 heads"),
    "too small a vocabulary": (make("--vocab-size=9"), "--vocab-size 9: at least 258"),
    "unknown role": (make("--only=unlearned"), "--only unlearned: choose"),
    "missing option": ([UNLEARN], "Missing option '--model'"),
    # output
    "output is a file": ([*tamper(), "--outdir={p}/empty.txt"], "is or lies under a file"),
    "output under a file": (unlearn("--root={p}/empty.txt/out"), "is or lies under a file"),
    "output with too long a name": ([*tamper(), "--outdir={p}/" + "x" * 300], "too long"),
    "models under a file": (make("--outdir={p}/empty.txt"), "is or lies under a file"),
}


def one_line(done, says):
    assert done.code not in (0, 1), done.err  # 1 is a bug's traceback
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert re.search(says, done.err), done.err
    assert len(done.err) < 1200


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake, place, fork, snapshot):
    arguments, says = MISTAKES[mistake]
    before = snapshot(place)
    one_line(fork(*(a.format(p=place) for a in arguments)).wait(), says)
    assert snapshot(place) == before


@pytest.fixture
def filled(place):
    return lambda arguments: [a.format(p=place) for a in arguments]


GATED = "owner/name is gated. Accept its terms on its page, then put a token into HF_TOKEN"


@pytest.mark.parametrize(
    ("arguments", "raised", "says"),
    [
        (tamper(model="owner/name"), errors.GatedRepoError("gated", response=response(403)), GATED),
        (
            unlearn(model="owner/name"),
            errors.GatedRepoError("gated", response=response(401)),
            GATED,
        ),
        (
            compare(PARAMS, "owner/name"),
            errors.GatedRepoError("gated", response=response(403)),
            GATED,
        ),
        (
            unlearn(model="owner/name"),
            errors.RepositoryNotFoundError("none", response=response(401)),
            "is called owner/name",
        ),
        (
            tamper(model="owner/name"),
            errors.HfHubHTTPError("busy", response=response(503)),
            "the hub cannot be reached",
        ),
        (
            compare(PARAMS, "owner/name"),
            ConnectionError("no route to host"),
            "the hub cannot be reached",
        ),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else type(x).__name__,
)
def test_hub_refusals(arguments, raised, says, place, filled, fork, snapshot, monkeypatch):
    """What the hub answers, from its client's own exceptions; the token is never repeated."""

    def download(*_, **__):
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    before = snapshot(place)
    done = fork(*filled(arguments), HF_TOKEN="hf_sentinel").wait()
    one_line(done, says)
    assert snapshot(place) == before and "hf_sentinel" not in done.out + done.err


def test_both_models_complain_once(place, filled, fork, snapshot):
    before = snapshot(place)
    done = fork(*filled([a for a in make(data="{p}/nowhere") if a != "--only=base"])).wait()
    one_line(done, "tokenizer.txt not found")
    assert snapshot(place) == before


def failing(number, place):
    """An os.mkdir that fails below `place`/out as on a read-only or forbidden file system.
    (Permissions do not bind root.)
    """
    mkdir = os.mkdir

    def refuse(path, *more, **named):
        if str(path).startswith(str(place / "out")):
            raise OSError(number, os.strerror(number), str(path))
        return mkdir(path, *more, **named)

    return refuse


WRITERS = {
    "unlearn": unlearn(),
    "tamper": tamper(),
    "models": make(),
    "params": compare(PARAMS, "{p}/filtered"),
}


@pytest.mark.parametrize(
    ("number", "writer"),
    [
        *((errno.EROFS, w) for w in WRITERS),
        *((n, "tamper") for n in (errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)),
    ],
)
def test_output_folder_that_cannot_be_made(
    number, writer, place, filled, fork, snapshot, monkeypatch
):
    monkeypatch.setattr(os, "mkdir", failing(number, place))
    before = snapshot(place)
    done = fork(*filled(WRITERS[writer])).wait()
    one_line(done, f"cannot write .*out.*: {os.strerror(number)}")
    assert snapshot(place) == before


def errors_of(done):
    """The error lines of a run that had started: progress bars may stand before them."""
    assert "Traceback" not in done.err, done.err
    return [line for line in re.split(r"[\r\n]", done.err) if line.startswith("error:")]


@pytest.mark.parametrize("writer", WRITERS)
def test_disk_that_fills_while_writing(writer, place, filled, fork, snapshot, monkeypatch):
    """The space ends when the first result is written: a table, or the weights (as safetensors
    reports it).
    """
    import safetensors.torch
    import transformers
    from safetensors import SafetensorError

    from brittle.base import record

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_weights(*_, **__):
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(record, "write_csv", full)
    for module in (
        safetensors.torch,
        transformers.modeling_utils,
        transformers.modeling_utils.safe_save_file,
    ):
        for name in ("save_file", "safe_save_file"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, full_weights)
    before = snapshot(place)
    done = fork(*filled(WRITERS[writer])).wait()
    assert done.code == 2 and len(errors_of(done)) == 1
    assert re.search("cannot write the .*no space left", errors_of(done)[0], re.IGNORECASE)
    assert snapshot(place) == before


@pytest.fixture
def tiny_disk(place):
    """A file system of 64 KiB mounted on `place`/out, where this is allowed."""
    (place / "out").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place / "out")]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting needs root; the test above fills a disk that is not there")
    yield SimpleNamespace(place=place, folder=place / "out")
    subprocess.run(["umount", str(place / "out")], check=True)


@pytest.mark.parametrize("writer", WRITERS)
def test_real_full_disk(writer, tiny_disk, fork, snapshot):
    """Both the libraries' writers and ours, with nothing patched."""
    (tiny_disk.folder / "fill").write_bytes(b"x" * (48 << 10))
    before = snapshot(tiny_disk.place)
    done = fork(*(a.format(p=tiny_disk.place) for a in WRITERS[writer])).wait()
    assert done.code == 2 and len(errors_of(done)) == 1
    # what knows its size beforehand says that it does not fit
    assert re.search(r"o space left|would take .* where .* are free", errors_of(done)[0])
    assert snapshot(tiny_disk.place) == before


def wait_for(condition, child, seconds=60):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline and os.waitpid(child.pid, os.WNOHANG) == (0, 0), child.files[
            1
        ].read_text()
        time.sleep(0.01)


ENDLESS = {
    "unlearn": unlearn("--steps=100000", "--save-every=0"),
    "tamper": tamper("--steps=100000"),
    "models": make("--steps=100000"),
}


@pytest.mark.parametrize("signal_sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("writer", ENDLESS)
def test_interrupted(signal_sent, writer, place, filled, fork, snapshot, monkeypatch):
    """Ctrl-C in the middle of the training: one line, and not even an empty folder is left.
    SIGTERM: the same, silently.
    """
    monkeypatch.setattr(bars, "place", lambda: sys.stderr)  # the bar shows that it trains
    before = snapshot(place)
    child = fork(*filled(ENDLESS[writer]))
    wait_for(lambda: (place / "out").exists() and "/100000" in child.files[1].read_text(), child)
    time.sleep(0.3)
    os.kill(child.pid, signal_sent)
    done = child.wait(30)
    if signal_sent == signal.SIGINT:
        assert (
            done.code in (2, 130)
            and len(errors_of(done)) == 1
            and "interrupted" in errors_of(done)[0]
        )
    else:
        assert done.code == 143 and errors_of(done) == []
    assert snapshot(place) == before


def test_interrupted_side_by_side(place, filled, fork, snapshot):
    """Both processes that train are gone when the command ends, and it alone has spoken."""
    before = snapshot(place)
    child = fork(*filled([a for a in ENDLESS["models"] if a != "--only=base"]))
    running = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    if not running.exists():
        pytest.skip("no /proc: the processes cannot be found")
    wait_for(lambda: len(running.read_text().split()) == 2, child)
    pids = running.read_text().split()
    time.sleep(0.5)
    os.kill(child.pid, signal.SIGINT)
    done = child.wait(30)
    assert done.code == 130 and len(errors_of(done)) == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert snapshot(place) == before
