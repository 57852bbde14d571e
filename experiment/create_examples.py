"""Stand-ins for what the cookbook calls my_...: small models, data and files, so that every recipe
runs before you have a model of your own.

uv run experiment/create_examples.py         writes my_model, my_data, ... where you stand

my_data is a small mini world, with texts and questions. my_model is a Llama of a million parameters
that learned all of it, my_filtered one that never saw the forget domain, my_unlearned is my_model
unlearned by NPO. my_chat_model has a chat template and learned the facts as chats. my_tofu holds
another world, of which no model knows anything, in the files and columns of locuslab/TOFU, my_muse
a third in those of MUSE. The other files are texts, chats and prompts of my_data. Everything is
made by the commands that the cookbook shows.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.base.files import missing_folders, remove_empty

HERE = Path(__file__).resolve().parents[1]
MODELS = ("my_model", "my_filtered", "my_unlearned", "my_chat_model")
# how long and how fast my_model is unlearned: it forgets, and its language stays
UNLEARNING = (
    *("--method", "npo", "--lr", "4e-4", "--steps", "60", "--batch-size", "16"),
    *("--beta", "0.17", "--retain-loss", "kl", "--retain-weight", "15"),
)


def main(
    outdir: options.Outdir = Path("."),
    entities: Annotated[
        int, typer.Option(min=8, help="Entities a domain of the world that the models learn.")
    ] = 12,
    seed: options.Seed = 1,
    device: options.Device = "auto",
):
    """Write small stand-ins for the models, data and files that the cookbook calls my_..."""
    from brittle.data import stand_ins
    from brittle.models.load import pick_device

    there = [name for name in (*stand_ins.NAMES, *MODELS) if (outdir / name).exists()]
    if there:
        raise UserError(
            f"{outdir / there[0]} is there already. Choose another --outdir, or remove it."
        )
    pick_device(device)  # a wrong one is said before anything is made
    new = missing_folders(outdir)
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".examples", dir=outdir) as folder:
            stage = Path(folder)
            stand_ins.write(stage, entities, seed)
            make_models(stage, stage / "my_data", ["--seed", str(seed), "--device", device])
            for name in (*stand_ins.NAMES, *MODELS):
                shutil.move(stage / name, outdir / name)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--outdir {outdir} is or lies under a file. Choose another.") from None
    finally:
        remove_empty(new)
    for name in (*stand_ins.NAMES, *MODELS):
        print(outdir / name)


def make_models(folder, data, more):
    """Teach the models of MODELS the facts of `data`, and save them into `folder`."""
    from brittle.data.texts import read_lines
    from brittle.training.blank import save_blank

    texts = read_lines(data / "tokenizer.txt")
    for name, chat in (("plain", False), ("chat", True)):
        save_blank(folder / name, texts, chat=chat)
    taught = ["--data", data, "--outdir", folder, "--batch-size", "64", *more]
    both = [
        start("create_models.py", "--from", folder / "plain", *taught),
        start("create_models.py", "--from", folder / "chat", *taught, "--only", "base"),
    ]
    finish(both)
    names = {
        "plain-base": "my_model",
        "plain-filtered": "my_filtered",
        "chat-base": "my_chat_model",
    }
    for old, new in names.items():
        (folder / old).rename(folder / new)
    call = ["--model", folder / "my_model", "--data", data, "--root", folder, *UNLEARNING, *more]
    finish([start("unlearn/unlearn.py", *call)])
    (folder / "my_model__npo" / "unlearned_model").rename(folder / "my_unlearned")


def start(script, *arguments):
    """A process of a script of the repository, with one thread: two run side by side."""
    words = [sys.executable, str(HERE / script), *map(str, arguments)]
    return subprocess.Popen(words, env={"OMP_NUM_THREADS": "1", **os.environ})


def finish(processes):
    """Wait for processes. Raises UserError where one failed, and stops the others."""
    try:
        for process in processes:
            if process.wait():
                raise UserError("a model could not be made. Its error stands above.")
    finally:
        for process in processes:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    command.run(main)
