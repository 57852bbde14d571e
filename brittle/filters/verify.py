"""Is a baked model the hooked one? Logits, greedy generation with cache and left padding, and the first module that differs."""

from contextlib import contextmanager
from dataclasses import replace

import torch

from brittle.base.errors import UserError
from brittle.maths.intervals import generator
from brittle.models.blocks import blocks
from brittle.models.filter import hooked

TOLERANCE = 1e-5  # of logits in float32, relative to the largest


def every_write(model):
    """The modules that write into the residual stream: embeddings, and each block's attention and MLP outputs."""
    from brittle.filters.bake import EMBEDDINGS, WRITERS

    found = [
        m
        for n, m in model.named_modules()
        if EMBEDDINGS.search(f"{n}.weight") and hasattr(m, "weight")
    ]
    found += [
        m
        for b in blocks(model)
        for n, m in b.named_modules()
        if WRITERS.search(f".{n}.weight") and hasattr(m, "weight")
    ]
    experts = [
        m
        for b in blocks(model)
        for m in b.modules()
        if torch.is_tensor(getattr(m, "down_proj", None))
    ]
    return found + experts


@contextmanager
def reference(model, made, mode):
    """The base model with the hooks that a baking mode stands for: at the filter's site, or for `writers` on every write."""
    if mode != "writers":
        with hooked(model, made):
            yield model
        return
    linear = replace(made)
    handles = [m.register_forward_hook(lambda _m, _i, out: linear(out)) for m in every_write(model)]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def tokens(config, count=4, length=24, seed=0):
    """A left-padded batch of random tokens, {input_ids, attention_mask, position_ids} [count, length]."""
    draw = generator(seed, "verify")
    ids = torch.randint(0, config.vocab_size, (count, length), generator=draw)
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
    """Largest difference of two logits of one dtype, in units in the last place of the largest logit."""
    top = torch.maximum(a.abs().max(), b.abs().max()).float().clamp_min(torch.finfo(a.dtype).tiny)
    unit = torch.finfo(a.dtype).eps * 2.0 ** torch.log2(top).floor()
    return float((a.float() - b.float()).abs().max() / unit)


@torch.no_grad()
def first_difference(one, other, batch, tolerance):
    """Name of the first module, in the order of computation, whose output differs by more than `tolerance` (relative), or None.

    Modules are compared by name; those that only one model has (a filter) are passed over.
    """

    def outputs(model):
        seen, handles = {}, []
        for name, module in model.named_modules():
            if name and not any(module.children()):

                def keep(_m, _i, out, name=name):
                    out = (
                        out
                        if torch.is_tensor(out)
                        else next((o for o in out if torch.is_tensor(o)), None)
                    )
                    if out is not None:
                        seen.setdefault(name, out.detach().float().cpu())

                handles.append(module.register_forward_hook(keep))
        try:
            logits_of(model, batch)
        finally:
            for handle in handles:
                handle.remove()
        return seen

    a, b = outputs(one), outputs(other)
    for name, x in a.items():
        y = b.get(name)
        if y is not None and (
            x.shape != y.shape
            or float((x - y).abs().max()) > tolerance * max(1.0, float(x.abs().max()))
        ):
            return name
    return None


def compare(base, made, baked, mode, batch=None):
    """{difference, relative, ulp, argmax, generation, exact, first_difference}: the hooked `base` against the loaded `baked`.

    `exact`: float32 within 1e-5 of the largest logit, other dtypes within 2 ulp of it; for greedy-only the same argmax.
    """
    batch = batch or tokens(base.config)
    with reference(base, made, mode):
        wanted, said = logits_of(base, batch), greedy(base, batch)
        got = logits_of(baked, batch)
        if wanted.shape != got.shape:
            raise UserError(
                f"the baked model has {got.shape[-1]} logits, the model {wanted.shape[-1]}: not made from this model."
            )
        difference = float((wanted.float() - got.float()).abs().max())
        argmax = float((wanted.argmax(-1) == got.argmax(-1)).double().mean())
        relative = difference / max(1.0, float(wanted.float().abs().max()))
        ulp = ulps(wanted, got)
        generation = float((said == greedy(baked, batch)).double().mean())
        exact = (
            argmax == 1.0
            if mode == "greedy-only"
            else relative <= TOLERANCE
            if wanted.dtype == torch.float32
            else ulp <= 2
        )
        if (
            wanted.dtype == torch.float32
        ):  # in lower precision a unit in the last place may turn a tie
            exact = exact and generation == 1.0
        first = None if exact else first_difference(base, baked, batch, TOLERANCE)
    return {"difference": difference, "relative": relative, "ulp": ulp, "argmax": argmax, "generation": generation,
            "exact": bool(exact), "first_difference": first}  # fmt: skip
