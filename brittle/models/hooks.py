"""The only hooks on blocks: `capture` reads their outputs, `edit` replaces them.

Both last for a `with` block. Block k maps the residual stream h_k to h_{k+1}; its *output* is
h_{k+1}, always before the final norm. In activation files `layer` runs 0 to N: 0 the embeddings, k
the stream after block k-1.

In most families a block's forward pass returns h, in others (BLOOM, Falcon, MPT, GPT-J, GPT-Neo,
CodeGen) a tuple that begins with h. What stands in for a block returns what the block does.
"""

from contextlib import contextmanager

import torch

from brittle.base.errors import UserError
from brittle.models.architectures import check_states
from brittle.models.blocks import blocks, check_blocks


class _Deep(Exception):
    """Raised inside a forward pass, past the deepest block that is read."""


# {class of a block: None where it returns h, else how many things it returns}
_RETURNS = {}


def _tensor(output):
    """The states [B, T, D] in what a block returns.

    Raises UserError where the block keeps more than one state a token.
    """
    h = output if torch.is_tensor(output) else output[0]
    if h.dim() != 3:
        raise UserError(
            f"the blocks of this model hand on states of shape {list(h.shape)}: several a token, "
            "where one [batch, tokens, width] is wanted. What reads or edits states cannot use it; "
            "methods and steps that read losses or weights can."
        )
    return h


def _note_returns(block, output):
    _RETURNS[type(block)] = None if torch.is_tensor(output) else len(output)


def _try_returns(block, x, *args, **kwargs):
    """Run the block once to see what it returns.

    It leaves no trace: no graph, no random number, nothing in a cache.
    """
    kwargs |= {key: None for key in ("past_key_values", "layer_past") if key in kwargs}
    devices = [x.device] if x.is_cuda else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        _note_returns(block, type(block).forward(block, x, *args, **kwargs))


def _stands_in(block, h=None):
    """A forward pass for `block` that hands on `h`, or where that is None, what it gets."""

    def forward(x=None, *args, **kwargs):
        if x is None:
            x = kwargs.pop("hidden_states")
        if type(block) not in _RETURNS:
            _try_returns(block, x, *args, **kwargs)
        count, output = _RETURNS[type(block)], x if h is None else h
        return output if count is None else (output, *[None] * (count - 1))

    return forward


def _swap(output, h):
    return h if torch.is_tensor(output) else (h, *output[1:])


@contextmanager
def capture(model, layers):
    """Yield a dict that each forward pass fills with {block index: output h [B, T, D]}."""
    check_blocks(model, layers)
    check_states(model.config)
    store, modules, handles = {}, blocks(model), []
    try:

        def keep(k):
            def hook(module, _inputs, output):
                _note_returns(module, output)
                store[k] = _tensor(output)

            return hook

        for k in layers:
            handles.append(modules[k].register_forward_hook(keep(k)))
        yield store
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def edit(model, edits):
    """Replace the output h [B, T, D] of block k by `edits[k](h)` in every forward pass."""
    check_blocks(model, edits)
    check_states(model.config)
    modules, handles = blocks(model), []
    try:
        for k, f in edits.items():
            handles.append(
                modules[k].register_forward_hook(
                    lambda _m, _i, out, f=f: _swap(out, f(_tensor(out)))
                )
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def resume(model, block, h):
    """Forward passes of `model` go on from `h` [B, T, D] as the output of `block`.

    Blocks up to it are not computed. Masks, position ids and rotary embeddings are the model's own,
    since its forward pass is the one that runs.
    """
    modules = blocks(model)[: block + 1]
    for k, module in enumerate(modules):
        module.forward = _stands_in(module, h if k == block else None)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


@contextmanager
def skip(modules):
    """Blocks that hand on what they get. Under FSDP2 a forward pass must reach its end."""
    for module in modules:
        module.forward = _stands_in(module)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def hidden(model, batch, layers):
    """{block: output [B, T, D]} of one pass that ends behind the deepest of `layers`.

    The blocks above never run.
    """
    with capture(model, layers) as store:
        deepest, above = blocks(model)[max(layers)], blocks(model)[max(layers) + 1 :]
        if hasattr(deepest, "unshard"):  # a sharded model
            with skip(above):
                model(**batch)
            return store

        def leave(*_):
            raise _Deep

        # registered last, so it runs after the capture
        handle = deepest.register_forward_hook(leave)
        try:
            model(**batch)
        except _Deep:
            pass
        finally:
            handle.remove()
    return store


def residual_stream(model, batch):
    """[h_0, ..., h_N], each [B, T, D]: the embeddings and every block's output, from one pass.

    The final norm is not part of them.
    """
    modules, first = blocks(model), {}
    handle = modules[0].register_forward_pre_hook(
        lambda _m, args, kwargs: first.__setitem__(
            "h", args[0] if args else kwargs["hidden_states"]
        ),
        with_kwargs=True,
    )
    try:
        store = hidden(model, batch, range(len(modules)))
    finally:
        handle.remove()
    return [first["h"], *(store[k] for k in range(len(modules)))]
