"""Command lines: exit status, one line for a mistake, knobs as flags, `.env`."""

import errno
import os
import signal
import sys
import time
from typing import Annotated

import pytest
import torch
import typer
from safetensors import SafetensorError

from brittle.base import command as command_module
from brittle.base.errors import UserError


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """command(main, *arguments) -> (exit status, stdout, stderr) of `cli.run(main)`."""
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            command_module.run(main)
        return stop.value.code, *capsys.readouterr()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(("value", "status"), [(None, 0), (0, 0), (1, 1), (7, 7), ("text", 0)])
def test_status_is_what_main_returns(command, value, status):
    assert command(lambda: value) == (status, "", "")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (UserError("asked X, there is Y,\n  do   Z."), "asked X, there is Y, do Z."),
        (
            OSError(errno.ENOSPC, "No space left on device", "/out/x.csv"),
            "cannot write /out/x.csv: No space left on device",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "cannot write the results: No space left on device",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/out"),
            "cannot write /out: Read-only file system",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/out"),
            "cannot write /out: Permission denied",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "/out"),
            "cannot write /out: Disk quota exceeded",
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long", "y" * 400), "is too long for a file"),
        (
            SafetensorError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            ),
            "cannot write the weights: No space left on device",
        ),
        (SafetensorError("Error while deserializing header: header too small"), "cannot be read"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "out of GPU memory: lower --batch-size",
        ),
    ],
)
def test_mistakes_and_full_disks_take_one_line(command, error, says):
    status, out, err = command(raising(error))
    assert (
        status == 2
        and out == ""
        and err.startswith("error: ")
        and err.count("\n") == 1
        and says in err
    )
    assert len(err) < 300


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        ValueError("x"),
        AssertionError("x"),
        OSError(errno.EIO, "I/O error"),
        TypeError("x"),
    ],
)
def test_bugs_keep_their_traceback(command, error):
    """What no user can mend is not dressed up as their mistake."""
    status, _, err = command(raising(error))
    assert status == 1 and "Traceback" in err and "error: " not in err.replace("Error: ", "")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_interrupted(command, error):
    status, _, err = command(raising(error))
    assert status == 130 and err.startswith("error: interrupted") and err.count("\n") == 1


def test_an_error_that_an_interrupt_caused_is_the_interrupt(command):
    """Libraries catch KeyboardInterrupt while they import, and then fail otherwise."""

    def main():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
        except KeyboardInterrupt:
            raise ImportError("cannot import name 'x'") from None

    status, _, err = command(main)
    assert status == 130 and err.startswith("error: interrupted") and err.count("\n") == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_import_that_swallows_the_interrupt_is_interrupted_again(
    command, tmp_path, monkeypatch, number, status
):
    """numpy, torch and transformers all wrap imports in `except`; a module half imported fails much
    later, or never.
    """
    (tmp_path / "stubborn.py").write_text(
        "import os, time\n"
        "try:\n"
        f"    os.kill(os.getpid(), {int(number)}); time.sleep(1)\n"
        "except BaseException:\n"
        "    pass\n"
        "for _ in range(1000):\n"
        "    time.sleep(0.01)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    reached = []

    def main():
        import stubborn  # noqa: F401

        reached.append(True)

    code, _, err = command(main)
    assert code == status and not reached and err.count("\n") == (number == signal.SIGINT)


def test_clean_up_is_not_interrupted(command):
    """What is raised again is raised into imports alone."""
    cleaned = []

    def main():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
        finally:
            for _ in range(50):
                time.sleep(0.01)
            cleaned.append(True)

    assert command(main)[0] == 130 and cleaned


def test_terminated_says_nothing_and_cleans_up(command):
    cleaned = []

    def main():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            cleaned.append(True)

    assert command(main) == (143, "", "") and cleaned


def sized(
    size: Annotated[int, typer.Option(min=1, help="Size.")],
    fast: Annotated[bool, typer.Option("--fast")] = False,
):
    """Do it."""
    print(size, fast)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing option '--size'"),
        (["--size"], "requires an argument"),
        (["--size", "x"], "--size"),
        (["--size", "0"], "--size"),
        (["--siz", "1"], "No such option: --siz"),
        (["--size", "1", "more"], "unexpected extra argument"),
        (["--size", "1", "--fast=maybe"], "--fast"),
    ],
)
def test_wrong_command_lines(command, arguments, says):
    """Whatever version of typer and click is there: one line, no usage text, no traceback."""
    status, out, err = command(sized, *arguments)
    assert (
        status == 2
        and out == ""
        and err.startswith("error: ")
        and err.count("\n") == 1
        and says in err
    )


