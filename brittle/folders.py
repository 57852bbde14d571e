"""Folders of models: where the model lies in the folder that was given, and what makes one that is not there."""

import re
from pathlib import Path

from brittle.errors import UserError
from brittle.filter_files import FILTER

INNER = "unlearned_model"
TAG = re.compile(r"(?=.{1,60}$)[A-Za-z0-9]+([._-][A-Za-z0-9]+)*")


def looks_like_folder(model):
    return model.startswith((".", "/", "~", "outputs/", "data/")) or model.count("/") > 1


def is_local(model):
    """Whether `model` is a path, and not an id of the hub."""
    return looks_like_folder(model) or Path(model).expanduser().exists()


def inner(folder):
    """`folder`, or the unlearned_model/ in it where that is the model: outputs/mini-base__npo means the model inside."""
    folder = Path(folder)
    own = any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
    return folder / INNER if not own and (folder / INNER / "config.json").is_file() else folder


def how_to_make(folder):
    """What to do about a model folder that is not there, by its name."""
    home = folder.parent if folder.name == INNER else folder
    base, _, method = home.name.rpartition("__")
    source = home.parent / "models" / base
    of = f" --model {source}" if base and source.is_dir() else ""
    name, _, tag = method.partition("-")
    if base and method == FILTER:
        return f"Make it with: uv run hooks/bake_filter.py{of}"
    if base and not base.endswith("__to") and name:
        return f"Make it with: uv run unlearn/unlearn.py{of} --method {name}" + (f" --name {tag}" if tag else "")
    if folder.name == INNER:
        return "Make it with unlearn/unlearn.py, or check the path."
    mini = home.name.startswith("mini-") and not base
    return "Make the mini models with: uv run create_models.py" if mini else "Check the path."


def check_tag(tag):
    """A tag becomes part of a folder's name; two underscores and dots in a row have a meaning there."""
    if tag and not TAG.fullmatch(tag):
        raise UserError(f"--name {tag[:60]!r}: up to 60 letters and digits, with single . _ or - between them.")
    return tag
