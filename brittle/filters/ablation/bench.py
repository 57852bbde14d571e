"""What the ablations of one model share: its texts, moments, tuner and questions."""

from dataclasses import dataclass

from brittle.data.items import read_splits, subset
from brittle.filters.data import FilterData
from brittle.filters.fit import FilterMoments, gradients, moments_of
from brittle.filters.search import sample
from brittle.filters.tuning import Tuner

FILES = {"forget": "forget", "retain": "retain", "general": "neutral", "unseen": "holdout"}
TUNE_SAMPLES = 128  # texts a set that strengths are read on


@dataclass
class BenchSetup:
    """How a bench is made: texts and questions a set at most, and where the model runs."""

    max_samples: int
    items: int
    seed: int
    device: str


@dataclass
class Bench:
    """A model on the bench; see the module's docstring. `items` are {split: questions}."""

    texts: FilterData
    sites: list
    moments: FilterMoments
    tuner: Tuner
    items: dict

    @property
    def model(self):
        return self.texts.model

    @property
    def tokenizer(self):
        return self.texts.tokenizer


def make_bench(folder, data, sites, setup):
    """The Bench of a model folder and a data folder; sites None: every candidate site."""
    paths = {name: data / f"{stem}.txt" for name, stem in FILES.items()}
    paths = {
        name: path for name, path in paths.items() if path.is_file() or name in ("forget", "retain")
    }
    texts = FilterData.read(folder, paths, setup.max_samples, None, setup.device)
    sites = sites or texts.sites()
    moments = moments_of(texts.model, texts.fit, texts.pad_id, sites)
    moments.gradients = gradients(texts.model, texts.fit, texts.pad_id)
    sets = {name: sample(e, TUNE_SAMPLES, setup.seed) for name, e in texts.tune.items()}
    tuner = Tuner(texts.model, sets, texts.pad_id, sites)
    splits = read_splits(data)
    items = {split: subset(rows, setup.items, setup.seed) for split, rows in splits.items()}
    return Bench(texts, sites, moments, tuner, items)
