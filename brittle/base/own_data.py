"""Which data a command reads where the command line does not say it.

`follow` stands around every script (base.command.run), so the rule is one:

- `--forget`, `--retain` and other texts that are left out lie in the folder `--data`.
- Where `--data` is left out too, the record of the model says on which data it was unlearned, or of
  which it was taught the facts, and that folder is taken. A line says so.
- Where no record says it, the mini world is the default. A line says so for a model that is not of
  the mini family.
"""

import functools
import inspect
import itertools
import json
import sys
from pathlib import Path
from typing import NamedTuple

from brittle.base.layout import inner, looks_like_folder

MINI = Path("data/mini")
# the argument that names the model, the first that there is: it may have been unlearned
MODELS = ("model", "models", "model_b", "unlearned", "base", "model_a")


def follow(main):
    """`main`, with the paths below data/mini that are its defaults replaced where another folder is
    meant.
    """
    parameters = inspect.signature(main).parameters
    below = {
        name: parameter.default.relative_to(MINI)
        for name, parameter in parameters.items()
        if isinstance(parameter.default, Path) and parameter.default.is_relative_to(MINI)
    }

    @functools.wraps(main)
    def followed(**arguments):
        left_out = [name for name in below if name in arguments and not _is_given(name)]
        model = _model(arguments)
        if left_out and model:
            data = arguments.get("data")
            if "data" not in below or "data" in left_out:
                data = left_out_data(model)
            for name in left_out:
                arguments[name] = _of_folder(Path(data) / below[name])
        return main(**arguments)

    return followed if below else main


def _of_folder(path):
    """The path, or the JSON-lines file of that name where it alone is there."""
    lines = path.with_suffix(".jsonl")
    return lines if path.suffix == ".txt" and lines.is_file() and not path.is_file() else path


def _is_given(name):
    """Whether the command line has the flag of the argument `name`."""
    flag = f"--{name.replace('_', '-')}"
    return any(word == flag or word.startswith(f"{flag}=") for word in sys.argv[1:])


def _model(arguments):
    """The model that the command is about; None where it names none."""
    for name in MODELS:
        value = arguments.get(name)
        if isinstance(value, list | tuple) and value:
            return str(value[0])
        if isinstance(value, str):
            return value
    return None


def left_out_data(model):
    """The folder to read where `--data` is left out, and a line on stderr where it may surprise."""
    record = made_on(model)
    if record is not None and record.data.resolve() == MINI.resolve():
        return MINI
    if record is not None and record.data.is_dir():
        _say(f"--data is left out: {model} {record}, which is read.")
        return record.data
    if record is not None:
        _say(
            f"--data is left out, and {model} {record}, which is not there. "
            f"It is asked about the mini world ({MINI}): give --data DIR."
        )
    elif not is_mini(model):
        _say(f"--data is left out: {model} is asked about the mini world ({MINI}).")
    return MINI


class MadeOn(NamedTuple):
    """The data folder that the record of a model names. taught: an injected model, whose facts lie
    there; otherwise the model was unlearned on them.
    """

    data: Path
    taught: bool

    def __str__(self):
        return (
            f"was taught the facts of {self.data}"
            if self.taught
            else f"was unlearned on {self.data}"
        )


def unlearned_on(model):
    """The data folder of the record of a model; None where it has no such record."""
    record = made_on(model)
    return record.data if record else None


def made_on(model):
    """`MadeOn` by the record of a model: the folder of its questions, else of its forget texts.

    None where the model has no record of how it was unlearned or taught.
    """
    folder = inner(Path(model).expanduser())
    for path in sorted(folder.glob("*.run.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            command = [str(word) for word in record["command"]]
            inputs = [Path(name) for name in record["inputs"]]
            taught = "teaching" in (record.get("settings") or {})
        except (OSError, ValueError, KeyError, TypeError):
            continue
        given = {one: Path(other) for one, other in itertools.pairwise(command)}
        questions = [file for file in inputs if file.name.startswith("mcq_")]
        texts = [file for file in inputs if file.stem in ("forget", "pretrain_base")]
        if "--forget" in given:
            texts.insert(0, given["--forget"])
        for file in [*questions, *texts]:
            return MadeOn(file.parent, taught)
    return None


def is_mini(model):
    """Whether a model says that it is of the mini family; a name of the hub is not."""
    folder = inner(Path(model).expanduser())
    if not folder.is_dir():
        # what is not there is said where it is looked for
        return looks_like_folder(model)
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["family"] == "mini"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _say(text):
    print(f"note: {text}", file=sys.stderr)