def test_right_command_lines(command):
    assert command(sized, "--size", "3", "--fast") == (0, "3 True\n", "")
    status, out, _ = command(sized, "--help")
    assert status == 0 and "Do it." in out and "--size" in out


def test_knobs_become_flags(command):
    """Each knob is an option with a dash, a text, and None where it is not given."""
    seen = {}

    def main(size: Annotated[int, typer.Option()] = 3, **knobs):
        """Do it."""
        seen.update(knobs, size=size)

    wrapped = command_module.with_knobs(
        main, {"layer_id": "Block [rmu 7].", "beta": "Temperature."}
    )
    assert command(wrapped, "--layer-id", "1,2")[0] == 0
    assert seen == {"layer_id": "1,2", "beta": None, "size": 3}
    assert "Block [rmu 7]." in command(wrapped, "--help")[1]
    assert "No such option" in command(wrapped, "--gamma", "1")[2]


def test_env_file_fills_in_and_the_environment_wins(command, monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("BRITTLE_A=file\nBRITTLE_B=file\n")
    monkeypatch.setenv("BRITTLE_A", "environment")
    monkeypatch.setenv("BRITTLE_B", "to be removed")
    monkeypatch.delenv("BRITTLE_B")
    seen = []
    command(lambda: seen.append((os.environ["BRITTLE_A"], os.environ["BRITTLE_B"])))
    assert seen == [("environment", "file")]


@pytest.mark.parametrize(
    ("given", "cores", "used"),
    [
        ("3", 64, 3),
        (" 3 ", 64, 3),
        ("2,1", 64, 2),
        ("", 64, 8),
        (" ", 64, 8),
        ("0", 64, 8),
        (None, 64, 8),
        (None, 2, 2),
        (None, None, 1),
    ],
)
def test_threads(monkeypatch, given, cores, used):
    monkeypatch.delenv("OMP_NUM_THREADS")
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert command_module.threads() == used


@pytest.mark.parametrize("text", ["auto", "-1", "2;1", "1.5", "100000", "99999999999", "²"])
def test_threads_that_are_no_number(monkeypatch, text):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with pytest.raises(UserError, match=f"OMP_NUM_THREADS is '{text}'. A whole number up to"):
        command_module.threads()


def test_an_option_that_may_be_repeated_takes_several_words(command, capsys):
    """First use 36: `--models A B` is the natural guess."""

    def main(
        models: Annotated[list[str], typer.Option()] = (),
        lr: Annotated[list[float], typer.Option()] = (),
        name: str = "",
    ):
        print(list(models), list(lr), name)

    mixed = ("--models", "a", "b", "--lr", "1e-3", "2", "--models", "c", "--name", "x")
    assert command(main, *mixed)[1] == "['a', 'b', 'c'] [0.001, 2.0] x\n"
    assert command(main, "--models=a", "--models", "b", "c")[1] == "['a', 'b', 'c'] [] \n"
    status, _, err = command(main, "--name", "x", "y")
    assert status == 2 and "y" in err  # a single value stays one

    def acting(action: Annotated[str, typer.Argument()], models: list[str] = ()):
        print(action, list(models))

    assert command(acting, "--models", "a", "go")[1] == "go ['a']\n"


def test_a_command_ends_with_where_its_results_are(command, tmp_path):
    """First use 17: a script may not print nothing. What it says itself takes the place of that."""
    from brittle.base.record import Run, say

    def main(says: bool = False, fails: bool = False):
        with Run("out") as run:
            run.csv("first.csv", ["x"], [{"x": 1}])
            run.csv("main.csv", ["x"], [{"x": 1}, {"x": 2}])
        with Run("other", quiet=True) as run:
            run.csv("quiet.csv", ["x"], [{"x": 1}])
        with Run("figures") as run:
            run.path("a.png").write_bytes(b"a")
        if says:
            say("out/main.csv", "recovery 0.85")
        if fails:
            raise UserError("one matrix is broken.")
        print("a table")

    figures = "figures: 1 files, such as a.png\n"
    assert command(main)[1] == f"a table\nout/main.csv: 2 rows\n{figures}"
    assert command(main, "--says")[1] == f"a table\nout/main.csv: recovery 0.85\n{figures}"
    status, out, err = command(main, "--fails")
    assert status == 2 and out.startswith("out/main.csv: 2 rows") and "broken" in err
    assert command(lambda: None)[1] == ""  # nothing is left over for the next command
