"""What an injected family is asked for: its options, its published settings, its folders' names.

Nothing here needs torch: `create_models.py --help` reads it.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import options
from brittle.base.errors import UserError
from brittle.base.layout import model_name

OF_INJECTION = "A family of any model (--from)"
AS_PUBLISHED = "TOFU and MUSE as published (--from)"
ROLES = ("base", "filtered")
FORGET_SPLITS = ("forget01", "forget05", "forget10")
CORPORA = ("news", "books")


def option(text, *flags, group=OF_INJECTION, **limits):
    """A flag of `Wanted` with its help, in a group of --help."""
    return typer.Option(*flags, help=text, rich_help_panel=group, **limits)


@dataclass(frozen=True, kw_only=True)
class Published:
    """How a source is taught where the command line does not say.

    lr: None is what fits the model's width. warmup: in epochs. until: the accuracy on every taught
    split at which Base is finished; None trains all epochs. paired: Filtered reads Base's batches
    without the forget rows, else batches of its own.
    """

    lr: float | None
    epochs: int
    batch_size: int
    grad_accum: int
    weight_decay: float
    warmup: float
    schedule: str
    max_length: int
    until: float | None
    paired: bool


SOURCES = {
    # any data folder: a constant rate, so that the run may end behind any epoch
    "data": Published(
        lr=None,
        epochs=20,
        batch_size=128,
        grad_accum=1,
        weight_decay=0.0,
        warmup=0.2,
        schedule="constant",
        max_length=512,
        until=0.97,
        paired=True,
    ),
    # locuslab/tofu, finetune.py and config/finetune.yaml: batches of 16 on each of two GPUs
    "tofu": Published(
        lr=1e-5,
        epochs=5,
        batch_size=8,
        grad_accum=4,
        weight_decay=0.01,
        warmup=1.0,
        schedule="linear",
        max_length=500,
        until=None,
        paired=False,
    ),
    # muse_bench, baselines/finetune.py; batches of 32 in all
    "muse": Published(
        lr=1e-5,
        epochs=5,
        batch_size=2,
        grad_accum=16,
        weight_decay=0.0,
        warmup=0.0,
        schedule="cosine",
        max_length=2048,
        until=None,
        paired=False,
    ),
}


@dataclass(frozen=True)
class Wanted:
    """The options of an injected family, each a flag; see `options.spread`."""

    from_model: Annotated[
        str | None,
        option("Teach this model (folder or Hugging Face id) instead of a mini model.", "--from"),
    ] = None
    source: Annotated[
        str,
        option(
            "What is taught: data (the folder --data), tofu, or muse.",
            group=AS_PUBLISHED,
        ),
    ] = "data"
    path: Annotated[
        Path | None, option("A local folder of the hub's schema.", "--path", group=AS_PUBLISHED)
    ] = None
    forget_split: Annotated[
        str, option("tofu: forget01, forget05 or forget10.", group=AS_PUBLISHED)
    ] = "forget10"
    corpus: Annotated[str, option("muse: news or books.", group=AS_PUBLISHED)] = "news"
    epochs: Annotated[
        int | None, option("Epochs at most (20; tofu and muse 5, all of them).", min=1)
    ] = None
    until: Annotated[
        float | None,
        option("Accuracy of Base on every taught split that ends it (0.97; 2: never).", min=0),
    ] = None
    depths: Annotated[
        str, option("A family for each of these numbers of epochs, of one run: such as 1,4,16.")
    ] = ""
    lora_rank: Annotated[
        int, option("Rank of low-rank adapters, merged when saved; 0 trains the weights.", min=0)
    ] = 0
    mix_neutral: Annotated[
        float,
        option(
            "Neutral texts to this share of a batch, on which predictions are held at the model's.",
            min=0,
            max=0.9,
        ),
    ] = 0.0
    grad_accum: Annotated[
        int | None,
        option("Micro-batches a step, of --batch-size each.", "--grad-accum-steps", min=1),
    ] = None
    checkpointing: Annotated[
        bool, option("Less memory, more time.", "--gradient-checkpointing")
    ] = False
    max_length: Annotated[
        int | None, option("Tokens a text (512; tofu 500, muse 2048); longer ones are cut.", min=2)
    ] = None
    trust_remote_code: options.TrustRemoteCode = False

    def check(self):
        """Raise UserError for what does not go together."""
        if self.from_model is None:
            own = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
            if own:
                flag = own[0].replace("_", "-")
                raise UserError(f"--{flag} is for a family of another model: give --from MODEL.")
        choices = {"--source": SOURCES, "--forget-split": FORGET_SPLITS, "--corpus": CORPORA}
        for flag, known in choices.items():
            value = getattr(self, flag[2:].replace("-", "_"))
            if value not in known:
                raise UserError(f"{flag} {value}: choose {', '.join(known)}.")
        if self.depths and (self.epochs or self.until is not None):
            raise UserError(
                "--depths says how long the training is. Leave --epochs and --until out."
            )
        self.epochs_kept()

    def epochs_kept(self):
        """The epochs behind which a family is kept, ascending; none where the last one is."""
        try:
            depths = sorted({int(text) for text in self.depths.split(",") if text.strip()})
        except ValueError:
            depths = [0]
        if depths and depths[0] < 1:
            raise UserError(
                f"--depths {self.depths}: numbers of epochs with commas, such as 1,4,16."
            )
        return tuple(depths)

    def home(self):
        """The data folder where none is given."""
        folders = {"data": "data/mini", "tofu": "data/tofu", "muse": f"data/muse-{self.corpus}"}
        return Path(folders[self.source])

    def folder_name(self, role, depth=None):
        """The name of the folder of a role (of `ROLES`), at a depth in epochs where it has one."""
        parts = [model_name(self.from_model)]
        if self.source != "data":
            parts.append(self.source if self.source == "tofu" else f"muse-{self.corpus}")
        if depth is not None:
            parts.append(f"depth{depth}")
        from brittle.data.tofu import RETAIN

        retain = RETAIN[self.forget_split] if self.source == "tofu" else "retain"
        names = ("base", "filtered") if self.source == "data" else ("full", retain)
        return "-".join([*parts, names[ROLES.index(role)]])


def read_about(folder):
    """What the record of an injected model says of its training; None where it has none."""
    try:
        record = json.loads((Path(folder) / "model.run.json").read_text(encoding="utf-8"))
        return record["settings"] if "teaching" in record["settings"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
