"""What diagnostics share: how a script opens its models and its run, and what earlier steps have
left for it.
"""

import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from brittle.base import layout
from brittle.base.errors import UserError
from brittle.base.layout import model_name
from brittle.base.record import Run
from brittle.data.examples import DEFAULT, Reading
from brittle.data.items import draw_texts, text_files
from brittle.models.find import check_pair, model_folder

# Tokens a batch, padding included. At 6.9B (33 layers of width 4096, in bfloat16) the streams of
# this many take 0.5 GB a model.
TOKENS = 2048


class Texts(NamedTuple):
    """The text files of both splits, and how much of each is read."""

    forget: Path
    retain: Path
    max_samples: int  # texts a split, drawn by the first seed
    max_length: int | None = None  # tokens a text; None: what `length_limit` gives
    reading: Reading = DEFAULT  # whether a chat model's questions go through its template


@dataclass
class Comparison:
    """A comparison that has begun: the run that takes its results, and both models' folders."""

    run: Run
    folders: dict  # {model_a, model_b: folder}
    named: tuple  # both models as the user named them
    texts: Texts | None = None
    tokenizer: object = None  # that of model A; None where no texts are read
    seed: int = 0  # draws the texts
    drawn: dict | None = None  # {split: DrawnTexts}; None where no texts are read

    @property
    def title(self):
        """Both models' names, for a figure's title."""
        from brittle.base import figures

        return figures.pair(*self.named)

    def load(self, name, device, dtype):
        """Model `model_a` or `model_b`; a LoRA adapter as model B is merged into model A."""
        from brittle.models.load import load_changed

        return load_changed(self.folders[name], self.folders["model_a"], device, dtype)

    def encode(self, config, limit=None):
        """{split: token ids of its texts}, each cut to `limit` tokens; a chat model's questions and
        answers through its template, as `texts.reading` says.

        The default is `--max-length`, or else what a model of this `config` can read (at most 512).
        """
        from brittle.data.batches import encode
        from brittle.models.blocks import length_limit

        limit = limit or length_limit(self.texts.max_length, config)
        return {
            split: encode(self.tokenizer, drawn.rows, limit, f"{split} texts", self.texts.reading)
            for split, drawn in self.drawn.items()
        }

    def units(self):
        """{split: what an interval draws}: the entity of each text, or how many texts there are.

        The second where the data do not name the entity of each text.
        """
        return {split: of.entities or len(of.rows) for split, of in self.drawn.items()}

    def matrices(self, device, keep=None):
        """Yield (name, W_a, W_b) of every weight matrix, or of those whose name `keep` accepts."""
        import torch

        from brittle.base.command import threads
        from brittle.models.load import pick_device
        from brittle.models.weights import matrix_pairs

        torch.set_num_threads(threads())
        return matrix_pairs(*self.folders.values(), pick_device(device), keep)


@contextmanager
def comparison(outdir, model_a, model_b, texts=None, seeds=None):
    """Begin a comparison of two models: find both, record what is read, and yield a `Comparison`.

    `texts` (a `Texts`) is given where the models read some, `seeds` where something is random.
    Raises UserError where a model is not there, and where models that read texts do not fit
    together.
    """
    folders = {"model_a": model_folder(model_a), "model_b": model_folder(model_b, adapters=True)}
    inputs = text_files(texts.forget, texts.retain) if texts else []
    with Run(outdir, inputs, folders, **_randomness(seeds)) as run:
        opened = Comparison(run, folders, (model_a, model_b), texts)
        if texts:
            run.settings |= texts.reading.about()
            opened.seed = seeds[0] if seeds else 0
            paths = {"forget": texts.forget, "retain": texts.retain}
            opened.drawn = draw_splits(run, paths, texts.max_samples, opened.seed)
            from brittle.models.load import load_tokenizer

            check_pair(*folders.values())
            opened.tokenizer = load_tokenizer(folders["model_a"])
        yield opened


def draw_splits(run, paths, count, seed):
    """{split: DrawnTexts} of {split: file}, at most `count` each; the record says what was
    drawn.
    """
    drawn = {split: draw_texts(path, count, seed) for split, path in paths.items()}
    run.settings["samples"] = {split: of.about() for split, of in drawn.items()} | {"seed": seed}
    return drawn


class Single(NamedTuple):
    """A look at one model that has begun: the run for its results, the model, its tokenizer."""

    run: Run
    model: object
    tokenizer: object
    title: str  # the model's name, for a figure's title


@contextmanager
def of_model(outdir, model, inputs, seeds, device, dtype, reading=DEFAULT):
    """Begin a look at one model: find it, record the files `inputs`, load it, and yield a `Single`.

    reading: how its texts are read, for the record.

    Raises UserError where the model is not there or cannot be loaded.
    """
    from brittle.base import figures
    from brittle.models.load import load_model, load_tokenizer

    folder = model_folder(model)
    with Run(outdir, inputs, {"model": folder}, **_randomness(seeds)) as run:
        run.settings |= reading.about()
        loaded, tokenizer = load_model(folder, device, dtype), load_tokenizer(folder)
        yield Single(run, loaded, tokenizer, figures.short(model_name(model)))


def _randomness(seeds):
    """What a record says of the seeds."""
    return {"seed": seeds[0], "settings": {"seeds": seeds}} if seeds else {}


def neighbour(outdir, step, file=None):
    """Path of what step `step` leaves beside `outdir`: its output, or another `file` of it.

    Raises UserError where it is missing.
    """
    made_by = layout.step(step)
    path = made_by.path(Path(outdir).parent, file)
    if not path.is_file():
        command = f"uv run {made_by.script} --model-a A --model-b B --outdir {path.parent}"
        raise UserError(f"{path} not found. Step {step} makes it: {command}")
    return path


def kept_spectra(outdir, read):
    """{dW/<name>, W_a/<name>, W_b/<name>: singular values} that step 1 keeps beside `outdir`; {}
    where it read other files.

    `read` {path: its description} is what this run reads (`record.Run.read`).
    """
    from safetensors.torch import load_file

    from brittle.base import code
    from brittle.base.files import changed
    from brittle.base.record import record_path, within_project

    statistics = layout.step("1")
    path = statistics.path(Path(outdir).parent, "spectra.safetensors")
    record = record_path(statistics.path(Path(outdir).parent))
    try:
        record = json.loads(record.read_text(encoding="utf-8"))
        theirs = {p: about["sha256"] for p, about in record["inputs"].items()}
        ours = {within_project(p): about["sha256"] for p, about in read.items()}
        same = theirs == ours and not changed(path, record["outputs"][path.name])
        if same and code.still_true(record["code"]):
            code.use(record["code"])
            return load_file(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or damaged
        pass
    return {}
