"""What is written to the disk, said before it is written; and what can be removed again."""

import json
import re
import shutil
from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.files import REMOVED, describe_file, removed, replace_text
from brittle.base.layout import WEIGHT_SUFFIXES, weight_files

WEIGHTS = "*.safetensors"  # what the project writes and loads
UNITS = ("bytes", "kB", "MB", "GB", "TB")


def size_of(folder, pattern="**/*"):
    """Bytes of the files in `folder` that match; links and folders count nothing."""
    files = [file for file in Path(folder).glob(pattern) if file.is_file()]
    return sum(file.stat().st_size for file in files if not file.is_symlink())


def weights_size(model):
    """Bytes of the weights that a model loads, also where they lie in the hub's cache behind links.

    They count in whatever format they are; see `layout.weight_files`.
    """
    return sum(file.stat().st_size for file in weight_files(model) if file.is_file())


def shown(size):
    """A number of bytes as text, in units of 1000."""
    unit = 0
    while size >= 1000 and unit < len(UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.3g} {UNITS[unit]}" if size < 1000 else f"{size:,.0f} {UNITS[unit]}"


def free_space(folder):
    """Bytes that are free where `folder` is, or will be."""
    folder = Path(folder).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def space_line(what, size, folder):
    """One line before weights are written: what, how much, and what is free.

    Raises UserError where the disk cannot hold it.
    """
    free = free_space(folder)
    if size > free:
        raise UserError(
            f"{what} would take {shown(size)} in {folder}, where {shown(free)} are free. "
            "Free space (experiment/clean.py lists what can go), or write elsewhere."
        )
    return f"writes {what}: about {shown(size)} in {folder} ({shown(free)} are free)"


def remove_weights(model):
    """Delete the weights of a model folder; what was there is noted in it. Returns their bytes.

    Records that name them stay true: `files.changed` reads the note.
    """
    model = Path(model)
    files = sorted(model.glob(WEIGHTS))
    if not files:
        return 0
    size = sum(file.stat().st_size for file in files)
    note = {**removed(model), **{file.name: describe_file(file) for file in files}}
    replace_text(model / REMOVED, json.dumps(note, indent=1))
    for file in files:
        file.unlink()
    return size


def has_removed_weights(model):
    """Whether weights of the model folder were removed, and were not made again since."""
    return bool(removed(model)) and not any(Path(model).glob(WEIGHTS))


def weights_all(folder):
    """Bytes of all weights below `folder`, in every format and each copy."""
    names = re.compile(r"model|consolidated|\.gguf$")
    files = [file for file in Path(folder).rglob("*") if file.suffix in WEIGHT_SUFFIXES]
    weights = [file for file in files if names.search(file.name) and not file.is_symlink()]
    return sum(file.stat().st_size for file in weights)


def check_keep(text):
    """Whether `--keep-weights` keeps them. Raises UserError for what is neither yes nor no."""
    if text not in ("yes", "no"):
        raise UserError(f"--keep-weights {text}: choose yes or no.")
    return text == "yes"
