"""The commands in fenced blocks of README and docs: how they are found and parsed."""

import re
import runpy
import shlex

import typer

from brittle.base import command as command_module
from brittle.base import knobs
from brittle.base.layout import is_method_file
from support.places import ROOT

# shell scripts hand their arguments to a Python script
SHELL = {
    "./experiment/pipeline.sh": "experiment/pipeline.py",
    "./unlearn/create_all_unlearning_models.sh": "unlearn/create_all.py",
    "unlearn/slurm.sbatch": "unlearn/unlearn.py",
}
# programs that are not ours; their files are looked for, their flags are not checked
FOREIGN = ("pytest", "python", "ruff", "wandb", "pre-commit")
_MAINS = {}


def blocks(text):
    """The fenced blocks of shell commands, without their fences."""
    return re.findall(r"^ *```bash\n(.*?)^ *```", text, re.M | re.S)


def commands(text):
    """The command lines of all blocks. Comments go; lines that end with a backslash are joined."""
    lines = "".join(blocks(text)).replace("\\\n", " ").splitlines()
    lines = [re.split(r"(?:^|\s)#\s", line)[0].strip() for line in lines]
    return [line for line in lines if line]


def split(line):
    """(script or program, arguments) of a command line; uv, sbatch and accelerate are left out."""
    words = shlex.split(line)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if words[:2] == ["uv", "run"]:
        words = words[2:]
    if words[0] == "sbatch":
        words = words[1:]
    if words[0] == "accelerate":
        first = next(i for i, word in enumerate(words) if word.endswith(".py"))
        words = words[first:]
    return SHELL.get(words[0], words[0]), words[1:]


def main_of(script):
    """What a script hands to `command.run`: its `main`, knobs included."""
    if script not in _MAINS:
        handed = []
        original, command_module.run = command_module.run, lambda main, *_: handed.append(main)
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        finally:
            command_module.run = original
        (_MAINS[script],) = handed
    return _MAINS[script]


def parse(script, arguments):
    """{parameter: value} of a call, by the script's own parser.

    Raises a click exception for an unknown flag, a missing value, a wrong type and a missing
    required option, and a UserError for a knob that the method does not read or refuses.
    """
    app = typer.Typer(add_completion=False)
    app.command()(main_of(script))
    parser = typer.main.get_command(app)
    words = command_module.repeated(app, list(arguments))
    values = parser.make_context(script, words).params
    if script == "unlearn/unlearn.py":
        _check_knobs(values)
    return values


def _check_knobs(values):
    """Build the method and the wrappers from a call's knobs, as unlearn.py does.

    The file of a method of the reader's own is not here; tests/house/test_cookbook.py runs one.
    """
    from brittle.methods import METHODS, method_class
    from brittle.methods.wrappers import Wrappers

    method = values["method"]
    if is_method_file(method):
        return
    of_methods = knobs.all_knobs({name: method_class(name) for name in METHODS})
    of_wrappers = knobs.knobs(Wrappers)
    given = {key: value for key, value in values.items() if value is not None}
    wraps = {key: given[key] for key in given if key in of_wrappers}
    own = {key: given[key] for key in given if key in of_methods and key not in of_wrappers}
    knobs.build(method_class(method), method, own, seed=0)
    knobs.build(Wrappers, method, wraps)
