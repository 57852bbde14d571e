"""Read answers from inside a model: final norm and unembedding of the stream behind a block, and
the unembedding alone.
"""

from contextlib import nullcontext
from types import SimpleNamespace

import torch

from brittle.base.errors import UserError
from brittle.models.architectures import logit_step
from brittle.models.blocks import block_count, stream_width
from brittle.models.filter import at_site, hooked
from brittle.models.hooks import hidden, resume


def unembed(model, h):
    """Logits [.., V] of the model where its unembedding reads h [.., D].

    Hooks on the unembedding are passed over. A soft cap or a scale behind it is part of the logits.
    """
    return logit_step(model.config)(model.get_output_embeddings().forward(h))


@torch.no_grad()
def check_unembedding(model):
    """Raise UserError for a family whose logits `unembed` does not give, by trying it."""
    read = []
    ids = torch.arange(4, device=model.device)[None]
    with at_site(model, "post_norm", read.append):
        logits = model(input_ids=ids).logits
    family, (h,) = model.config.model_type, read
    if h.shape[-1] != stream_width(model):
        raise UserError(
            f"{family} projects its states from {stream_width(model)} to {h.shape[-1]} numbers in "
            "front of its unembedding, which filters do not reckon with."
        )
    own = unembed(model, h)
    if own.shape != logits.shape or (own - logits).abs().max() > 0.02 * logits.abs().max():
        raise UserError(
            f"{family} does something behind its unembedding that filters do not know. Use a "
            "family whose logits are what the unembedding gives, or these scaled or soft-capped."
        )


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
