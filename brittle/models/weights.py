"""Weight matrices of two checkpoints, streamed pair by pair from safetensors.

No model is built, and none is held whole. What is compared is what the files load as: two files of
one architecture may name and store different tensors (see `Parameters`).
"""

import json
import re
from contextlib import ExitStack
from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.layout import weight_files
from brittle.maths.precision import natural
from brittle.models.architectures import (
    FLOATS,
    HEADS,
    STORED_BUFFER,
    STORED_MASK,
    as_rows,
    check_one_stack,
    check_readable,
    check_tensors,
    is_matrix,
    layer_of,
    read,
    refuse_quantised,
    size,
    text_config,
)
from brittle.models.find import is_adapter

# Of positions and masks, which are stored beside the parameters.
INDICES = ("I64", "I32", "BOOL")
# A block of the model at the start of a name: the file was saved without the prefix of the model.
BARE_BLOCK = re.compile(r"^(layers|layer|h|blocks|block)\.\d")


class Checkpoint:
    """The tensors of a model folder by their names in the files; each is read when asked for.

    Raises UserError for weights that are stored quantised, and for a model that is no decoder.
    """

    def __init__(self, folder, stack, device="cpu"):
        from safetensors import safe_open

        self.folder, self.files = Path(folder), {}
        shards = [file for file in weight_files(folder) if file.suffix == ".safetensors"]
        for path in shards:
            if not path.is_file():
                raise UserError(
                    f"{self.folder} lacks the shard {path.name} that its index names. Download the "
                    "model again."
                )
            file = stack.enter_context(safe_open(path, framework="pt", device=str(device)))
            self.files.update(dict.fromkeys(file.keys(), file))
        config = self.folder / "config.json"
        self.config = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        self.check()

    def check(self):
        check_readable(self.config, self.folder)
        check_tensors(self.files, self.folder)
        for name in self.files:
            stored = self.stored_dtype(name)
            is_mask = STORED_BUFFER.search(name) or STORED_MASK.search(name)
            shape = self.shape(name)
            # positions are [1, n]; a table of whole numbers in a block holds packed weights
            is_table = stored in ("I32", "I64") and min(shape, default=0) > 1
            is_packed = is_table and layer_of(name) >= 0
            is_weight = name.endswith(".weight") or stored not in INDICES or is_packed
            if is_weight and not is_mask and stored not in FLOATS and len(shape) > 1:
                refuse_quantised(self.folder, f"{name} is {stored}")

    def shape(self, name):
        return tuple(self.files[name].get_slice(name).get_shape())

    def stored_dtype(self, name):
        """What safetensors calls the dtype of a tensor, such as BF16."""
        return self.files[name].get_slice(name).get_dtype()

    def is_float(self, name):
        return self.stored_dtype(name) in FLOATS

    def tensor(self, name):
        return self.files[name].get_tensor(name)

    def main_dtype(self):
        """The name in torch of the dtype in which most numbers are stored, None without any."""
        counts = {}
        for name in self.files:
            stored = self.stored_dtype(name)
            if stored in FLOATS and not STORED_BUFFER.search(name):
                count = 1
                for side in self.shape(name):
                    count *= side
                counts[stored] = counts.get(stored, 0) + count
        return FLOATS[max(counts, key=counts.get)] if counts else None


