"""What one unlearning run is asked to do: its model, texts, method, settings and defaults."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.base.knobs import build, resolve_blocks
from brittle.base.layout import method_label, unlearned_dir
from brittle.data.examples import TRAINING, TrainingReading
from brittle.methods import method_class, own
from brittle.methods.base import Method
from brittle.methods.wrappers import Wrappers
from brittle.models.architectures import size
from brittle.models.find import read_config

SETTINGS = (
    "steps",
    "lr",
    "batch_size",
    "grad_accum",
    "warmup",
    "weight_decay",
    "grad_clip",
    "max_length",
    "optimizer",
    "muon_lr",
    "lr_width",
    "schedule",
    "checkpointing",
)


WORDS = ("optimizer", "schedule")  # settings that are texts; the others are numbers


@dataclass
class TextSets:
    """The forget and retain sets: where they lie and what they hold.

    `data` is the folder of mcq_*.jsonl and neutral.txt, which are used where they are there.
    `forget_entities` names what each forget row is about; None where the data do not say it.
    """

    forget_path: Path
    retain_path: Path
    data: Path
    forget: list  # rows: str, Pair or Chat each
    retain: list
    forget_entities: list | None = None


@dataclass
class Job:
    """Everything that determines the result of a run."""

    model: str
    model_folder: Path
    method: str
    rule: Method
    settings: dict
    texts: TextSets
    root: Path
    seed: int = 0
    save_every: int = 50  # optimizer steps between checkpoints; 0 is none
    eval_split: float = 0.1  # share of each set that is kept out of training
    default_files: tuple = ()  # that the settings and knobs came from
    wrappers: Wrappers = field(default_factory=Wrappers)
    track: Callable | None = None  # is given each step's row of the history
    reading: TrainingReading = TRAINING  # how rows become examples
    tag: str = ""  # of the folder: two settings of one method side by side

    def __post_init__(self):
        self.rule.settle(self)

    @property
    def folder(self):
        return unlearned_dir(self.root, self.model, self.method, self.tag)

    @property
    def checkpoint(self):
        return self.folder.parent / "checkpoint"

    @property
    def best(self):
        return self.folder.parent / "best"

    @property
    def method_files(self):
        """The file of a method of one's own: [path], or none."""
        file = own.file_of(self.method)
        return [] if file is None else [file]

    @property
    def text_files(self):
        """The files of the texts that a method takes in place of the retain set."""
        return self.rule.texts.files if self.rule.texts else []

    def data_files(self):
        """The files whose texts are trained on."""
        from brittle.data.items import text_files

        chats = [self.wrappers.chat] if self.wrappers.chat else []
        return text_files(self.texts.forget_path, self.texts.retain_path, *chats)


class Defaults(NamedTuple):
    """Values by name: of training (Settings) and of the method and its wrappers."""

    settings: dict
    knobs: dict

    def fitted(self, config):
        """The same for a model of this configuration: a rate that is stated for the width
        `lr_width` is multiplied by lr_width / width.

        So the entries of a matrix move a state by as much at any width (Yang et al. 2022,
        arXiv:2203.03466, for Adam).
        """
        settings = dict(self.settings)
        stated, width = settings.pop("lr_width", None), size(config, "hidden_size")
        if stated and width and "lr" in settings:
            settings["lr"] = float(f"{settings['lr'] * stated / width:.3g}")
        return Defaults(settings, self.knobs)


def assemble(method, chosen, folder, seed):
    """(the method, its wrappers) with the knobs `chosen` {name: text or value}.

    Shares of the depth become block numbers of the model in `folder`. Raises UserError for a knob
    that neither reads, or a value out of its bounds.
    """
    cls, blocks = method_class(method), size(read_config(folder), "num_hidden_layers")
    wrapping = {spec.name for spec in fields(Wrappers)} & set(chosen)
    own = {name: value for name, value in chosen.items() if name not in wrapping}
    if blocks:
        own = resolve_blocks(cls, own, blocks)
    rule = build(cls, method, own, seed=seed)
    wrappers = build(Wrappers, method, {name: chosen[name] for name in wrapping})
    return rule, wrappers


def read_defaults(path, name, method, config=""):
    """The defaults called `name` in a TOML file, for `method`.

    Where the published configuration `config` is named, its values stand over them. Raises
    UserError for an unknown name, and for a configuration of another method.
    """
    table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    configs = table.pop("config")
    if name not in table:
        raise UserError(f"--preset {name}: choose auto, {', '.join(table)}.")
    merged = {key: value for key, value in table[name].items() if not isinstance(value, dict)}
    merged |= table[name].get(method_label(method), {})
    if config:
        if config not in configs:
            raise UserError(f"--config-preset {config}: choose {', '.join(configs)}.")
        published = dict(configs[config])
        published.pop("source", None)
        if published.pop("method") != method:
            raise UserError(
                f"--config-preset {config} is for --method {configs[config]['method']}."
            )
        merged |= published
        if "lr" in published:  # as it was published, for whatever model
            merged.pop("lr_width", None)
    return split_defaults(merged)


def split_defaults(table):
    """The Defaults of one table {name: value}."""
    return Defaults(
        settings={key: value for key, value in table.items() if key in SETTINGS},
        knobs={key: value for key, value in table.items() if key not in SETTINGS},
    )


def own_tables(path):
    """The names of the tables of a TOML file of one's own; UserError where it is none."""
    return [name for name, table in _read_toml(path).items() if isinstance(table, dict)]


def _read_toml(path):
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"--config {path} is no TOML: {error}.") from None


def read_own(path, method):
    """The Defaults of the table of `method` in a TOML file of one's own: --config.

    unlearn/search.py writes such a file. Raises UserError where it has no such table, or a value is
    neither number, text nor list.
    """
    tables, named = _read_toml(path), own_tables(path)
    method = method_label(method)
    if method not in named:
        raise UserError(
            f"--config {path} has no table [{method}]; it has {', '.join(named) or 'none'}."
        )
    for name, value in tables[method].items():
        kinds = int | float | str | list
        if name in SETTINGS:
            kinds = str if name in WORDS else int | float
        if not isinstance(value, kinds):
            raise UserError(f"--config {path}: {name} = {value!r} in [{method}] is no setting.")
    return split_defaults(tables[method])
