"""Outputs are all there or not at all, and the record beside them says when they must be made
again.
"""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from brittle.base import files, record
from brittle.base.errors import UserError
from brittle.base.layout import comparison_dir, model_name, unlearned_dir
from brittle.base.record import Run, why_run

COMMAND = ["script.py", "--x", "1"]
ROWS = [{"a": 1, "b": 0.1 + 0.2}, {"a": 2, "b": None}]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A command with two inputs, its output written once."""
    (tmp_path / "one.txt").write_text("one\n")
    (tmp_path / "two.txt").write_text("two\n")
    monkeypatch.setattr(sys, "argv", COMMAND)
    monkeypatch.chdir(tmp_path)
    make()
    return tmp_path / "out"


def make(**changes):
    with Run("out", **{"inputs": ["one.txt", "two.txt"], "seed": 3, **changes}) as run:
        run.path("figure.png").write_bytes(b"png")
        run.csv("x.csv", ["a", "b"], ROWS)


def why(command=COMMAND, name="x.csv"):
    return why_run(Path("out") / name, command)


def change_record(key, value):
    path = Path("out/x.run.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))


# --- when a step runs again


def test_nothing_changed(world):
    assert why() is None


def touch(path, size=None):
    later = time.time_ns() + 10**9
    os.utime(path, ns=(later, later))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda: None, None),
        # same bytes: a restored or touched file gives the same result
        (lambda: touch("one.txt"), None),
        (lambda: touch("out/x.csv"), None),
        (lambda: Path("new.txt").write_text("not read"), None),
        (lambda: Path("out/other.csv").write_text("not of this run"), None),
        # same size, older
        (
            lambda: (Path("one.txt").write_text("ONE\n"), os.utime("one.txt", (0, 0))),
            "one.txt changed",
        ),
        (lambda: Path("one.txt").write_text("one\nmore\n"), "one.txt changed"),
        (lambda: os.unlink("two.txt"), "two.txt changed"),
        (lambda: os.unlink("out/x.csv"), "no output yet"),
        (lambda: os.truncate("out/x.csv", 5), "x.csv is not what was written"),
        (lambda: os.truncate("out/x.csv", 0), "x.csv is not what was written"),
        (lambda: Path("out/x.csv").write_text("a,b\n9,9\n"), "x.csv is not what was written"),
        (lambda: os.unlink("out/figure.png"), "figure.png is not what was written"),
        (lambda: os.unlink("out/x.run.json"), "no record"),
        (lambda: os.truncate("out/x.run.json", 30), "no record"),
        (lambda: Path("out/x.run.json").write_bytes(b"\xff\xfe\x00"), "no record"),
        (lambda: Path("out/x.run.json").write_text("[]"), "no record"),
        (lambda: Path("out/x.run.json").write_text("null"), "no record"),
        (lambda: Path("out/x.run.json").write_text("{}"), "no record"),
        # a record of other files says nothing of this one
        (lambda: change_record("outputs", {}), "no record"),
        (lambda: change_record("outputs", ["x.csv"]), "no record"),
        (lambda: change_record("inputs", {"one.txt": None}), "no record"),
        (lambda: change_record("command", [*COMMAND, "--y"]), "made by another command line"),
    ],
)
def test_why_run(world, change, reason):
    change()
    found = why()
    assert found == reason if reason is None else (found or "").startswith(reason)


def test_another_command_line_runs_again(world):
    assert why([*COMMAND[:2], "2"]) == "made by another command line"
    assert why(COMMAND[:1]) == "made by another command line"


def study(place, monkeypatch):
    """A study in the folder `place`: its text, a model of the hub's cache, a result of both."""
    project, cache = place / "project", place / "home" / "hub"
    snapshot, blob = cache / "models--a--b" / "snapshots" / "1", cache / "models--a--b" / "blobs"
    for folder in (project / "data", snapshot, blob):
        folder.mkdir(parents=True)
    (project / "data" / "one.txt").write_text("one\n")
    (blob / "config").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/config")
    stand_in(place, monkeypatch)
    # as one who gives absolute paths does
    command = ["script.py", "--data", str(project / "data"), f"--root={project / 'out'}"]
    monkeypatch.setattr(sys, "argv", command)
    awaited = project / "later.csv"
    inputs, models = [project / "data" / "one.txt"], {"model": str(snapshot)}
    with Run(project / "out", inputs, models, settings={"absent": [str(awaited)]}) as run:
        run.csv("x.csv", ["a", "b"], ROWS)


