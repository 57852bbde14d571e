"""Saving an unlearned model, merged, in its source's dtype; and whether that dtype resolves the
change.
"""

from contextlib import ExitStack

from brittle.base.disk import weights_size
from brittle.base.errors import UserError
from brittle.models.find import read_config
from brittle.models.tokenizers import copy_tokenizer


def dtype_of(folder, wanted):
    """The torch dtype to save in.

    wanted: its name, or "source" for the one in which the model in `folder` is stored. Its files
    tell that one: config.json may name another, or none.
    """
    import torch

    from brittle.models.weights import Checkpoint

    if wanted == "source":
        with ExitStack() as stack:
            wanted = Checkpoint(folder, stack).main_dtype() or "float32"
    return getattr(torch, wanted)


def size_to_save(folder, wanted):
    """(bytes of the model in `folder` saved in the dtype `wanted`, bytes of a checkpoint at most).

    A checkpoint holds the weights and two moments of the optimizer in float32.
    """
    stored = dtype_of(folder, "source").itemsize
    parameters = weights_size(folder) // stored
    return parameters * dtype_of(folder, wanted).itemsize, parameters * 3 * 4


def unresolved(folder, model, dtype):
    """(matrices whose typical change is too small for `dtype`, matrices that changed at all).

    Too small is below one unit in the last place: what such a matrix keeps after rounding is mostly
    rounding. The source's weights are streamed from `folder`.
    """
    from brittle.maths.precision import below_ulp
    from brittle.models.architectures import is_matrix
    from brittle.models.weights import Checkpoint, Parameters

    lost = changed = 0
    with ExitStack() as stack:
        source = Parameters(Checkpoint(folder, stack), model, whole=True)
        for name, p in model.named_parameters():
            if (
                name not in source
                or not is_matrix(p.shape, name)
                or source.shape(name) != tuple(p.shape)
            ):
                continue
            before = source.tensor(name).to(dtype)
            change = p.detach().cpu().float() - before.float()
            if change.any():
                changed += 1
                lost += below_ulp(before, change)
    return lost, changed


def save(out, folder, model, wrapped, dtype, *, adapter=False):
    """Write the model into the staged folder of `out`. Returns a warning, or None.

    The tokenizer is that of the source `folder`: its files are copied as they are.

    Raises UserError for weights that are not finite.
    """
    import torch

    for p in model.parameters():
        if not torch.isfinite(p).all():
            raise UserError(
                "the trained weights hold NaN or infinite values. Nothing was saved. Lower --lr."
            )
    if wrapped:
        if adapter:
            wrapped.save_pretrained(out.stage / "adapter")
        model = wrapped.merge_and_unload()
    lost, changed = unresolved(folder, model, dtype)
    # off while it was trained; what loads it generates
    model.config.use_cache = read_config(folder).get("use_cache", True)
    model.to(dtype).save_pretrained(out.stage)
    copy_tokenizer(folder, out.stage)
    if not lost:
        return None
    name = str(dtype).removeprefix("torch.")
    return (
        f"in {lost} of {changed} changed matrices the typical change is smaller than {name} "
        "resolves: what is saved of it is "
        "mostly rounding. Use --save-dtype float32, or a larger --lr."
    )