def skeleton(folder):
    """The model of `folder` on the meta device, where its weights take no memory.

    None where the installed transformers does not know the architecture.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from brittle.models import filtered

    try:
        filtered.prepare(folder)
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError):
        return None
    except (RuntimeError, AssertionError):  # torch's, of sizes that do not fit
        return None


class Stack:
    """A parameter that transformers makes of several tensors of the files, such as experts."""

    def __init__(self, converter, model):
        self.converter, self.model, self.pieces = converter, model, []

    def tensor(self, checkpoint, first, name):
        """The parameter `name`; `first` is the first that these pieces make."""
        from copy import deepcopy

        converter = deepcopy(self.converter)
        for pattern, stored in self.pieces:
            converter.add_tensor(first, stored, pattern, checkpoint.tensor(stored))
        value = converter.convert(first, model=self.model, config=self.model.config)[name]
        return value[0] if isinstance(value, list) else value


class Parameters:
    """The parameters that a checkpoint loads as, by name: `in`, iteration, shape, tensor.

    Without `model` these are its tensors as they are named, but for what older versions of
    transformers stored beside the parameters. `model`, of the same architecture, on whatever
    device, settles the rest with transformers' own rules of loading: renamed parameters, a prefix
    that is added or dropped, buffers, the copy of a tied unembedding.

    With `whole`, tensors that transformers puts together (one an expert) are shown as the one
    parameter that they make; without it each keeps its name in the files.
    """

    def __init__(self, checkpoint, model=None, *, whole=False):
        self.checkpoint, self.model = checkpoint, model
        self.stored = {}  # {parameter: name in the files, or (first parameter, Stack)}
        if model is None:
            names = [name for name in checkpoint.files if not STORED_BUFFER.search(name)]
            self.stored = dict(zip(names, names, strict=True))
        else:
            self._rename(whole)
            self._tie()
        check_one_stack(self.stored, checkpoint.folder)

    def _rename(self, whole):
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        mapping = get_model_conversion_mapping(self.model)
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        by_pattern = {pattern: c for c in converters for pattern in c.source_patterns}
        shapes = {n: p.shape for n, p in self.model.named_parameters(remove_duplicate=False)}
        self.shapes, stacks = shapes, {}
        for stored in sorted(self.checkpoint.files, key=natural):
            name, pattern = self.loaded_name(stored, renamings, converters)
            if name not in shapes:
                continue
            if pattern is None:
                self.stored[name] = stored
            elif not whole:
                self.stored[stored] = stored
            else:
                converter = by_pattern[pattern]
                stack = stacks.setdefault(name, Stack(converter, self.model))
                stack.pieces.append((pattern, stored))
                first, *others = converter.target_patterns
                for target in (name, *(name.replace(first, other) for other in others)):
                    self.stored[target] = (name, stack)

    def loaded_name(self, stored, renamings, converters):
        """(name of the parameter, the pattern of a conversion or None), as transformers does it."""
        from transformers.core_model_loading import rename_source_key

        state, prefix = self.shapes_with_buffers(), self.model.base_model_prefix
        name, pattern = rename_source_key(stored, renamings, converters, prefix, state)
        if name not in state and stored in state:
            name, pattern = rename_source_key(stored, [], [], prefix, state)
        return name, pattern

    def shapes_with_buffers(self):
        if not hasattr(self, "_state"):
            self._state = self.model.state_dict()
        return self._state

    def _tie(self):
        """Leave out the copy of a tied parameter, where it is one."""
        for copy, source in (getattr(self.model, "all_tied_weights_keys", None) or {}).items():
            if copy in self.stored and source not in self.stored:
                self.stored[source] = self.stored.pop(copy)
            elif copy in self.stored and self.tensor(copy).equal(self.tensor(source)):
                del self.stored[copy]

    def __contains__(self, name):
        return name in self.stored

    def __iter__(self):
        return iter(self.stored)

    def _pieces(self, name):
        stored = self.stored[name]
        return [stored] if isinstance(stored, str) else [piece for _, piece in stored[1].pieces]

    def shape(self, name):
        stored = self.stored[name]
        return (
            self.checkpoint.shape(stored) if isinstance(stored, str) else tuple(self.shapes[name])
        )

    def is_float(self, name):
        return all(self.checkpoint.is_float(piece) for piece in self._pieces(name))

    def tensor(self, name):
        stored = self.stored[name]
        if isinstance(stored, str):
            return self.checkpoint.tensor(stored)
        first, stack = stored
        return stack.tensor(self.checkpoint, first, name)


def as_named(checkpoint):
    """The parameters of a checkpoint as they are named in its files, or None.

    None is for files that do not tell by themselves what they load as: blocks without the model's
    prefix, an unembedding beside a configuration that ties it, parts that read images or sound,
    blocks behind the last one that the configuration counts (heads that predict several tokens).
    """
    config, names = checkpoint.config, checkpoint.files
    nested = text_config(config) is not config
    bare = any(BARE_BLOCK.match(name) for name in names)
    has_head = any(head in names for head in HEADS)
    maybe_tied = has_head and read(config, "tie_word_embeddings") is not False
    count = size(config, "num_hidden_layers")
    surplus = count is not None and any(layer_of(name) >= count for name in names)
    unclear = nested or bare or maybe_tied or surplus
    return None if unclear else Parameters(checkpoint)


def as_loaded(checkpoint, *, whole=False):
    """The parameters of a checkpoint as transformers loads them."""
    return Parameters(checkpoint, skeleton(checkpoint.folder), whole=whole)


def same_parameters(first, second):
    """`Parameters` of two checkpoints under common names.

    Names in the files are enough where they agree; otherwise transformers is asked what each loads
    as. Raises UserError where the two models differ in a parameter or its shape.
    """
    a, b = as_named(first), as_named(second)
    if a is None or b is None or set(a) != set(b):
        a, b = as_loaded(first), as_loaded(second)
    if set(a) != set(b):
        whole_a, whole_b = as_loaded(first, whole=True), as_loaded(second, whole=True)
        if set(whole_a) == set(whole_b):
            a, b = whole_a, whole_b
    check_same(a, b)
    return a, b


def check_same(a, b):
    """`Parameters` A and B must have the same names and shapes.

    Raises UserError that names the first difference and counts the rest.
    """
    # a baked activation filter has parameters of its own
    lost = sorted(n for n in set(a) ^ set(b) if not n.startswith("filter."))
    if lost:
        side = "A" if lost[0] in a else "B"
        raise UserError(
            f"only {side} has {lost[0]} ({len(lost)} such parameters). Compare models of one "
            "architecture."
        )
    wrong = [n for n in sorted(a) if a.shape(n) != b.shape(n)]
    if wrong:
        raise UserError(
            f"A and B differ in shape at {wrong[0]}: {list(a.shape(wrong[0]))} and "
            f"{list(b.shape(wrong[0]))} "
            f"({len(wrong)} such parameters). Compare models of one architecture."
        )


# Settings of an adapter that say where it came from or where it sits; its tensors tell the rest.
SILENT_SETTINGS = {
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
}
# Settings that `Adapter.changed` reckons with.
READ_SETTINGS = {"alpha_pattern", "lora_alpha", "use_rslora"}
# Of init_lora_weights: those that leave the model's own weights as they are.
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


class Adapter:
    """A LoRA adapter folder as the changed side of a pair: W_b = W_a + scale B A, in float64.

    One matrix is computed at a time. scale is alpha / r, or alpha / sqrt(r) for rank-stabilised
    LoRA; alpha may be another one for some modules.
    """

    ENDS = (".lora_A.weight", ".lora_B.weight")
    PREFIX = "base_model.model."

    def __init__(self, folder, stack, device="cpu"):
        path = Path(folder) / "adapter_config.json"
        self.config = json.loads(path.read_text(encoding="utf-8"))
        if self.config.get("peft_type") != "LORA":
            raise UserError(f"{folder} is no LoRA adapter. Merge it into its model first.")
        self.checkpoint, self.folder = Checkpoint(folder, stack, device), folder
        keys = [k for k in self.checkpoint.files if k.endswith(self.ENDS[0])]
        self.factors = {f"{self._module(k)}.weight": k for k in keys}

    def _module(self, key):
        return key.removeprefix(self.PREFIX).removesuffix(self.ENDS[0])

    def check_plain(self):
        """Raise UserError for an adapter that changes more than W + scale B A says."""
        extra = [
            key
            for key, value in self.config.items()
            if value and key not in SILENT_SETTINGS | READ_SETTINGS | {"bias", "init_lora_weights"}
        ]
        if self.config.get("bias", "none") != "none":
            extra.append("bias")
        if self.config.get("init_lora_weights") not in PLAIN_STARTS:
            extra.append(f"init_lora_weights {self.config['init_lora_weights']}")
        extra += sorted(k for k in self.checkpoint.files if not k.endswith(self.ENDS))
        if extra:
            raise UserError(
                f"{self.folder} is no plain LoRA adapter: it has {extra[0]} ({len(extra)} such "
                "settings and tensors). Merge it into its model first."
            )

    def check_mergeable(self, tied):
        """Raise UserError for an adapter that is not what it was trained as once it is merged.

        tied: {copy: source}, the parameters of the base model that share their numbers.
        """
        start = str(self.config.get("init_lora_weights"))
        if start.startswith("pissa_niter"):
            raise UserError(
                f"{self.folder} was trained from a random decomposition (init_lora_weights "
                f"{start}), which it does not hold. Convert it to a plain LoRA adapter, as PEFT's "
                "save_pretrained(path_initial_model_for_weight_conversion=...) does."
            )
        for name in {*tied, *tied.values()}:
            inside = f".{name.removesuffix('.weight')}.lora_"
            if any(inside in f".{key}" for key in self.checkpoint.files):
                raise UserError(
                    f"{self.folder} adapts {name}, which the model also uses elsewhere (tied "
                    "embeddings): merged, it would change both. Untie them first."
                )

    def parameters(self, base):
        """The `Parameters` of the checkpoint `base` that the adapter changes.

        Every adapted matrix must be one of them.
        """
        a = as_named(base)
        if a is None or not set(self.factors) <= set(a):
            a = as_loaded(base)
        lost = sorted(set(self.factors) - set(a))
        if not self.checkpoint.files:
            raise UserError(
                f"{self.folder} holds no safetensors, so it adapts no matrix. Save the adapter "
                "with safe_serialization, which is what PEFT does by itself."
            )
        if lost or not self.factors:
            lacks = "adapts no matrix"
            if lost:
                lacks = f"adapts {lost[0]} ({len(lost)} such matrices), which A lacks"
            raise UserError(f"{self.folder} {lacks}. Give the adapter's own base model as model A.")
        return a

    def scale(self, module, rank):
        """What PEFT multiplies B A of a module with."""
        alphas = self.config.get("alpha_pattern") or {}
        own = next((key for key in alphas if re.match(rf"(.*\.)?({key})$", module)), None)
        alpha = self.config["lora_alpha"] if own is None else alphas[own]
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)

    def changed(self, name, w):
        """W_b for W_a = w [out, in]; w itself where the adapter does nothing.

        dW is the product of the result's `.factors`.
        """
        import torch

        if name not in self.factors:
            return w
        key = self.factors[name]
        down, up = (
            self.checkpoint.tensor(k).double() for k in (key, key.replace(".lora_A.", ".lora_B."))
        )
        up *= self.scale(self._module(key), len(down))
        changed = torch.addmm(w.double(), up, down)
        changed.factors = (up, down)
        return changed


def matrix_pairs(folder_a, folder_b, device="cpu", keep=None):
    """Yield (name, W_a [m, n], W_b [m, n]) in their stored dtypes, rows = output features.

    A stack gives name[e] an expert. Never more than one tensor of each model is in memory;
    `keep(name)` chooses (default: every matrix). `folder_b` may be a LoRA adapter of A. Raises
    UserError where the models do not fit together.
    """
    with ExitStack() as stack:
        base, adapted = Checkpoint(folder_a, stack, device), is_adapter(folder_b)
        if adapted:
            b = Adapter(folder_b, stack, device)
            b.check_plain()
            a = b.parameters(base)
        else:
            a, b = same_parameters(base, Checkpoint(folder_b, stack, device))
        for name in sorted(a, key=natural):
            wanted = is_matrix(a.shape(name), name) and a.is_float(name)
            if not wanted or (keep and not keep(name)):
                continue
            w_a = as_rows(a.tensor(name), name, base.config)
            w_b = b.changed(name, w_a) if adapted else as_rows(b.tensor(name), name, base.config)
            if w_a.ndim == 2:
                yield name, w_a, w_b
            else:
                yield from ((f"{name}[{e}]", w_a[e], w_b[e]) for e in range(len(w_a)))
