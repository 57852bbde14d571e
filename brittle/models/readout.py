"""Read answers from inside a model: final norm and unembedding of the stream behind a block."""

from types import SimpleNamespace

import torch

from brittle.models.filter import hooked
from brittle.models.hooks import hidden, resume


def readout(model, batch, h):
    """Logits [B, T, V] of the model with `h` [B, T, D] as the output of its last block."""
    with resume(model, model.config.num_hidden_layers - 1, h):
        return model(**batch).logits


def read_tokens(model, h):
    """Logits [n, V], float32, of residual vectors h [n, D]."""
    ones = torch.ones(len(h), 1, dtype=torch.long, device=h.device)
    return readout(
        model, {"input_ids": ones * 0, "attention_mask": ones}, h[:, None].to(model.dtype)
    )[:, 0].float()


class Reader:
    """Answers like a model, with the logits that the readout makes of the stream behind `block`."""

    def __init__(self, model, block):
        self.model, self.block, self.config, self.device = model, block, model.config, model.device

    def __call__(self, **batch):
        h = hidden(self.model, batch, [self.block])[self.block]
        return SimpleNamespace(logits=readout(self.model, batch, h))


class BehindBlock:
    """A hooked model read out behind one block, as something that multiple choice can score."""

    def __init__(self, model, made, layer):
        self.model, self.made, self.layer, self.device, self.config = (
            model,
            made,
            layer,
            model.device,
            model.config,
        )

    def __call__(self, **batch):
        from types import SimpleNamespace

        from brittle.models.hooks import hidden

        with hooked(self.model, self.made):
            h = hidden(self.model, batch, [self.layer])[self.layer]
        return SimpleNamespace(logits=readout(self.model, batch, h))
