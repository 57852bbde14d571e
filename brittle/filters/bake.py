"""Write a filter into a model's folder, so that the saved model is the hooked one, logit for logit.

    post-norm    W' = W - a (W U) V^T in the unembedding (untied first): exact for a post-norm filter, stock classes
    class        stock weights plus the filter in a registered class: exact at any site, with gate or offset; see filter_model
    writers      every write into the residual stream is filtered: embeddings, attention and MLP outputs, and their biases
    greedy-only  RMSNorm models, pre-norm filter: W' = W diag(g) M diag(g)^-1 gives the hooked logits times a positive number
                 a token: the same argmax, another temperature; the folder refuses to be scored

Tensors are streamed from safetensors to safetensors; those that do not change are copied to the bit. No model is built.
"""

import json
import re
import shutil
from contextlib import ExitStack
from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.layout import TOKENIZERS
from brittle.models.architectures import (
    FILTERED,
    HEADS,
    embedding_name,
    head_name,
    is_transposed,
    untied_head_name,
)
from brittle.models.filter import TENSORS
from brittle.models.find import read_config
from brittle.models.weights import Checkpoint

MODES = ("post-norm", "class", "writers", "greedy-only")
EMBEDDINGS = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings|wpe)\.weight$")
WRITERS = re.compile(
    r"\.(o_proj|out_proj|down_proj|dense_4h_to_h|fc2|attention\.dense|self_attn\.dense|attn\.c_proj|mlp\.c_proj|w2)\.(weight|bias)$"
    r"|\.experts\.down_proj$"
)
FINAL_NORM = re.compile(r"(^|\.)(norm|final_layer_norm|ln_f|final_layernorm)\.weight$")
PLAIN_STREAM = ("gpt_neox", "gpt2", "llama", "mistral", "qwen2", "phi", "olmoe", "qwen3", "mixtral")
SKIP = (".safetensors", ".bin", ".pt", ".pth", ".csv", ".png", ".index.json")


def pick_mode(made, mode="auto"):
    """The mode itself; for auto the exact one with stock classes, else class. Raises UserError for one that is not exact."""
    if mode == "auto":
        return "post-norm" if made.site == "post_norm" and made.linear else "class"
    if mode not in MODES:
        raise UserError(f"--mode {mode}: choose auto, {', '.join(MODES)}.")
    what = "a gate" if made.gate is not None else "an offset" if made.offset is not None else None
    if mode != "class" and what:
        raise UserError(
            f"--mode {mode} folds one matrix into weights, but this filter has {what}. Use --mode class."
        )
    if mode == "post-norm" and made.site != "post_norm":
        raise UserError(
            f"--mode post-norm needs a post_norm filter, this one acts at {made.site}: a norm stands between. Use class."
        )
    if mode == "greedy-only" and made.site != "pre_norm":
        raise UserError(
            f"--mode greedy-only is for pre_norm filters, this one acts at {made.site}. Use post-norm or class."
        )
    return mode


def folded(weight, made):
    """W M^T for M = I - a U V^T acting on columns: what reads a filtered state, from weight [out, d]; float64 arithmetic."""
    w, basis = weight.double(), made.basis.double()
    read = basis if made.read is None else made.read.double()
    return (w - made.strength * (w @ basis) @ read.T).to(weight.dtype)


def written(rows, made):
    """Filtered rows [.., d]: what writes into the residual stream (embedding rows, biases, columns of a projection)."""
    x, basis = rows.double(), made.basis.double()
    read = basis if made.read is None else made.read.double()
    return (x - made.strength * (x @ read) @ basis.T).to(rows.dtype)


def unembedding(source, config):
    """(name of the unembedding in the checkpoint, or None where it is tied; name of the token embedding)."""
    head, embedding = head_name(source.files, config), embedding_name(source.files)
    if head is None and embedding is None:
        raise UserError(
            f"{source.folder} has no weight that is known as its unembedding ({', '.join(HEADS)}). Use --mode class."
        )
    return head, embedding


def post_norm(source, config, made):
    """{name: new tensor}: the unembedding, as a parameter of its own where it was tied."""
    head, embedding = unembedding(source, config)
    return {head or untied_head_name(config): folded(source.tensor(head or embedding), made)}


