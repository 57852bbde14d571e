"""What does each model and comparison take on the disk, and what can go?

    uv run experiment/clean.py                      lists; removes nothing
    uv run experiment/clean.py --weights            lists also the weights of unlearned models
    uv run experiment/clean.py --weights --remove   removes what the same command lists

Leftovers can go without loss: folders of runs that were killed, and copies that a rename left.
Checkpoints of an unlearning run that was interrupted are what --resume goes on from. Weights of an
unlearned model can be made again, by the command in its record. Its results stay true without them
(weights.removed.json in its folder holds their hashes). The pipeline and create_all make them again
where a step reads them; every other command says how to make them.
Weights that no record tells how to make are never removed, nor are Base, Filtered and results.
"""

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from brittle.base import command, disk, options
from brittle.base.errors import UserError
from brittle.base.files import abandoned
from brittle.base.layout import INNER
from brittle.base.tables import aligned


class Removable(NamedTuple):
    """Something that can go: a folder, or the weights in it."""

    folder: Path
    what: str
    size: int


def homes(root):
    """The folders that are listed: those of `root`, and each model in models/."""
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    return [
        inner
        for folder in folders
        for inner in (sorted(folder.iterdir()) if folder.name == "models" else [folder])
        if inner.is_dir()
    ]


def leftovers(root):
    """Folders of runs that were killed, and old copies whose new one is in place."""
    for folder in sorted(root.rglob(".*")):
        name = folder.name[1:]
        if not folder.is_dir() or folder.is_symlink():
            continue
        is_stage = ".part-" in name and abandoned(folder)
        is_copy = name.endswith(".old") and folder.with_name(name.removesuffix(".old")).exists()
        if is_stage or is_copy:
            yield Removable(folder, "left by a run that was killed", disk.size_of(folder))


def checkpoints(root):
    """What unlearning runs that were interrupted left; none of a run that goes on."""
    for home in sorted(root.glob("*__*")):
        if any(not abandoned(stage) for stage in home.glob(f".{INNER}.part-*")):
            continue
        for name in ("checkpoint", "best"):
            if (home / name).is_dir():
                what = "checkpoint of an interrupted run (--resume)"
                yield Removable(home / name, what, disk.size_of(home / name))


def weights(root):
    """Weights of unlearned models whose records say how to make them again."""
    for model in sorted(root.glob(f"*__*/{INNER}")):
        size = disk.weights_size(model)
        if size and any(model.glob("*.run.json")):
            yield Removable(model, "weights, which can be made again", size)


def remove(item):
    """Remove what is listed."""
    import shutil

    if item.what.startswith("weights"):
        disk.remove_weights(item.folder)
    else:
        shutil.rmtree(item.folder)


def main(
    root: options.Root = Path("outputs"),
    with_weights: Annotated[
        bool, typer.Option("--weights", help="Also the weights of unlearned models.")
    ] = False,
    do_remove: Annotated[
        bool, typer.Option("--remove", help="Remove what is listed (without: only say it).")
    ] = False,
):
    """List what results take on the disk, and remove what can go."""
    from brittle.pipeline.runner import only_one

    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder.")
    taken = [(folder, disk.size_of(folder), disk.weights_all(folder)) for folder in homes(root)]
    table = [
        [str(folder.relative_to(root)), disk.shown(size), disk.shown(of_weights)]
        for folder, size, of_weights in sorted(taken, key=lambda row: -row[1])
    ]
    total = [sum(row[i] for row in taken) for i in (1, 2)]
    print("\n".join(aligned([["folder", "all", "weights"], *table, ["", *map(disk.shown, total)]])))
    items = [*leftovers(root), *checkpoints(root), *(weights(root) if with_weights else [])]
    size = disk.shown(sum(item.size for item in items))
    if not items:
        more = "" if with_weights else " (--weights: those of unlearned models)"
        print(f"\nnothing can be removed{more}")
        return
    print(f"\n{'removed' if do_remove else 'can be removed'}: {size}")
    print("\n".join(f"  {disk.shown(item.size):>8}  {item.folder}: {item.what}" for item in items))
    if not do_remove:
        print("Nothing was removed. --remove does it.")
        return
    with only_one(root):
        for item in items:
            remove(item)


if __name__ == "__main__":
    command.run(main)
