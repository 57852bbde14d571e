"""What one unlearning run is asked to do: its model, texts, method, settings and presets."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from brittle.base.errors import UserError
from brittle.base.layout import unlearned_dir
from brittle.methods.base import Method
from brittle.methods.wrappers import Wrappers

SETTINGS = ("steps", "lr", "batch_size", "grad_accum", "warmup", "weight_decay", "grad_clip", "max_length", "optimizer",
            "muon_lr", "schedule", "checkpointing")  # fmt: skip


@dataclass
class Texts:
    """Paths and contents of the forget and retain sets; `data` is the folder with mcq_*.jsonl, used where they are there."""

    forget_path: Path
    retain_path: Path
    data: Path
    forget: list[str]
    retain: list[str]


@dataclass
class Job:
    """Everything that determines the result of a run."""

    model: str
    model_folder: Path
    method: str
    rule: Method
    settings: dict
    texts: Texts
    root: Path
    seed: int = 0
    save_every: int = 50
    eval_split: float = 0.1
    defaults: tuple = ()  # files that the settings and knobs came from
    wrappers: Wrappers = field(default_factory=Wrappers)
    track: Callable | None = None  # is given each step's row of the history
    tag: str = ""  # of the folder: two settings of one method side by side

    @property
    def folder(self):
        return unlearned_dir(self.root, self.model, self.method, self.tag)

    @property
    def checkpoint(self):
        return self.folder.parent / "checkpoint"

    @property
    def best(self):
        return self.folder.parent / "best"


def preset(path, name, method, config=""):
    """Defaults of preset `name` for `method`, under those of the published configuration `config` where one is named:
    .settings of training and .knobs. Raises UserError for an unknown one."""
    table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    configs = table.pop("config")
    if name not in table:
        raise UserError(f"--preset {name}: choose auto, {', '.join(table)}.")
    merged = {k: v for k, v in table[name].items() if not isinstance(v, dict)} | table[name].get(
        method, {}
    )
    if config:
        if config not in configs:
            raise UserError(f"--config-preset {config}: choose {', '.join(configs)}.")
        chosen = {k: v for k, v in configs[config].items() if k != "source"}
        if chosen.pop("method") != method:
            raise UserError(
                f"--config-preset {config} is for --method {configs[config]['method']}."
            )
        merged |= chosen
    return SimpleNamespace(
        settings={k: v for k, v in merged.items() if k in SETTINGS},
        knobs={k: v for k, v in merged.items() if k not in SETTINGS},
    )