def greedy_only(source, config, made):
    norms = [
        n
        for n in source.files
        if re.search(r"(^|\.)(norm|final_layer_norm|ln_f|final_layernorm)\.weight$", n)
        and ".layers." not in n
    ]
    if not norms:
        raise UserError(
            "the final norm has no weight, so there is nothing to fold the filter around. Use --mode class."
        )
    if norms[0].replace(".weight", ".bias") in source.files:
        raise UserError(
            f"--mode greedy-only keeps the argmax of RMSNorm models only; {norms[0]} has a bias (LayerNorm). Use class."
        )
    head, embedding = unembedding(source, config)
    if head and head.replace(".weight", ".bias") in source.files:
        raise UserError("--mode greedy-only needs an unembedding without bias. Use --mode class.")
    weight, g = source.tensor(head or embedding), source.tensor(norms[0]).double()
    if bool((g == 0).any()):
        raise UserError(
            f"{norms[0]} has entries of 0, which cannot be divided by. Use --mode class."
        )
    turned = folded(weight.double() * g, made) / g
    return {head or untied_head_name(config): turned.to(weight.dtype)}


def writers(source, config, made):
    """{name: new tensor} of everything that writes into the residual stream; the unembedding of a tied model is kept beside."""
    kind = config.get("model_type")
    if kind not in PLAIN_STREAM:
        raise UserError(
            f"--mode writers is exact for {', '.join(PLAIN_STREAM)}; {kind} may norm what its blocks write. Use class."
        )
    head, embedding = unembedding(source, config)
    new = {} if head else {untied_head_name(config): source.tensor(embedding).clone()}
    for name in source.files:
        if EMBEDDINGS.search(name) or (name.endswith(".bias") and WRITERS.search(name)):
            new[name] = written(source.tensor(name), made)
        elif WRITERS.search(name):
            w = source.tensor(name)
            turned = is_transposed(config, name)
            new[name] = (
                written(w if turned else w.mT, made)
                if turned
                else written(w.mT, made).mT.contiguous()
            )
    return new


def with_filter(source, config, made):
    """{name: tensor} of the filter itself, for the registered class."""
    return {
        f"filter.{n}": getattr(made, n).float().cpu().contiguous()
        for n in TENSORS
        if getattr(made, n) is not None
    }


CHANGES = {
    "post-norm": post_norm,
    "greedy-only": greedy_only,
    "writers": writers,
    "class": with_filter,
}


def new_config(config, made, mode):
    """config.json of the baked model."""
    config = dict(config)
    if mode == "class":
        from brittle.models.filtered import spec

        arch = config.get("architectures") or []
        return config | {
            "model_type": FILTERED + config["model_type"],
            "architectures": [f"Filtered{a}" for a in arch],
            "filter": spec(made),
        }
    config["tie_word_embeddings"] = (
        False  # always: older versions of transformers tie differing tensors again in silence
    )
    if mode == "greedy-only":
        config["exactness"] = "argmax"
    return config


def bake(folder, made, mode, stage):
    """Write the baked model of `folder` into the folder `stage`. Returns {"changed": names, "copied": count}."""
    from safetensors.torch import save_file

    folder, config = Path(folder), read_config(folder)
    if str(config.get("model_type")).startswith(FILTERED):
        raise UserError(
            f"{folder} carries a filter already. Bake from the model that it was made of."
        )
    with ExitStack() as stack:
        source = Checkpoint(folder, stack)
        new = CHANGES[mode](source, config, made)
        shards, weight_map = {}, {}
        for name in source.files:
            shards.setdefault(id(source.files[name]), []).append(name)
        for i, names in enumerate(shards.values(), 1):
            file = f"model-{i:05d}-of-{len(shards) + 1:05d}.safetensors"
            save_file(
                {n: new[n] if n in new else source.tensor(n) for n in names},
                stage / file,
                {"format": "pt"},
            )
            weight_map |= dict.fromkeys(names, file)
        added = {n: t for n, t in new.items() if n not in source.files}
        if added:
            file = f"model-{len(shards) + 1:05d}-of-{len(shards) + 1:05d}.safetensors"
            save_file(added, stage / file, {"format": "pt"})
            weight_map |= dict.fromkeys(added, file)
        copied = len(source.files) - sum(n in source.files for n in new)
    index = {"metadata": {}, "weight_map": weight_map}
    (stage / "model.safetensors.index.json").write_text(
        json.dumps(index, indent=1), encoding="utf-8"
    )
    (stage / "config.json").write_text(
        json.dumps(new_config(config, made, mode), indent=2) + "\n", encoding="utf-8"
    )
    for path in folder.iterdir():
        wanted = path.name in TOKENIZERS or path.suffix in (".json", ".txt", ".model", ".jinja")
        if (
            path.is_file()
            and wanted
            and path.name != "config.json"
            and not path.name.endswith((*SKIP, ".run.json"))
        ):
            shutil.copyfile(path, stage / path.name)
    return {"changed": sorted(new), "copied": copied}
