"""Is a baked model the hooked one?

Compared are the logits, greedy generation with a cache and left padding, and, where those differ,
the outputs of all modules, to name the first that parts.
"""

from typing import NamedTuple

import torch

from brittle.base.errors import UserError
from brittle.maths.intervals import generator
from brittle.models.architectures import size
from brittle.models.filter import hooked

TOLERANCE = 1e-5  # of logits in float32, relative to the largest
MOST_ULPS = 2  # of logits in other dtypes


class FilterComparison(NamedTuple):
    """How far a baked model is from the hooked one; see `compare`."""

    difference: float  # largest, of two logits
    relative: float  # of the largest logit (or of 1, where that is smaller)
    ulp: float  # in units in the last place of the largest logit
    argmax: float  # share of tokens with the same likeliest next token
    generation: float  # share of greedily generated tokens that are the same
    exact: bool
    first_difference: str | None  # name of the first module whose output differs


def tokens(config, count=4, length=24, seed=0):
    """A left-padded batch of random tokens.

    Returns {input_ids, attention_mask, position_ids}, each [count, length].
    """
    draw = generator(seed, "verify")
    ids = torch.randint(0, size(config, "vocab_size"), (count, length), generator=draw)
    mask = torch.ones_like(ids)
    for row in range(1, count):
        mask[row, : row * length // (2 * count)] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp_min(0),
    }


@torch.no_grad()
def logits_of(model, batch):
    """Logits [n, V] of the real tokens, in the model's dtype."""
    batch = {k: v.to(model.device) for k, v in batch.items()}
    return model(**batch).logits[batch["attention_mask"].bool()].cpu()


@torch.no_grad()
def greedy(model, batch, count=32):
    """[B, count] greedily generated with a cache, from a left-padded batch."""
    batch = {k: v.to(model.device) for k, v in batch.items() if k != "position_ids"}
    out = model.generate(
        **batch,
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
    )
    return out[:, batch["input_ids"].shape[1] :].cpu()


def ulps(a, b):
    """Largest difference of two logits of one dtype.

    Its unit is the last place of the largest logit.
    """
    top = torch.maximum(a.abs().max(), b.abs().max()).float().clamp_min(torch.finfo(a.dtype).tiny)
    unit = torch.finfo(a.dtype).eps * 2.0 ** torch.log2(top).floor()
    return float((a.float() - b.float()).abs().max() / unit)


def outputs(model, batch):
    """{name: output, float32 on the CPU} of every module without children, in computing order."""
    by_name, handles = {}, []

    def keep_as(name):
        def keep(_module, _inputs, output):
            if not torch.is_tensor(output):
                output = next((entry for entry in output if torch.is_tensor(entry)), None)
            if output is not None:
                by_name.setdefault(name, output.detach().float().cpu())

        return keep

    for name, module in model.named_modules():
        if name and not any(module.children()):
            handles.append(module.register_forward_hook(keep_as(name)))
    try:
        logits_of(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return by_name


def first_difference(one, other, batch, tolerance):
    """Name of the first module, in computing order, whose output differs, or None.

    An output differs by more than `tolerance`, relative to the largest number of the first
    model's (or to 1). Modules are compared by name; those that only one model has, such as a
    filter, are passed over.
    """
    expected, actual = outputs(one, batch), outputs(other, batch)
    for name, x in expected.items():
        y = actual.get(name)
        if y is None:
            continue
        allowed = tolerance * max(1.0, float(x.abs().max()))
        if x.shape != y.shape or float((x - y).abs().max()) > allowed:
            return name
    return None


def is_exact(dtype, relative, ulp, generation):
    """Are two models the same, but for rounding in `dtype`?

    In lower precision than float32 one unit in the last place may turn a tie, so that generated
    tokens are no evidence there.
    """
    if dtype == torch.float32:
        return relative <= TOLERANCE and generation == 1.0
    return ulp <= MOST_ULPS


def compare(base, chosen, baked, batch=None):
    """Compare `base`, hooked with the Filter `chosen`, with the loaded model `baked`.

    `batch`: {input_ids, attention_mask, position_ids} [B, T]; random tokens by default.
    Raises UserError where the two have different numbers of logits.
    """
    batch = batch or tokens(base.config)
    with hooked(base, chosen):
        wanted, wanted_tokens = logits_of(base, batch), greedy(base, batch)
        actual = logits_of(baked, batch)
        if wanted.shape != actual.shape:
            raise UserError(
                f"the baked model has {actual.shape[-1]} logits, the model {wanted.shape[-1]}: "
                "not made from this model."
            )
        difference = float((wanted.float() - actual.float()).abs().max())
        relative = difference / max(1.0, float(wanted.float().abs().max()))
        ulp = ulps(wanted, actual)
        argmax = float((wanted.argmax(-1) == actual.argmax(-1)).double().mean())
        generation = float((wanted_tokens == greedy(baked, batch)).double().mean())
        exact = is_exact(wanted.dtype, relative, ulp, generation)
        first = None if exact else first_difference(base, baked, batch, TOLERANCE)
    return FilterComparison(difference, relative, ulp, argmax, generation, exact, first)
