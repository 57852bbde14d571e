"""Loss terms that several methods share.

Means over predictions run over what `--loss-on` counts, means over states over `--positions`: all
real tokens, or those that predict a token of the answer. Padding never counts.
"""

import torch
import torch.nn.functional as F

from brittle.maths.precision import wide
from brittle.models.blocks import block_count
from brittle.models.hooks import hidden
from brittle.models.logprobs import nll, state_mean, token_mean


def masked_mse(h, target, batch):
    """Mean over the states that count, and width, of (h - target)^2.

    h [B, T, D]; target broadcasts to it.
    """
    return state_mean((wide(h) - wide(target)).pow(2).mean(-1), batch)


def kl_of(before, now):
    """KL(p_start || p) [B, T] of logits before, now [B, T, V], in nats."""
    return F.kl_div(
        wide(now).log_softmax(-1), wide(before).log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)


def kl(model, batch, reference):
    """Mean over the tokens that count of KL(p_reference || p_model), in nats.

    It is 0 where the two agree.
    """
    with reference as frozen:
        before = frozen(**batch).logits
    return token_mean(kl_of(before, model(**batch).logits), batch)


def moved(h, before, batch):
    """Mean over blocks and the states that count of ||h - before||_2.

    h, before: {block: [B, T, D]}.
    """
    return sum(
        state_mean(torch.linalg.vector_norm(wide(h[k]) - wide(before[k]), dim=-1), batch) for k in h
    ) / len(h)


def hidden_distance(model, batch, reference):
    """`moved` over all blocks, between the model and its reference."""
    layers = range(block_count(model))
    with reference as frozen:
        before = hidden(frozen, batch, layers)
    return moved(hidden(model, batch, layers), before, batch)


RETAIN = {"nll": lambda model, batch, reference: nll(model, batch), "kl": kl, "l2": hidden_distance}
