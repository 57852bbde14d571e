"""The parts of a loaded model: its transformer blocks, final norm and MLP down-projections."""

from brittle.base.errors import UserError
from brittle.models.architectures import as_rows, context_length, group_of, layer_of


def blocks(model):
    """The transformer blocks: the first ModuleList of length num_hidden_layers.

    GPT-NeoX, GPT-2, Llama, Phi, OLMoE and others have one. Raises UserError where there is none.
    """
    import torch

    count = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise UserError(
        f"{type(model).__name__} has no list of {count} blocks. Only decoder models of that shape "
        "are supported."
    )


def check_blocks(model, layer_ids, flag="--layer-id"):
    """Block indices must exist in `model`."""
    count = model.config.num_hidden_layers
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

    They are the matrices of each block's MLP with `hidden_size` outputs and another number of
    inputs, stacked experts included.
    """
    width, names = model.config.hidden_size, []
    for name, p in model.named_parameters():
        if layer_of(name) in layers and group_of(name) == "mlp" and p.ndim >= 2:
            outputs, inputs = as_rows(p, name, model.config).shape[-2:]
            if outputs == width and inputs != width:
                names.append(name)
    if not names:
        raise UserError(
            f"no MLP down-projection found in blocks {list(layers)} of {type(model).__name__}."
        )
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
