"""The parts of a loaded model: its transformer blocks, final norm and MLP down-projections."""

from brittle.base.errors import UserError
from brittle.models.architectures import (
    ROUTER,
    TOWER,
    as_rows,
    context_length,
    group_of,
    is_down_projection,
    is_matrix,
    layer_of,
    size,
)


def block_count(model):
    """How many transformer blocks the (language) model has."""
    return size(model.config, "num_hidden_layers")


def stream_width(model):
    """The width of the residual stream."""
    return size(model.config, "hidden_size")


def blocks(model):
    """The transformer blocks: the first ModuleList of length num_hidden_layers.

    GPT-NeoX, GPT-2, Llama, Phi, OLMoE and others have one. The blocks of what reads images or
    sound are passed over. Raises UserError where there is none.
    """
    import torch

    count = block_count(model)
    for name, module in model.named_modules():
        is_list = isinstance(module, torch.nn.ModuleList) and len(module) == count
        if is_list and not TOWER.search(name):
            return module
    raise UserError(
        f"{type(model).__name__} has no list of {count} blocks. Only decoder models of that shape "
        "are supported."
    )


def check_blocks(model, layer_ids, flag="--layer-id"):
    """Block indices must exist in `model`."""
    count = block_count(model)
    for layer in layer_ids:
        if not 0 <= layer < count:
            raise UserError(f"{flag} {layer}, but this model has blocks 0 to {count - 1}.")


def train_only(model, names):
    """Leave gradients to the parameters called `names` alone."""
    names = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)


def down_projections(model, layers):
    """Names of the weights that bring the MLP back to the residual stream in the given blocks.

    They are the matrices of each block's MLP with `hidden_size` outputs, stacked experts included.
    Where inputs are as many, the name tells.
    """
    names = []
    for name, p in model.named_parameters():
        inside = layer_of(name) in layers and group_of(name) == "mlp"
        if inside and is_matrix(p.shape, name):
            outputs, inputs = as_rows(p, name, model.config).shape[-2:]
            leads_back = inputs != stream_width(model) or is_down_projection(name)
            if outputs == stream_width(model) and leads_back:
                names.append(name)
    if not names:
        raise UserError(
            f"no MLP down-projection found in blocks {list(layers)} of {type(model).__name__}."
        )
    return names


def mlp_matrices(model, layers):
    """Names of all matrices of the MLPs in the given blocks, stacked experts included.

    Raises UserError where there is none.
    """
    names = [
        name
        for name, p in model.named_parameters()
        if layer_of(name) in layers and group_of(name) == "mlp"
        if is_matrix(p.shape, name) and not ROUTER.search(name)
    ]
    if not names:
        raise UserError(f"no MLP matrix found in blocks {list(layers)} of {type(model).__name__}.")
    return names


def final_norm(model):
    """The norm behind the last block: the last module called a norm beside the list of blocks."""
    stack = blocks(model)
    parent = next(m for m in model.modules() if any(child is stack for child in m.children()))
    norms = [m for m in parent.children() if "norm" in type(m).__name__.lower()]
    if not norms:
        raise UserError(
            f"{type(model).__name__} has no norm behind its blocks. Use --site post_norm or "
            "block:L."
        )
    return norms[-1]


def length_limit(max_length, config):
    """`--max-length`, by default 512, within the model's context."""
    context = context_length(config)
    if max_length and max_length > context:
        raise UserError(
            f"--max-length {max_length}, but this model reads at most {context} tokens."
        )
    return max_length or min(512, context)
