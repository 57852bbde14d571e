"""A model is not its own twin: Filtered must differ from Base and from the unlearned models.

Weights are compared by content, whatever the folders are called and however the tensors are spread
over files. A copy in another dtype is the same model. No tensor is loaded: bytes are compared where
they lie, up to the first difference.
"""

import json
import math
import mmap
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.base.layout import inner
from brittle.models.architectures import FLOATS

NOT_A_TWIN = (
    "a model is not its own twin, and all that is measured against it would be void. Give a model "
    "that was trained without the forget texts, or leave --filtered out."
)

EXACT = "byte for byte"
CHUNK = 1 << 22  # numbers that are compared at a time where two dtypes differ


class Stored(NamedTuple):
    """A tensor of a safetensors file: its dtype and shape, and the bytes from `start` to `end`."""

    dtype: str
    shape: tuple
    file: Path
    start: int
    end: int


def check_twin(base, filtered, unlearned):
    """Raises UserError where `filtered` has the weights of another of the models.

    filtered: None or empty where there is none. A model that is not on this machine is not checked.
    """
    twin = local_folder(filtered) if filtered else None
    if twin is None:
        return
    others = [("--base", base), *(("--unlearned", model) for model in unlearned or [])]
    for flag, model in others:
        folder = local_folder(model)
        how = likeness(twin, folder) if folder is not None else ""
        if how:
            raise UserError(
                f"--filtered {filtered} has the weights of {flag} {model}, {how}: {NOT_A_TWIN}"
            )


def local_folder(model):
    """The folder of a model on this machine, that of the hub's cache included; None without one."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return inner(folder)
    from huggingface_hub import try_to_load_from_cache

    try:
        path = try_to_load_from_cache(str(model), "config.json")
    except ValueError:  # it cannot be an id of the hub
        return None
    return Path(path).parent if isinstance(path, str) else None


def stored_tensors(folder):
    """{name: Stored} of a model folder; empty where its weights are not there, or not whole."""
    tensors = {}
    for file in _weight_files(Path(folder)):
        with open(file, "rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            try:
                header = json.loads(opened.read(min(size, file.stat().st_size)))
            except ValueError:
                return {}
        for name, about in header.items():
            if name != "__metadata__":
                start, end = (8 + size + offset for offset in about["data_offsets"])
                tensors[name] = Stored(about["dtype"], tuple(about["shape"]), file, start, end)
    return tensors


def _weight_files(folder):
    index = folder / "model.safetensors.index.json"
    whole = folder / "model.safetensors"
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = [folder / shard for shard in sorted(shards)]
        return files if all(file.is_file() for file in files) else []
    return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))


def likeness(one, other):
    """How two model folders hold the same tensors: `byte for byte`, or `rounded to` the coarser of
    two dtypes, as a copy that was saved in half precision does. Empty where they do not, or where
    one has no weights.
    """
    a, b = stored_tensors(one), stored_tensors(other)
    if not a or set(a) != set(b) or any(a[n].shape != b[n].shape for n in a):
        return ""
    pairs = [(a[name], b[name]) for name in sorted(a)]
    if any(len({x.dtype, y.dtype} - set(FLOATS)) for x, y in pairs if x.dtype != y.dtype):
        return ""
    with ExitStack() as stack:
        contents = Contents(stack)
        if not all(contents.are_same(*pair) for pair in pairs):
            return ""
    coarser = sorted({_coarser(x, y).dtype for x, y in pairs if x.dtype != y.dtype})
    return f"rounded to {', '.join(FLOATS[dtype] for dtype in coarser)}" if coarser else EXACT


def _coarser(*stored):
    return max(stored, key=lambda one: list(FLOATS).index(one.dtype))


class Contents:
    """The bytes of stored tensors, where they lie. The files stay open as long as `stack`."""

    def __init__(self, stack):
        self.stack, self.opened = stack, {}

    def of(self, stored):
        """The bytes of a `Stored`."""
        if stored.file not in self.opened:
            file = self.stack.enter_context(stored.file.open("rb"))
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.opened[stored.file] = self.stack.enter_context(memoryview(mapped))
        return self.opened[stored.file][stored.start : stored.end]

    def are_same(self, one, other):
        """Do two tensors of one shape hold the same numbers, up to the coarser of two dtypes?"""
        if one.dtype == other.dtype:
            return self.of(one) == self.of(other)
        import torch

        coarse = _coarser(one, other)
        fine = one if coarse is other else other
        dtype = getattr(torch, FLOATS[coarse.dtype])
        for start in range(0, math.prod(coarse.shape), CHUNK):
            wide, narrow = (self.numbers(stored, start) for stored in (fine, coarse))
            if not torch.equal(wide.to(dtype), narrow):
                return False
        return True

    def numbers(self, stored, start):
        """At most `CHUNK` numbers of a stored tensor, from the number `start` on."""
        import torch

        dtype = getattr(torch, FLOATS[stored.dtype])
        size = dtype.itemsize
        stretch = self.of(stored)[size * start : size * (start + CHUNK)]
        return torch.frombuffer(bytearray(stretch), dtype=dtype)
