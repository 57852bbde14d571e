"""Write a filter into a model's folder, so that the saved model is the hooked one, logit for logit.

    post-norm    W' = W - a (W U) V^T in the unembedding, which is untied first. It is exact for a
                 filter behind the final norm, and the folder loads as a stock class.
    class        The weights stay as they are, and the filter lies beside them in a registered
                 class (brittle/models/filtered.py). It is exact at any site, with gate or offset.

Tensors are streamed from safetensors to safetensors. Those that do not change are copied to the
bit. No model is built.
"""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.models.architectures import (
    FILTERED,
    HEADS,
    embedding_name,
    head_name,
    read,
    untied_head_name,
)
from brittle.models.filter import TENSORS
from brittle.models.filtered import spec
from brittle.models.find import read_config
from brittle.models.tokenizers import copy_tokenizer
from brittle.models.weights import Checkpoint

MODES = ("post-norm", "class")
# Endings of the files that a model needs beside weights and configuration.
COPIED = (".json", ".txt", ".model", ".tiktoken", ".jinja", ".py")
NOT_COPIED = (".index.json", ".run.json")


class Baked(NamedTuple):
    """What `bake` did: names of tensors that changed or were added, and how many were copied."""

    changed: list
    copied: int


def pick_mode(chosen, mode="auto"):
    """The baking mode of a Filter; auto takes post-norm where it is exact, else class.

    Raises UserError for a mode that does not exist, or that is not exact for this filter.
    """
    if mode == "auto":
        return "post-norm" if chosen.site == "post_norm" and chosen.linear else "class"
    if mode not in MODES:
        raise UserError(f"--mode {mode}: choose auto, {', '.join(MODES)}.")
    if mode == "post-norm" and not chosen.linear:
        what = "a gate" if chosen.gate is not None else "an offset"
        raise UserError(
            f"--mode {mode} folds one matrix into weights, but this filter has {what}. "
            "Use --mode class."
        )
    if mode == "post-norm" and chosen.site != "post_norm":
        raise UserError(
            f"--mode post-norm needs a post_norm filter, this one acts at {chosen.site}: "
            "a norm stands between. Use class."
        )
    return mode


def folded(weight, chosen):
    """W M^T for the filter's matrix M = I - a U V^T, of shape and dtype of `weight` [out, d].

    A module that reads filtered states with W gives what it gives of unfiltered ones with W M^T.
    Arithmetic is float64.
    """
    w, basis = weight.double(), chosen.basis.double()
    read = basis if chosen.read is None else chosen.read.double()
    return (w - chosen.strength * (w @ basis) @ read.T).to(weight.dtype)


def fold_into_unembedding(source, config, chosen):
    """{name: new tensor}: the unembedding, as a parameter of its own where it was tied.

    Raises UserError where it, or the embedding that it is tied to, has an unknown name.
    """
    head = head_name(source.files, config)
    untied = read(config, "tie_word_embeddings") is False
    read_from = head if head or untied else embedding_name(source.files)
    if read_from is None:
        raise UserError(
            f"{source.folder} has no weight that is known as its unembedding "
            f"({', '.join(HEADS)}). Use --mode class."
        )
    return {head or untied_head_name(config): folded(source.tensor(read_from), chosen)}


def filter_tensors(chosen):
    """{name: tensor} of the filter itself, as the registered class names them."""
    return {
        f"filter.{name}": getattr(chosen, name).float().cpu().contiguous()
        for name in TENSORS
        if getattr(chosen, name) is not None
    }


def new_config(config, chosen, mode):
    """config.json of the baked model."""
    if mode == "class":
        return config | {
            "model_type": FILTERED + config["model_type"],
            "architectures": [f"Filtered{name}" for name in config.get("architectures") or []],
            "filter": spec(chosen),
        }
    # always: older versions of transformers tie again, in silence, what differs
    return config | {"tie_word_embeddings": False}


def write_tensors(source, new, stage):
    """Write the source's tensors, `new` ones in place of theirs, and an index, into `stage`.

    Each of the source's shards becomes one; tensors that the source lacks go into a last shard.
    """
    from safetensors.torch import save_file

    shards = {}
    for name, shard in source.files.items():
        shards.setdefault(id(shard), []).append(name)
    added = {name: tensor for name, tensor in new.items() if name not in source.files}
    weight_map = {}

    def save(number, tensors):
        file = f"model-{number:05d}-of-{len(shards) + 1:05d}.safetensors"
        save_file(tensors, stage / file, {"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, file))

    for number, names in enumerate(shards.values(), 1):
        save(number, {n: new[n] if n in new else source.tensor(n) for n in names})
    if added:
        save(len(shards) + 1, added)
    index = {"metadata": {}, "weight_map": weight_map}
    (stage / "model.safetensors.index.json").write_text(
        json.dumps(index, indent=1), encoding="utf-8"
    )


def copy_other_files(folder, stage):
    """Copy what a model has beside weights and configuration, such as its tokenizer."""
    for path in folder.iterdir():
        wanted = path.suffix in COPIED
        left_out = path.name == "config.json" or path.name.endswith(NOT_COPIED)
        if path.is_file() and wanted and not left_out:
            shutil.copyfile(path, stage / path.name)
    copy_tokenizer(folder, stage)


def bake(folder, chosen, mode, stage):
    """Write the baked model of `folder` into the existing folder `stage`. Returns a Baked.

    Raises UserError where the model carries a filter already.
    """
    folder, config = Path(folder), read_config(folder)
    if str(config.get("model_type")).startswith(FILTERED):
        raise UserError(
            f"{folder} carries a filter already. Bake from the model that it was made of."
        )
    with ExitStack() as stack:
        source = Checkpoint(folder, stack)
        if mode == "class":
            new = filter_tensors(chosen)
        else:
            new = fold_into_unembedding(source, config, chosen)
        write_tensors(source, new, stage)
        copied = len(set(source.files) - set(new))
    (stage / "config.json").write_text(
        json.dumps(new_config(config, chosen, mode), indent=2) + "\n", encoding="utf-8"
    )
    copy_other_files(folder, stage)
    return Baked(sorted(new), copied)
