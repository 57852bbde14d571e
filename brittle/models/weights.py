"""Weight matrices of two checkpoints, streamed pair by pair from safetensors.

No model is built, and none is held whole.
"""

import json
from contextlib import ExitStack
from pathlib import Path

from brittle.base.errors import UserError
from brittle.maths.precision import natural
from brittle.models.architectures import as_rows


def is_matrix(shape):
    """Is a tensor of this shape a matrix, 2-D, or a 3-D stack of them (mixture-of-experts weights)?

    Norms and biases are not.
    """
    return len(shape) in (2, 3) and min(shape) > 1


class Checkpoint:
    """The tensors of a model folder by name; each is read when it is asked for."""

    def __init__(self, folder, stack, device="cpu"):
        from safetensors import safe_open

        self.folder, self.files = Path(folder), {}
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            shards = sorted(set(weight_map.values()))
        elif (self.folder / "model.safetensors").is_file():
            # some repositories ship a second copy of the weights beside it
            shards = ["model.safetensors"]
        else:
            shards = sorted(f.name for f in self.folder.glob("*.safetensors"))
        for shard in shards:
            path = self.folder / shard
            if not path.is_file():
                raise UserError(
                    f"{self.folder} lacks the shard {shard} that its index names. Download the "
                    "model again."
                )
            file = stack.enter_context(safe_open(path, framework="pt", device=str(device)))
            self.files.update(dict.fromkeys(file.keys(), file))

    def shape(self, name):
        return tuple(self.files[name].get_slice(name).get_shape())

    def is_float(self, name):
        return self.files[name].get_slice(name).get_dtype() in ("F64", "F32", "F16", "BF16")

    def tensor(self, name):
        return self.files[name].get_tensor(name)


def check_same(a, b):
    """A and B must hold the same names and shapes.

    Raises UserError that names the first difference and counts the rest.
    """
    # a baked activation filter has parameters of its own
    lost = sorted(n for n in set(a.files) ^ set(b.files) if not n.startswith("filter."))
    if lost:
        side = "A" if lost[0] in a.files else "B"
        raise UserError(
            f"only {side} has {lost[0]} ({len(lost)} such parameters). Compare models of one "
            "architecture."
        )
    wrong = [n for n in sorted(a.files) if a.shape(n) != b.shape(n)]
    if wrong:
        raise UserError(
            f"A and B differ in shape at {wrong[0]}: {list(a.shape(wrong[0]))} and "
            f"{list(b.shape(wrong[0]))} "
            f"({len(wrong)} such parameters). Compare models of one architecture."
        )


def is_adapter(folder):
    """Does the folder hold a LoRA adapter, without a model?"""
    folder = Path(folder)
    is_model = (folder / "config.json").is_file()
    return (folder / "adapter_config.json").is_file() and not is_model


class Adapter:
    """A LoRA adapter folder as the changed side of a pair: W_b = W_a + scale B A, in float64.

    One matrix is computed at a time.
    """

    def __init__(self, folder, stack, device="cpu"):
        config = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
        if (
            config.get("peft_type") != "LORA"
            or config.get("use_dora")
            or config.get("alpha_pattern")
        ):
            raise UserError(f"{folder} is no plain LoRA adapter. Merge it into its model first.")
        self.checkpoint, self.folder = Checkpoint(folder, stack, device), folder
        self.alpha, self.root = config["lora_alpha"], config.get("use_rslora")
        ends = (".lora_A.weight", ".lora_B.weight")
        keys = [k for k in self.checkpoint.files if k.endswith(ends[0])]
        self.factors = {
            f"{k.removeprefix('base_model.model.').removesuffix(ends[0])}.weight": k for k in keys
        }

    def check(self, a):
        """Every adapted matrix must be one of A's."""
        lost = sorted(set(self.factors) - set(a.files))
        if lost or not self.factors:
            lacks = "adapts no matrix"
            if lost:
                lacks = f"adapts {lost[0]} ({len(lost)} such matrices), which A lacks"
            raise UserError(f"{self.folder} {lacks}. Give the adapter's own base model as model A.")

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
        up *= self.alpha / (len(down) ** 0.5 if self.root else len(down))
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
        a, adapted = Checkpoint(folder_a, stack, device), is_adapter(folder_b)
        if adapted:
            b = Adapter(folder_b, stack, device)
            b.check(a)
        else:
            b = Checkpoint(folder_b, stack, device)
            check_same(a, b)
        config = json.loads((Path(folder_a) / "config.json").read_text(encoding="utf-8"))
        for name in sorted(a.files, key=natural):
            if not is_matrix(a.shape(name)) or not a.is_float(name) or (keep and not keep(name)):
                continue
            w_a = as_rows(a.tensor(name), name, config)
            w_b = b.changed(name, w_a) if adapted else as_rows(b.tensor(name), name, config)
            if w_a.ndim == 2:
                yield name, w_a, w_b
            else:
                yield from ((f"{name}[{e}]", w_a[e], w_b[e]) for e in range(len(w_a)))
