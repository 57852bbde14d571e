"""Running a script as a command: one-line errors, signals, and flags made from a method's knobs."""

import errno
import functools
import inspect
import math
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import code, record
from brittle.base.errors import UserError
from brittle.base.groups import command_class
from brittle.base.own_data import follow
from brittle.base.places import looked_for

# what typer raises for a wrong command line; recent versions carry their own copy of click
ClickException = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
INTERRUPTED, TERMINATED = 130, 143
UNWRITABLE = (
    errno.ENOSPC,
    errno.EROFS,
    errno.EACCES,
    errno.EDQUOT,
    errno.EPERM,
    errno.EFBIG,  # ulimit -f
)


def load_env():
    """Read `.env` (HF_TOKEN, WANDB_API_KEY, HF_HOME); the real environment wins."""
    if Path(".env").exists():
        from dotenv import load_dotenv

        load_dotenv(".env", override=False)


def _one_line(text):
    return " ".join(str(text).split())


def _explain(error):
    """The one line for a mistake or a full disk, or None for what deserves a traceback."""
    free = "Free space or choose another --outdir."
    if isinstance(error, UserError):
        return _one_line(error)
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return f"cannot write {error.filename or 'the results'}: {error.strerror}. {free}"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"the name {str(error.filename)[:60]}... is too long for a file."
    if "SafetensorError" in type(error).__name__:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            if os.strerror(number) in str(error):
                return f"cannot write the weights: {os.strerror(number)}. {free}"
        return (
            f"a safetensors file cannot be read ({_one_line(error)}). "
            "Make or download that model again."
        )
    if "OutOfMemoryError" in type(error).__name__:
        return "out of GPU memory: lower --batch-size or --max-length, or use --device cpu."
    return None


def _importing(frame):
    """Whether an import goes on in `frame` or in a frame that called it."""
    while frame and "importlib._bootstrap" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


def _listen():
    """Let SIGINT and SIGTERM unwind the program, so that it cleans up.

    Returns the list that collects the signals received. Libraries swallow what is raised while they
    import one another, and stay half imported. So it is raised again, every fifth of a second, for
    as long as an import goes on.
    """
    received = []

    def stop(number, frame):
        if number != signal.SIGALRM:
            received.append(number)
        elif not _importing(frame):
            return
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        raise KeyboardInterrupt if received[-1] == signal.SIGINT else SystemExit(TERMINATED)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, stop)
    return received


def _finite(main):
    """`main`, with NaN and infinite numbers refused: they pass every bound."""

    @functools.wraps(main)
    def checked(**arguments):
        for name, value in arguments.items():
            for number in value if isinstance(value, list | tuple) else [value]:
                if isinstance(number, float) and not math.isfinite(number):
                    raise UserError(
                        f"--{name.replace('_', '-')} {number}: a finite number is wanted."
                    )
        return main(**arguments)

    return checked


def repeated(app, words):
    """The words of a command line, with `--models A B` as `--models A --models B`.

    It holds for every option that may be repeated. A command with words of its own beside its
    options is left as it is: its next word may be one of these.
    """
    parameters = typer.main.get_command(app).params
    if any(parameter.param_type_name == "argument" for parameter in parameters):
        return words
    lists = {flag for p in parameters if p.multiple for flag in p.opts}
    spread, flag = [], None
    for before, word in zip(["", *words], words, strict=False):
        if word.startswith("-"):
            flag = word if word in lists else None
        elif flag and before != flag:
            spread.append(flag)
        spread.append(word)
    return spread


def run(main, groups=None, epilog=None, mistake=None):
    """Run `main` as a command. `groups` of its options ({name: names of arguments}) and `epilog`
    are for its --help. `mistake` is a UserError that was found before: it is said, and nothing
    runs.

    Mistakes print one line to stderr and exit 2, Ctrl-C exits 130, and bugs keep their traceback.
    SIGTERM exits 143 and says nothing: it is how one process of ours ends another.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(cls=command_class(groups), epilog=epilog)(_finite(follow(main)))
    received = _listen()
    message, status = None, 0
    watched_before = code.start()
    record.closing_lines()  # nothing of an earlier command of this process
    try:
        load_env()
        if mistake:
            raise mistake
        status = app(repeated(app, sys.argv[1:]), standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except ClickException as error:
        message, status = _one_line(error.format_message()), 2
    except Exception as error:
        message, status = _explain(error), 2
        if message is None and received:
            # libraries turn an interrupted import into errors of their own
            status = INTERRUPTED if received[-1] == signal.SIGINT else TERMINATED
        elif message is None:
            traceback.print_exc()
            sys.exit(1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        code.end(watched_before)
    if status == INTERRUPTED:  # also what typer makes of Ctrl-C
        message = "interrupted; what was finished before is intact, nothing half-written is left."
    for line in record.closing_lines():
        print(line)
    if message:
        print(f"error: {looked_for(message, sys.argv[1:])}", file=sys.stderr)
    sys.exit(status if isinstance(status, int) else 0)


def with_knobs(main, knobs, group="Knobs of the methods"):
    """Give `main(..., **knobs)` one text option for each knob {name: help}, in one group of --help.

    Knobs that are not set arrive as None. Given twice, knobs of both stand there. Raises UserError
    for a knob that is called like an option of `main`.
    """
    signature = inspect.signature(main)
    for name in knobs:
        if name in signature.parameters:
            raise UserError(
                f"{group}: --{name.replace('_', '-')} is an option of this command already. "
                "Give the knob another name."
            )
    fixed = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in signature.parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None,
                typer.Option("--" + name.replace("_", "-"), help=text, rich_help_panel=group),
            ],
        )
        for name, text in knobs.items()
    ]

    def wrapped(**arguments):
        return main(**arguments)

    wrapped.__signature__ = inspect.Signature([*fixed, *added])
    wrapped.__annotations__ = {p.name: p.annotation for p in [*fixed, *added]}
    wrapped.__doc__ = main.__doc__
    return wrapped


MOST_COUNTED = 1024


def threads():
    """How many CPU threads to use: OMP_NUM_THREADS where it is set.

    Else all, but no more than 8: small models spin beyond that.
    """
    return environment_count("OMP_NUM_THREADS") or min(8, os.cpu_count() or 1)


def environment_count(name):
    """The number in the environment variable `name`; None where it is unset, blank or 0.

    Of a list with commas (OpenMP's nested regions) it is the first number. Raises UserError for
    anything else, and for more than MOST_COUNTED: so many threads end a process without a word.
    """
    text = os.environ.get(name, "")
    first = text.split(",")[0].strip()
    if not first:
        return None
    if not first.isdecimal() or int(first) > MOST_COUNTED:
        wanted = f"A whole number up to {MOST_COUNTED} is wanted, or a list of them with commas"
        raise UserError(f"the environment variable {name} is {text!r:.60}. {wanted}.")
    return int(first) or None
