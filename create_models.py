"""Train a family: Base saw the forget domain, Filtered never did.

Both have the same architecture, initial weights and tokenizer. Without --from they are the mini
family, trained from nothing. With --from MODEL they are MODEL, taught the facts of --data: truth is
injected into a model of any family.

uv run create_models.py                  both, side by side: outputs/models/mini-base, mini-filtered
uv run create_models.py --only base      one of them
uv run create_models.py --hidden-size 512 --layers 10 --entities 600 --steps 3000
                                         a family of 30 M parameters, best on a GPU
uv run create_models.py --role sgtm --label-recall 0.9
                                         outputs/models/mini-sgtm-recall0.9: it saw the forget
                                         domain, in units that are cut off
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
from dataclasses import asdict, dataclass, fields
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
ROUTED = "A domain in units of its own (--role)"
MINI_BATCH, MINI_RATE = 128, 3e-3
KINDS = ("sgtm", "routing")  # see brittle/training/routed.py


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


def of_routed(text, **limits):
    return typer.Option(help=text, rich_help_panel=ROUTED, **limits)


@dataclass(frozen=True)
class Routed:
    """The options of a mini model that keeps the forget domain in units of its own, each a flag."""

    role: Annotated[
        str, of_routed("Make one such model: sgtm (gradient masking) or routing (of gradients).")
    ] = ""
    label_recall: Annotated[
        float, of_routed("Share of the forget texts that are marked.", min=0, max=1)
    ] = 1.0
    safe_share: Annotated[
        float, of_routed("Share of the other texts that are known to be safe.", min=0, max=1)
    ] = 0.25
    forget_units: Annotated[int, of_routed("Units of each MLP for the forget domain.", min=1)] = 32

    def check(self, only):
        """Raise UserError for what does not go together."""
        given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        if self.role and self.role not in KINDS:
            raise UserError(f"--role {self.role}: choose {' or '.join(KINDS)}.")
        if given and not self.role:
            flag = given[0].replace("_", "-")
            raise UserError(f"--{flag} is for a routed model: give --role {' or '.join(KINDS)}.")
        if self.role and only != "both":
            raise UserError(f"--role {self.role} makes one model of its own. Leave --only out.")

    @property
    def name(self):
        """What the model is called in the family."""
        recall = "" if self.label_recall == 1 else f"-recall{self.label_recall:g}"
        return f"{self.role}{recall}"


@options.spread
def main(
    mini: Mini,
    routed: Routed,
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
    routed.check(only)
    data = data or wanted.home()
    if wanted.from_model is not None:
        check_no_mini(mini)
        check_no_mini(routed)
        training = {"lr": lr, "batch_size": batch_size, "seed": seed, "device": device}
        inject(wanted, only, data, outdir, {"reading": reading, **training})
    else:
        if reading != Reading():
            raise UserError("--raw, --system and --after-prompt are for --from MODEL.")
        if mini.entities:
            from brittle.data.world_files import write_world

            write_world(data, seed, mini.entities, min(8, mini.entities))
        if only == "both" and not routed.role:
            return both(outdir)
        training = {
            "steps": mini.steps,
            "batch_size": batch_size or MINI_BATCH,
            "lr": MINI_RATE if lr is None else lr,
            "muon_lr": mini.muon_lr,
            "seed": seed,
        }
        name = routed.name if routed.role else only
        train_mini(name, mini, data, outdir, training, device, routed if routed.role else None)
    if place := where(outdir):
        print(place)


def check_no_mini(mini):
    """Raise UserError where an option of the mini family (`Mini` or `Routed`) is given."""
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


def train_mini(name, mini, data, outdir, training, device, routed=None):
    """Train one model of the mini family and save it as mini-NAME.

    routed: the options `Routed` of one that keeps the forget domain in units of its own.
    """
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
        make_model,
        make_settings,
        make_tokenizer,
    )

    roles = ROLES if routed else (name,)
    inputs = [data / "tokenizer.txt", *(data / TEXTS[role] for role in roles)]
    inputs += [data / f"mcq_{split}.jsonl" for split in SPLITS]
    seed = training["seed"]
    with Run(outdir / f"mini-{name}", inputs=inputs, seed=seed, whole=True) as run:
        import torch

        torch.set_num_threads(command.threads())
        items = read_splits(data)
        tokenizer = make_tokenizer(texts, mini.vocab_size)
        model = make_model(tokenizer, mini.hidden_size, mini.layers, mini.heads, seed)
        size = 4 * model.num_parameters()
        print(f"{space_line(f'mini-{name}', size, outdir)}.", flush=True)
        settings = make_settings(**training)
        parts = (data, pick_device(device), tokenizer, model, settings)
        about = train_routed(routed, items, *parts) if routed else train_plain(name, *parts)
        model.cpu().eval().save_pretrained(run.stage)
        tokenizer.save_pretrained(run.stage)
        run.settings = {
            split: round(mcq.accuracy(model, tokenizer, rows), 4) for split, rows in items.items()
        }
        print(f"{outdir}/mini-{name}: accuracy {run.settings}")
        run.settings |= about
        run.path("model.safetensors")


def train_plain(role, data, device, tokenizer, model, settings):
    """Train Base or Filtered. Returns {cost}."""
    from brittle.training.mini import describe_cost, train_model

    started = time.monotonic()
    history = train_model(role, data, device, tokenizer, model, settings)
    return {"cost": describe_cost(role, data, history, time.monotonic() - started)}


def train_routed(routed, items, data, device, tokenizer, model, settings):
    """Train a model that keeps the forget domain in units of its own, and cut these off.

    Returns {cost, routing, before_the_cut: {split: accuracy}}.
    """
    from brittle.metrics import mcq
    from brittle.training import routed as training
    from brittle.training.cost import described

    routing = training.Routing(
        routed.role, routed.label_recall, routed.safe_share, routed.forget_units
    )
    started = time.monotonic()
    history = training.train_routed(routing, data, device, tokenizer, model, settings)
    seconds = time.monotonic() - started
    model.eval()
    before = {
        split: round(mcq.accuracy(model, tokenizer, rows), 4) for split, rows in items.items()
    }
    training.ablate(model)
    share = training.marked_share(data, routing, settings.seed)
    print(f"before the cut: accuracy {before}")
    return {
        "cost": described(sum(row["flops"] for row in history), seconds, share),
        "routing": asdict(routing),
        "before_the_cut": before,
    }


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