def stand_in(place, monkeypatch):
    monkeypatch.chdir(place / "project")
    monkeypatch.setenv("HF_HUB_CACHE", str(place / "home" / "hub"))


def why_study(command):
    return why_run(Path("out/x.csv"), command)


@pytest.mark.parametrize("how", ["renamed", "copied"])
@pytest.mark.parametrize("given", ["data", "{here}/data"])
def test_a_finished_study_stays_valid_elsewhere(tmp_path, monkeypatch, how, given):
    """Moved, or copied with new times: the files beside it count, not those of the old place."""
    old, new = tmp_path / "old", tmp_path / "new"
    study(old, monkeypatch)
    if how == "renamed":
        old.rename(new)
    else:
        shutil.copytree(old, new, symlinks=True, copy_function=shutil.copyfile)
        (old / "project" / "data" / "one.txt").write_text("the old place has another text\n")
        (old / "home" / "hub" / "models--a--b" / "blobs" / "config").write_text("{'another': 1}")
    stand_in(new, monkeypatch)
    folder = given.format(here=new / "project")
    command = ["script.py", "--data", folder, "--root=out"]
    assert why_study(command) is None
    assert why_study([*command, "--x"]) == "made by another command line"
    Path("later.csv").touch()
    assert why_study(command) == "later.csv is new"
    config = new / "home" / "hub" / "models--a--b" / "blobs" / "config"
    config.write_text("{ }")
    place = "models--a--b/snapshots/1/config.json"
    assert why_study(command) == f"$HF_HUB_CACHE/{place} changed"
    Path("data/one.txt").write_text("another text\n")
    assert why_study(command) == "data/one.txt changed"


def test_a_study_that_is_reached_through_a_link_is_the_same(tmp_path, monkeypatch):
    study(tmp_path / "old", monkeypatch)
    (tmp_path / "link").symlink_to(tmp_path / "old" / "project")
    folder = tmp_path / "link" / "data"
    assert why_study(["script.py", "--data", str(folder), "--root=out"]) is None
    assert record.within_project(folder / "one.txt") == "data/one.txt"


def test_what_lies_elsewhere_keeps_its_path(tmp_path, monkeypatch):
    study(tmp_path / "old", monkeypatch)
    assert record.within_project("/etc//hosts") == "/etc/hosts"
    command = ["infer.py", "--prompt", "/what//is it", "--x=/etc//hosts", "a=b", "-1"]
    assert record.portable(command) == command


