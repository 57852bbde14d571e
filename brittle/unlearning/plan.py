"""What a search tries: each method's defaults, the ranges around them, and a job of some values."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from brittle.base.knobs import values as knob_values
from brittle.data.examples import TRAINING, TrainingReading
from brittle.data.items import text_files
from brittle.methods.wrappers import Wrappers
from brittle.metrics.neutral import neutral_file
from brittle.models.architectures import size
from brittle.models.find import read_config
from brittle.unlearning import search
from brittle.unlearning.job import SETTINGS, Job, TextSets, assemble, read_defaults


@dataclass
class Plan:
    """presets: the TOML file of defaults, of which `preset` is read."""

    model: str
    folder: Path
    texts: TextSets
    presets: Path
    preset: str
    root: Path
    seed: int = 0
    reading: TrainingReading = TRAINING  # how rows become examples

    def __post_init__(self):
        config = read_config(self.folder)
        if self.preset == "auto":
            self.preset = config.get("family", "default")
        self.blocks = size(config, "num_hidden_layers")

    def files(self):
        """What is read beside the questions."""
        neutral = neutral_file(self.texts.data)
        texts = text_files(self.texts.forget_path, self.texts.retain_path)
        return [self.presets, *texts, *([neutral] if neutral else [])]

    def defaults(self, method):
        defaults = read_defaults(self.presets, self.preset, method)
        return defaults.fitted(read_config(self.folder))

    def job(self, method, values):
        """The Job of a method, {name: value or its text} over its defaults. Raises UserError."""
        defaults = self.defaults(method)
        settings, chosen = dict(defaults.settings), dict(defaults.knobs)
        for name, value in values.items():
            if name in SETTINGS:
                settings[name] = json.loads(value) if isinstance(value, str) else value
            else:
                chosen[name] = value
        rule, wrappers = assemble(method, chosen, self.folder, self.seed)
        return Job(
            model=self.model,
            model_folder=self.folder,
            method=method,
            rule=rule,
            settings=settings,
            texts=self.texts,
            root=self.root,
            seed=self.seed,
            save_every=0,
            wrappers=wrappers,
            reading=self.reading,
        )

    def axes(self, method, one_pass):
        """[search.Axis] of a method. one_pass: see `search.axes`."""
        return search.axes(method, self.defaults(method), self.blocks, one_pass)

    def complete(self, method, values):
        """Every setting of such a job, {name: value} for a configuration file.

        Of the wrappers those that differ from their defaults.
        """
        job = self.job(method, values)
        plain = {spec.name: spec.default for spec in fields(Wrappers)}
        wrapped = knob_values(job.wrappers)
        chosen = {name: value for name, value in wrapped.items() if value != plain[name]}
        return {**job.settings, **knob_values(job.rule), **chosen}
