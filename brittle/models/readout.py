"""Read answers from inside a model: final norm and unembedding of the stream behind a block."""

from contextlib import nullcontext
from types import SimpleNamespace

import torch

from brittle.models.blocks import block_count
from brittle.models.filter import hooked
from brittle.models.hooks import hidden, resume


def readout(model, batch, h):
    """Logits [B, T, V] of the model with `h` [B, T, D] as the output of its last block."""
    with resume(model, block_count(model) - 1, h):
        return model(**batch).logits


def read_tokens(model, h):
    """Logits [n, V], float32, of residual vectors h [n, D]."""
    ones = torch.ones(len(h), 1, dtype=torch.long, device=h.device)
    return readout(
        model, {"input_ids": ones * 0, "attention_mask": ones}, h[:, None].to(model.dtype)
    )[:, 0].float()


class BehindBlock:
    """Answers like a model, with the logits that the readout makes of the stream behind `block`.

    With `activation_filter` the stream is that of the filtered model; the readout is not filtered.
    """

    def __init__(self, model, block, activation_filter=None):
        self.model, self.block, self.activation_filter = model, block, activation_filter
        self.config, self.device = model.config, model.device

    def __call__(self, **batch):
        filtered = nullcontext()
        if self.activation_filter is not None:
            filtered = hooked(self.model, self.activation_filter)
        with filtered:
            h = hidden(self.model, batch, [self.block])[self.block]
        return SimpleNamespace(logits=readout(self.model, batch, h))
