"""Train a family: Base saw the forget domain, Filtered never did.

Both have the same architecture, initial weights and tokenizer. Without --from they are the mini
family, trained from nothing. With --from MODEL they are MODEL, taught the facts of --data: truth is
injected into a model of any family.

uv run create_models.py                  both, side by side: outputs/models/mini-base, mini-filtered
uv run create_models.py --only base      one of them
uv run create_models.py --hidden-size 512 --layers 10 --entities 600 --steps 3000
                                         a family of 30 M parameters, best on a GPU
uv run create_models.py --from MODEL     outputs/models/MODEL-base, MODEL-filtered
uv run create_models.py --from MODEL --depths 1,4,16     a family for each number of epochs
uv run create_models.py --from MODEL --source tofu       TOFU's target and retain model
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, groups, options
from brittle.base.errors import UserError
from brittle.base.files import missing_folders, remove_empty
from brittle.base.places import where
from brittle.data.examples import Reading
from brittle.unlearning.family import ROLES, Wanted

SIZE = "Size of a mini model"
MINI_BATCH, MINI_RATE = 128, 3e-3


@dataclass(frozen=True)
class Mini:
    """The options of the mini family alone, each a flag."""

    hidden_size: Annotated[
        int, typer.Option(min=8, help="Width of the residual stream.", rich_help_panel=SIZE)
    ] = 128
    layers: Annotated[int, typer.Option(min=1, help="Blocks.", rich_help_panel=SIZE)] = 4
    heads: Annotated[int, typer.Option(min=1, help="Attention heads.", rich_help_panel=SIZE)] = 4
    vocab_size: Annotated[
        int, typer.Option(min=1, help="Tokens of the BPE vocabulary.", rich_help_panel=SIZE)
    ] = 1000
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of a mini model.")] = 340
    muon_lr: Annotated[
        float, typer.Option(min=0, help="Muon's learning rate (block matrices).")
    ] = 0.015
    entities: Annotated[
        int | None, typer.Option(min=4, help="Make the data anew with so many entities.")
    ] = None


@options.spread
def main(
    mini: Mini,
    wanted: Wanted,
    reading: Reading,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with tokenizer.txt, pretrain_base.txt, pretrain_filtered.txt (data/mini). "
            "With --from any data folder."
        ),
    ] = None,
    outdir: options.Outdir = Path("outputs/models"),
    only: Annotated[
        str, typer.Option(help="base, filtered, or both (mini: two processes, one thread each).")
    ] = "both",
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Texts a step (128; with --from fewer where the data are few)."),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="AdamW's learning rate: 0.003 (embeddings, norms, biases); with --from 0.3 / "
            "width, with adapters 3 / width.",
        ),
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
):
    """Train Base and Filtered models and save them as Hugging Face folders."""
    if only not in ("both", *ROLES):
        raise UserError(f"--only {only}: choose base, filtered or both.")
    wanted.check()
    data = data or wanted.home()
    if wanted.from_model is not None:
        check_no_mini(mini)
        training = {"lr": lr, "batch_size": batch_size, "seed": seed, "device": device}
        inject(wanted, only, data, outdir, {"reading": reading, **training})
    else:
        if reading != Reading():
            raise UserError("--raw, --system and --after-prompt are for --from MODEL.")
        if mini.entities:
            from brittle.data.world_files import write_world

            write_world(data, seed, mini.entities, min(8, mini.entities))
        if only == "both":
            return both(outdir)
        training = {
            "steps": mini.steps,
            "batch_size": batch_size or MINI_BATCH,
            "lr": MINI_RATE if lr is None else lr,
            "muon_lr": mini.muon_lr,
            "seed": seed,
        }
        train_mini(only, mini, data, outdir, training, device)
    if place := where(outdir):
        print(place)


def check_no_mini(mini):
    """Raise UserError where an option of the mini family is given."""
    given = [f.name for f in fields(mini) if getattr(mini, f.name) != f.default]
    if given:
        flag = given[0].replace("_", "-")
        raise UserError(f"--{flag} is for the mini family. Leave it out, or leave --from out.")


def inject(wanted, only, data, outdir, training):
    """Teach the model of `wanted` the facts of `data`, and save its family.

    training: further fields of `Family`.
    """
    from brittle.models.find import model_folder
    from brittle.unlearning.injected import Family

    folder = model_folder(wanted.from_model, code=wanted.trust_remote_code)
    family = Family(wanted, folder, data, outdir, **training)
    for line in family.make(ROLES if only == "both" else (only,)):
        print(line, flush=True)


def train_mini(role, mini, data, outdir, training, device):
    """Train one model of the mini family and save it."""
    from brittle.data.texts import read_lines

    # before torch is imported: the likeliest mistake is said at once
    texts = read_lines(data / "tokenizer.txt")
    from brittle.base.disk import space_line
    from brittle.base.record import Run
    from brittle.data.items import SPLITS, read_splits
    from brittle.metrics import mcq
    from brittle.models.load import pick_device
    from brittle.training.mini import (
        TEXTS,
        describe_cost,
        make_model,
        make_settings,
        make_tokenizer,
        train_model,
    )

    inputs = [data / "tokenizer.txt", data / TEXTS[role]]
    inputs += [data / f"mcq_{split}.jsonl" for split in SPLITS]
    seed = training["seed"]
    with Run(outdir / f"mini-{role}", inputs=inputs, seed=seed, whole=True) as run:
        import torch

        torch.set_num_threads(command.threads())
        items = read_splits(data)
        tokenizer = make_tokenizer(texts, mini.vocab_size)
        model = make_model(tokenizer, mini.hidden_size, mini.layers, mini.heads, seed)
        size = 4 * model.num_parameters()
        print(f"{space_line(f'mini-{role}', size, outdir)}.", flush=True)
        settings = make_settings(**training)
        started = time.monotonic()
        history = train_model(role, data, pick_device(device), tokenizer, model, settings)
        cost = describe_cost(role, data, history, time.monotonic() - started)
        model.cpu().eval().save_pretrained(run.stage)
        tokenizer.save_pretrained(run.stage)
        run.settings = {
            split: round(mcq.accuracy(model, tokenizer, rows), 4) for split, rows in items.items()
        }
        print(f"{outdir}/mini-{role}: accuracy {run.settings}")
        run.settings["cost"] = cost
        run.path("model.safetensors")


def both(outdir):
    """Base and Filtered in two processes. Returns the exit status.

    On two cores one thread each is seven times faster than two threads each.
    """
    # the data were made anew above, once
    arguments = [
        argument
        for before, argument in itertools.pairwise(sys.argv)
        if "--entities" not in (argument, before) and "--entities=" not in argument
    ]
    threads = str(max(1, (os.cpu_count() or 2) // 2))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    line, new = [sys.executable, __file__, *arguments, "--only"], missing_folders(outdir)
    # one bar is shown, and a mistake that both make is said once
    with tempfile.TemporaryFile() as quiet:
        processes = [
            # a session of their own: Ctrl-C reaches this process alone, which lets them clean up
            subprocess.Popen([*line, only], env=environment, stderr=stderr, start_new_session=True)
            for only, stderr in (("base", None), ("filtered", quiet))
        ]
        try:
            base, filtered = (p.wait() for p in processes)
        except BaseException:
            for process in processes:
                process.terminate()
            for process in processes:
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    # a library that was being imported has swallowed the signal
                    process.kill()
                    process.wait()
            raise
        finally:
            remove_empty(new)
        if filtered and not base:
            quiet.seek(0)
            last_line = quiet.read().decode().replace("\r", "\n").strip().rpartition("\n")[2]
            print(last_line, file=sys.stderr)
    return base or filtered


HELP_GROUPS = {
    groups.DATA: ("data", "entities"),
    "Training": ("steps", "batch_size", "lr", "muon_lr"),
}


if __name__ == "__main__":
    command.run(main, HELP_GROUPS)
