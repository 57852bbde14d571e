"""Low-rank adapters: on which modules they sit, and the PEFT model around a model."""

import re
import warnings

import torch

from brittle.base.errors import UserError
from brittle.models.architectures import QKV, group_of, is_transposed


def targets_of(model, names, chosen):
    """Names of the linear modules to adapt, but the output head, whose weight is in `names`.

    names: None for any. chosen: all, attn, mlp, qkv, or a regular expression on the module's name.
    """
    from transformers.pytorch_utils import Conv1D

    pattern = QKV if chosen == "qkv" else chosen
    head = model.get_output_embeddings()
    names_to_adapt = []
    for name, module in model.named_modules():
        if not isinstance(module, (torch.nn.Linear, Conv1D)) or module is head:
            continue
        weight = f"{name}.weight"
        wanted = (
            group_of(weight) == chosen
            if chosen in ("attn", "mlp")
            else chosen == "all" or re.search(pattern, name)
        )
        if wanted and (names is None or weight in names):
            names_to_adapt.append(name)
    if not names_to_adapt:
        raise UserError(
            f"--lora-targets {chosen}: no linear module of {type(model).__name__} is left to adapt."
        )
    return names_to_adapt


def add(model, names, rank, alpha, chosen, seed):
    """A PEFT model around `model` whose adapters alone train.

    At the start they change nothing (B = 0). names, chosen: see `targets_of`.
    """
    import peft

    targets = targets_of(model, names, chosen)
    turned = any(is_transposed(model.config, f"{name}.weight") for name in targets)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=targets,
        fan_in_fan_out=turned,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # PEFT asks transformers for a name that will go
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)