def test_the_hubs_cache_is_where_huggingface_hub_has_it(monkeypatch):
    """In an environment of its own, for the library reads it once."""
    code = "from huggingface_hub import constants as c; print(c.HF_HUB_CACHE)"
    for given in ({}, {"HF_HOME": "/h"}, {"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}):
        for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HUGGINGFACE_HUB_CACHE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert record.hub_cache() == Path(shown.stdout.strip())


def test_a_changed_script_runs_again(tmp_path, monkeypatch):
    """The script is part of the code that made a result."""
    monkeypatch.chdir(tmp_path)
    Path("script.py").write_text("# one")
    (tmp_path / "one.txt").write_text("1")
    monkeypatch.setattr(sys, "argv", COMMAND)
    make(inputs=["one.txt"])
    assert why() is None
    Path("script.py").write_text("# two, longer")
    assert why() == "made by older code: script.py"


def test_a_change_during_the_run_is_seen(world):
    """Inputs are hashed before the work: what was read is what stood there at the start."""
    with Run("out", inputs=["one.txt"]) as run:
        Path("one.txt").write_text("changed meanwhile\n")
        run.csv("x.csv", ["a", "b"], ROWS)
    assert why() == "one.txt changed"


# --- all or nothing


def test_csv_is_exact(world):
    with open(world / "x.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(r["a"]), r["b"]) for r in rows] == [(1, repr(0.1 + 0.2)), (2, "")]


def test_record_says_what_was_done(world):
    record = json.loads((world / "x.run.json").read_text())
    assert record["command"] == COMMAND and record["seed"] == 3 and record["rows"] == {"x.csv": 2}
    assert set(record["inputs"]) == {"one.txt", "two.txt"} and set(record["outputs"]) == {
        "x.csv",
        "figure.png",
    }
    digest = subprocess.run(
        ["sha256sum", "one.txt"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    assert record["inputs"]["one.txt"]["sha256"] == digest
    assert record["versions"]["python"].startswith("3.") and record["seconds"] >= 0


@pytest.mark.parametrize(
    "error",
    [UserError("x"), KeyboardInterrupt(), OSError(28, "No space left on device"), AssertionError()],
)
@pytest.mark.parametrize("folder", ["out", "deep/er/new"])
def test_failure_leaves_everything_as_it_was(world, snapshot, error, folder):
    before = snapshot(world.parent)
    with pytest.raises(type(error)), Run(folder, inputs=["one.txt"]) as run:
        run.csv("x.csv", ["a", "b"], ROWS)
        run.path("half.png").write_bytes(b"x")
        raise error
    assert snapshot(world.parent) == before


@pytest.mark.parametrize("broken", ["hash", "row", "finish"])
def test_failure_at_either_end_leaves_everything_as_it_was(world, snapshot, monkeypatch, broken):
    before = snapshot(world.parent)
    inputs = ["one.txt", "missing.txt"] if broken == "hash" else ["one.txt"]
    if broken == "finish":
        monkeypatch.setattr(record, "git_commit", lambda: 1 / 0)
    with (
        pytest.raises((UserError, AssertionError, ZeroDivisionError)),
        Run("new/folder", inputs=inputs) as run,
    ):
        run.csv("x.csv", ["a", "b"], [{"a": 1}] if broken == "row" else ROWS)
    assert snapshot(world.parent) == before


def test_missing_input_is_named(world):
    with (
        pytest.raises(UserError, match=r"missing\.txt not found"),
        Run("out", inputs=["missing.txt"]),
    ):
        pass


@pytest.mark.parametrize("place", ["one.txt", "one.txt/below"])
@pytest.mark.parametrize("whole", [False, True])
def test_output_folder_under_a_file(world, snapshot, place, whole):
    before = snapshot(world.parent)
    with pytest.raises(UserError, match="not a folder"), Run(place, whole=whole) as run:
        run.path("x").write_text("x")
    assert snapshot(world.parent) == before


def test_csvs_are_put_in_place_last(world, monkeypatch):
    order = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), replace(a, b)))
    with Run("new") as run:
        run.csv("first.csv", ["a", "b"], ROWS)
        run.path("figure.png").write_bytes(b"png")
        run.csv("second.csv", ["a", "b"], ROWS)
    assert order == ["first.run.json", "second.run.json", "figure.png", "first.csv", "second.csv"]


@pytest.mark.parametrize("stop_after", range(4))
def test_killed_between_the_renames_is_not_done(world, monkeypatch, stop_after):
    """A kill while the files are put in place: old files with the new record, or the reverse, never
    count as done.
    """
    replace, count = os.replace, [0]

    def dying(a, b):
        if count[0] == stop_after:
            raise SystemExit("killed")
        count[0] += 1
        replace(a, b)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(SystemExit), Run("out", inputs=["one.txt"], seed=4) as run:
        run.path("figure.png").write_bytes(b"other png")
        run.csv("x.csv", ["a", "b"], ROWS[:1])
        run.csv("y.csv", ["a", "b"], ROWS)
    assert (why() is None) == (stop_after == 0)  # nothing moved yet: the old result stands
    assert why(name="y.csv") is not None


WRITER = (
    "import sys, time; from brittle.base.record import Run; sys.argv = ['script.py', '--x', '1']\n"
    "with Run('out', inputs=['one.txt']) as run:\n"
    "    run.path('x.csv').write_text('half'); print('written', flush=True); time.sleep(60)"
)


@pytest.fixture
def writer(world):
    """A real process that is writing into out/."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER], stdout=subprocess.PIPE, cwd=world.parent
    )
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_leftovers_of_the_dead_go_and_of_the_living_stay(world, writer):
    (own,) = world.glob(".run*")
    make()
    assert list(world.glob(".run*")) == [own] and (own / "x.csv").exists()
    os.kill(writer.pid, signal.SIGKILL)
    os.waitid(
        os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT
    )  # dead, and not yet reaped: a zombie has a number
    make()
    assert not list(world.glob(".run*"))


def test_sigkill_leaves_the_old_result(world, writer):
    before = (world / "x.csv").read_bytes()
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert (world / "x.csv").read_bytes() == before and why() is None


# --- whole folders


def make_whole(text):
    with Run("models/m", inputs=["one.txt"], whole=True) as run:
        (run.stage / "config.json").write_text("{}")
        run.path("model.safetensors").write_text(text)


def test_whole_folder_is_replaced_and_every_file_counts(world):
    make_whole("one")
    Path("models/m/stale.safetensors").write_text("left by something else")
    make_whole("two")
    assert {p.name for p in Path("models/m").iterdir()} == {
        "config.json",
        "model.safetensors",
        "model.run.json",
    }
    assert [p.name for p in Path("models").iterdir()] == ["m"]
    assert why_run("models/m/model.safetensors", COMMAND) is None
    os.unlink("models/m/config.json")
    assert why_run("models/m/model.safetensors", COMMAND) == "config.json is not what was written"


def test_whole_folder_survives_a_kill_between_its_two_renames(world, monkeypatch):
    make_whole("one")
    rename, count = os.rename, [0]

    def dying(a, b):
        count[0] += 1
        if count[0] == 2:
            raise SystemExit("killed")
        rename(a, b)

    monkeypatch.setattr(os, "rename", dying)
    with pytest.raises(SystemExit):
        make_whole("two")
    monkeypatch.setattr(os, "rename", rename)
    assert not Path("models/m").exists()
    assert (
        why_run("models/m/model.safetensors", COMMAND) is None
    )  # the old folder is back, and still good
    assert Path("models/m/model.safetensors").read_text() == "one"


# --- names


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("EleutherAI/pythia-70m", "EleutherAI_pythia-70m"),
        ("gpt2", "gpt2"),
        ("outputs/models/mini-base", "mini-base"),
        ("outputs/models/mini-base/", "mini-base"),
        ("/somewhere/else/my-model", "my-model"),
        ("./my-model", "my-model"),
        ("../my-model", "my-model"),
        ("outputs/mini-base__npo/unlearned_model", "mini-base__npo"),
        ("/x/mini-base__npo/unlearned_model/", "mini-base__npo"),
        ("/hub/models--EleutherAI--pythia-70m/snapshots/93d1/", "EleutherAI_pythia-70m"),
        ("/hub/models--gpt2/snapshots/93d1", "gpt2"),
        ("/mine/snapshots/93d1", "93d1"),
        ("a/..", None),
        ("..", None),
        (".", None),
        ("/", None),
        ("~", None),
        ("../..", None),
        ("a..b/..c", None),
        ("", None),
    ],
)
def test_model_name(model, name, tmp_path, monkeypatch):
    """Hub ids with / written _, folders by their own name; whatever it is called, a name is one
    part of a path.
    """
    monkeypatch.chdir(tmp_path)
    found = model_name(model)
    assert name is None or found == name
    assert found and "/" not in found and found not in (".", "..") and "\0" not in found
    for path in (comparison_dir("out", model, model), unlearned_dir("out", model, "npo")):
        assert path.resolve().is_relative_to(tmp_path / "out")


@pytest.mark.parametrize("model", ["x" * 300, "owner/" + "x" * 300, "a\0b"])
def test_impossible_names_are_mistakes_of_the_user(model):
    with pytest.raises(UserError, match="cannot be the name of a folder"):
        model_name(model)


def test_large_files_are_hashed_once(tmp_path, monkeypatch):
    """The digest of a large file is kept by path, size and time; a changed file is hashed again."""
    monkeypatch.setattr(files, "HASH_CACHE", tmp_path / "cache" / "sha256.json")
    monkeypatch.setattr(files, "CACHED_FROM", 4)
    path, calls, real = tmp_path / "big", [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: (calls.append(1), real(*a))[1])
    path.write_bytes(b"12345")
    first = files.sha256(path)
    assert first == hashlib.sha256(b"12345").hexdigest() == files.sha256(path) and len(calls) == 1
    path.write_bytes(b"123456")
    assert files.sha256(path) == hashlib.sha256(b"123456").hexdigest() and len(calls) == 2
    files.HASH_CACHE.write_text("damaged")
    assert files.sha256(path) == hashlib.sha256(b"123456").hexdigest()


def test_hub_blobs_are_named_by_their_hash(tmp_path):
    """A snapshot of the hub's cache links to blobs; only the name of 64 digits is a SHA-256 (small
    files have git's).
    """
    for digest, content in (("a" * 64, b"weights"), ("b" * 40, b"config")):
        (tmp_path / "blobs").mkdir(exist_ok=True)
        (tmp_path / "blobs" / digest).write_bytes(content)
        (tmp_path / f"link{len(digest)}").symlink_to(f"blobs/{digest}")
    assert files.sha256(tmp_path / "link64") == "a" * 64
    assert files.sha256(tmp_path / "link40") == hashlib.sha256(b"config").hexdigest()
