"""Names of folders and files: of models, and of what each step of experiment/steps.csv leaves."""

import csv
import functools
import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from brittle.base.errors import UserError

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
# Beside the vocabulary: what else a tokenizer reads. A chat template is a file of its own, or one
# of several in TEMPLATES.
TOKENIZER_FILES = {
    *TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "merges.txt",
    "sentencepiece.bpe.model",
}
TEMPLATES = "additional_chat_templates"
MODEL_FILES = {
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    *TOKENIZER_FILES,
}
MODEL_SUFFIXES = (".safetensors", ".txt", ".model", ".tiktoken", ".jinja", ".py")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")  # loading one can run code
# of trainers, beside the weights
NO_WEIGHTS = {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
FILTER = "filter"  # its name among the methods; hooks/ makes it, not unlearn.py
INNER = "unlearned_model"
CACHED = "models--"  # a model's folder in the hub's cache begins so
STEPS = Path(__file__).resolve().parents[2] / "experiment" / "steps.csv"
TAG = re.compile(r"(?=.{1,60}$)[A-Za-z0-9]+([._-][A-Za-z0-9]+)*")


def is_same(one, other):
    """Whether two paths name the same folder."""
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def looks_like_folder(model):
    return model.startswith((".", "/", "~", "outputs/", "data/")) or model.count("/") > 1


def is_local(model):
    """Whether `model` is a path, and not an id of the hub."""
    return looks_like_folder(model) or Path(model).expanduser().exists()


def inner(folder):
    """`folder`, or the unlearned_model/ in it where that is the model.

    So outputs/mini-base__npo means the model inside.
    """
    folder = Path(folder)
    own = any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
    return folder / INNER if not own and (folder / INNER / "config.json").is_file() else folder


def how_to_make(folder):
    """What to do about a model folder that is not there, by its name."""
    home = folder.parent if folder.name == INNER else folder
    base, _, method = home.name.rpartition("__")
    source = home.parent / "models" / base
    of = f" --model {source}" if base and source.is_dir() else ""
    name, _, tag = method.partition("-")
    if base and method == FILTER:
        return f"Make it with: uv run hooks/bake_filter.py{of}"
    if base and not base.endswith("__to") and name:
        of_tag = f" --name {tag}" if tag else ""
        return f"Make it with: uv run unlearn/unlearn.py{of} --method {name}{of_tag}"
    if folder.name == INNER:
        return "Make it with unlearn/unlearn.py, or check the path."
    mini = home.name.startswith("mini-") and not base
    return "Make the mini models with: uv run create_models.py" if mini else "Check the path."


def recorded_command(folder):
    """The command line that made what lies in `folder`, by its record; "" where none says it."""
    for path in sorted(Path(folder).glob("*.run.json")):
        try:
            command = json.loads(path.read_text(encoding="utf-8"))["command"]
            return shlex.join(["uv", "run", *command])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return ""


def check_tag(tag):
    """A tag becomes part of a folder's name; two underscores and dots in a row have a meaning
    there.
    """
    if tag and not TAG.fullmatch(tag):
        raise UserError(
            f"--name {tag[:60]!r}: up to 60 letters and digits, with single . _ or - between them."
        )
    return tag


def model_name(model):
    """The name of a model in output folders.

    It is a hub id with _ for /, also for a snapshot in the hub's cache, a folder's own name, or
    <model>__<method>.
    """
    path = Path(model)
    if "\0" in model or any(len(name.encode()) > 255 for name in path.parts):
        raise UserError(
            f"{model[:60]!r}... cannot be the name of a folder. "
            "Give a model folder or a Hugging Face id."
        )
    if path.is_dir() or model.startswith((".", "/", "~")) or len(path.parts) > 2:
        folder = path.resolve()
        owner = folder.parent.parent.name
        if folder.parent.name == "snapshots" and owner.startswith(CACHED):
            name = owner.removeprefix(CACHED).replace("--", "_")
        else:
            name = folder.parent.name if path.name == INNER else folder.name
    else:
        name = model.replace("/", "_")
    return name.replace("..", "_") or "model"


def roles_of(base, filtered, unlearned):
    """{name of a model: base | filtered | unlearned}, in this order.

    filtered: None where there is none. Raises UserError where one name stands twice: it names the
    model's results.
    """
    given = [(base, "base"), *([(filtered, "filtered")] if filtered else [])]
    given += [(model, "unlearned") for model in dict.fromkeys(unlearned)]
    roles = {}
    for model, role in given:
        name = model_name(model)
        if name in roles:
            raise UserError(
                f"{name} is given as {roles[name]} and as {role}. Give each model once."
            )
        roles[name] = role
    return roles


def comparison_dir(root, model_a, model_b):
    """Where the results of a comparison lie."""
    return Path(root) / f"{model_name(model_a)}__to__{model_name(model_b)}"


def is_method_file(method):
    """Whether a method is named by its file and class, `path/to/mine.py:Mine`."""
    return method.rpartition(":")[0].endswith(".py") or method.endswith(".py")


def method_label(method):
    """What folders, tables and configuration files call a method.

    It is the name of a method of the list, and the class of one that is named by its file.
    """
    return method.rpartition(":")[2] if is_method_file(method) else method


def unlearned_dir(root, model, method, tag=""):
    """Where unlearn.py puts the model that `method` makes of `model`."""
    name = f"{model_name(model)}__{method_label(method)}"
    if tag:
        name += f"-{tag}"
    return Path(root) / name / INNER


def model_files(model):
    """The files that determine a model's behaviour.

    They are its weights, configuration, tokenizer, chat templates, and the code that it brings.
    """
    model = Path(model)
    return sorted(
        file
        for file in [*model.iterdir(), *model.glob(f"{TEMPLATES}/*.jinja")]
        if file.is_file() and (file.suffix in MODEL_SUFFIXES or file.name in MODEL_FILES)
    )


def weight_files(model):
    """The files that a model, or an adapter, loads its weights from: of one format, each file once.

    A repository may hold the same weights in several formats, and a second copy beside the file or
    the index that is loaded. Formats are tried in the order of `WEIGHT_SUFFIXES`. An index may name
    files that are not there.
    """
    model = Path(model)
    for suffix in WEIGHT_SUFFIXES:
        for stem in ("model", "pytorch_model"):
            index = model / f"{stem}{suffix}.index.json"
            if index.is_file():
                weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                return [model / name for name in sorted(set(weight_map.values()))]
            if (model / f"{stem}{suffix}").is_file():
                return [model / f"{stem}{suffix}"]
        files = sorted(file for file in model.glob(f"*{suffix}") if file.name not in NO_WEIGHTS)
        if files:
            return files
    return []


def tokenizer_files(model):
    """The files that make up the tokenizer of the folder `model`, chat templates included."""
    suffixes = (".model", ".tiktoken", ".jinja")
    code = [file for file in Path(model).glob("*.py") if file.name.startswith("tokeniz")]
    named = [
        file
        for file in model_files(model)
        if file.name in TOKENIZER_FILES or file.suffix in suffixes
    ]
    return [*named, *code]


class StepFiles(NamedTuple):
    """What one step of experiment/steps.csv is called, and where it leaves its results."""

    step: str
    script: str
    folder: str
    output: str

    def path(self, home, file=None):
        """Its output, or another `file` beside it, below `home`: a comparison's, a model's or the
        root folder.
        """
        return Path(home) / self.folder / (file or self.output)


@functools.cache
def _steps():
    with open(STEPS, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["step"]: StepFiles(*(row[name] for name in StepFiles._fields)) for row in rows}


def step(name):
    """The `StepFiles` of the step called `name`.

    Raises KeyError for one that is not in the list.
    """
    return _steps()[name]
