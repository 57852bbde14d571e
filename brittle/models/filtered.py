"""Models that carry their filter: a stock class of transformers plus a filter module.

They have a model type of their own. `filtered_gpt_neox` is registered with transformers by
`register()`, which brittle.models.load.load_model calls. Without this package such a folder cannot
be loaded at all: a filter that the loading code does not know must not be left out in silence.

The stock parameters keep their names. The filter's tensors are `filter.basis` and so on, float32
whatever the model's dtype.
"""

import json
from pathlib import Path

import torch

from brittle.base.errors import UserError
from brittle.models.architectures import FILTERED
from brittle.models.blocks import blocks, final_norm
from brittle.models.filter import TENSORS, Filter, block_of
from brittle.models.find import read_config

RECORD = "bake.run.json"  # how hooks/bake_filter.py made a folder
FORMER_MODES = ("writers", "greedy-only")


class FilterModule(torch.nn.Module):
    """A Filter as a module, its tensors as buffers that no `.to(dtype)` rounds.

    `spec` is the config's `filter`, see the function `spec`.
    """

    def __init__(self, spec):
        super().__init__()
        self.spec = spec
        for name, shape in spec["tensors"].items():
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, h):
        tensors = {name: getattr(self, name, None) for name in TENSORS}
        return Filter(
            self.spec["site"],
            strength=self.spec["strength"],
            threshold=self.spec["threshold"],
            **tensors,
        )(h)

    def before(self, _module, inputs):
        """The filter as a forward pre-hook."""
        return (self(inputs[0]), *inputs[1:])

    def after(self, _module, _inputs, output):
        """The filter as a forward hook."""
        return self(output) if torch.is_tensor(output) else (self(output[0]), *output[1:])

    def attach(self, model):
        """Hook the filter into the model that carries it, at its site."""
        site = self.spec["site"]
        layer = block_of(site)
        if layer is not None:
            blocks(model)[layer].register_forward_hook(self.after)
        elif site == "post_norm":
            model.get_output_embeddings().register_forward_pre_hook(self.before)
        else:
            final_norm(model).register_forward_pre_hook(self.before)

    def _apply(self, fn, *args, **kwargs):
        """Move the buffers as any module's, but leave their dtype alone."""
        earlier = dict(self.named_buffers())
        super()._apply(fn, *args, **kwargs)
        for name, before in earlier.items():
            after = getattr(self, name)
            if after.dtype != before.dtype and not before.is_meta:
                setattr(self, name, before.to(after.device))
        return self


class CarriesFilter:
    """What a filtered class adds to its stock class."""

    _keep_in_fp32_modules_strict = ["filter"]  # noqa: RUF012  (transformers' own form)

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self.filter = FilterModule(config.filter)
        self.filter.attach(self)


def spec(chosen):
    """What config.json says of a Filter."""
    tensors = {
        name: list(getattr(chosen, name).shape)
        for name in TENSORS
        if getattr(chosen, name) is not None
    }
    return {
        "site": chosen.site,
        "strength": chosen.strength,
        "threshold": chosen.threshold,
        "tensors": tensors,
    }


def prepare(folder):
    """Make transformers know the class of a model folder that carries a filter.

    It is called before a folder is loaded. Raises UserError for a folder of a former baking mode.
    """
    path = Path(folder) / "config.json"
    config = read_config(folder) if path.is_file() else {}
    refuse_former_mode(folder, config)
    if str(config.get("model_type", "")).startswith(FILTERED):
        register(config["model_type"])


def baking_mode(folder):
    """The mode that a folder's record of baking tells, or None for a folder without one."""
    try:
        record = json.loads((Path(folder) / RECORD).read_text(encoding="utf-8"))
        return record["settings"]["mode"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def refuse_former_mode(folder, config):
    """Raise UserError where a filter was baked in a mode that this package no longer has.

    `greedy-only` left its mark in config.json, since its probabilities are wrong; `writers` is
    told from the record of baking alone.
    """
    mode = "greedy-only" if config.get("exactness") == "argmax" else baking_mode(folder)
    if mode in FORMER_MODES:
        raise UserError(
            f"{folder} was baked in the former mode {mode}. "
            "Bake the filter again with hooks/bake_filter.py (--mode post-norm or class)."
        )


def register(model_type):
    """Make transformers know the filtered class of `model_type`, prefixed or not.

    Returns (config class, model class). Raises UserError for what is no causal language model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = str(model_type).removeprefix(FILTERED)
    if FILTERED + kind in CONFIG_MAPPING:
        config = CONFIG_MAPPING[FILTERED + kind]
        return config, MODEL_FOR_CAUSAL_LM_MAPPING[config]
    if kind not in CONFIG_MAPPING or CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"{kind} is no causal language model of the installed transformers, "
            "so it has no filtered class."
        )
    stock_config = CONFIG_MAPPING[kind]
    stock = MODEL_FOR_CAUSAL_LM_MAPPING[stock_config]
    config = type(
        f"Filtered{stock_config.__name__}",
        (stock_config,),
        {"model_type": FILTERED + kind, "__module__": __name__},
    )
    filtered = type(
        f"Filtered{stock.__name__}",
        (CarriesFilter, stock),
        {"config_class": config, "__module__": __name__},
    )
    AutoConfig.register(FILTERED + kind, config)
    AutoModelForCausalLM.register(config, filtered)
    share_names(kind, FILTERED + kind)
    share_names(stock.__name__, filtered.__name__)
    return config, filtered


def share_names(stock, filtered):
    """Let a checkpoint's names become modules' names of a filtered class as of its stock class."""
    from transformers.conversion_mapping import (
        get_checkpoint_conversion_mapping,
        register_checkpoint_conversion_mapping,
    )

    mapping = get_checkpoint_conversion_mapping(stock)
    if mapping is not None:
        register_checkpoint_conversion_mapping(filtered, mapping, overwrite=True)
