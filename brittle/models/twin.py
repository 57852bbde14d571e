"""A model is not its own twin: Filtered must differ from Base and from the unlearned models.

Weights are compared by content, whatever the folders are called and however the tensors are spread
over files. No tensor is loaded: bytes are compared where they lie, up to the first difference.
"""

import json
import mmap
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.base.layout import inner

NOT_A_TWIN = (
    "a model is not its own twin, and all that is measured against it would be void. Give a model "
    "that was trained without the forget texts, or leave --filtered out."
)


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
        if folder is not None and same_weights(twin, folder):
            raise UserError(
                f"--filtered {filtered} has the weights of {flag} {model}, byte for byte: "
                f"{NOT_A_TWIN}"
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


def same_weights(one, other):
    """Do two model folders hold the same tensors, byte for byte? False where one has no weights."""
    a, b = stored_tensors(one), stored_tensors(other)
    if not a or set(a) != set(b):
        return False
    if any((a[n].dtype, a[n].shape) != (b[n].dtype, b[n].shape) for n in a):
        return False
    with ExitStack() as stack:
        opened = {}

        def content(stored):
            if stored.file not in opened:
                file = stack.enter_context(open(stored.file, "rb"))
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                opened[stored.file] = stack.enter_context(memoryview(mapped))
            return opened[stored.file][stored.start : stored.end]

        return all(content(a[name]) == content(b[name]) for name in sorted(a))
