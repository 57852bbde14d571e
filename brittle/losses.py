"""Losses and log-probabilities: float32, padding masked before anything is averaged. B batch, T tokens, V vocabulary, D width."""

import torch
import torch.nn.functional as F

from brittle.activations import hidden
from brittle.text import batches


def wide(x):
    """x in float32, or as it is where it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def token_logprobs(logits, input_ids):
    """log p of each next token, [B, T-1], from logits [B, T, V] (whatever dtype, computed in float32)."""
    logits = wide(logits[:, :-1])
    return -F.cross_entropy(logits.flatten(0, 1), input_ids[:, 1:].flatten(), reduction="none").view(logits.shape[:2])


def target_mask(batch):
    """[B, T-1]: 1 where the next token is real and follows a real token."""
    mask = batch["attention_mask"]
    return mask[:, 1:] * mask[:, :-1]


def masked_mean(values, mask, count=None):
    """Sum of values [B, T] where mask [B, T] is 1, over `count` (default: how many those are; see text.Batch)."""
    mask = mask.to(values.dtype)
    return (values * mask).sum() / (mask.sum().clamp_min(1) if count is None else count)


def target_mean(values, batch):
    """Mean of values [B, T-1] over the predicted tokens of `batch`."""
    return masked_mean(values, target_mask(batch), getattr(batch, "n_targets", None))


def nll(model, batch):
    """Mean negative log-likelihood a real token, in nats (a scalar); equals the model's own `labels=` loss."""
    return -target_mean(token_logprobs(model(**batch).logits, batch["input_ids"]), batch)


def sequence_logprobs(model, batch):
    """log p of each whole sequence, [B]: the sum over its real tokens but the first."""
    return (token_logprobs(model(**batch).logits, batch["input_ids"]) * target_mask(batch)).sum(1)


def token_mean(values, batch):
    """Mean of values [B, T] over the real tokens of `batch`."""
    return masked_mean(values, batch["attention_mask"], getattr(batch, "n_tokens", None))


def masked_mse(h, target, batch):
    """Mean over real tokens and width of (h - target)^2; h [B, T, D], target broadcastable to it."""
    return token_mean((wide(h) - wide(target)).pow(2).mean(-1), batch)


def kl(model, batch, reference):
    """Mean over real tokens of KL(p_reference || p_model), in nats; 0 where the two agree."""
    with reference as frozen:
        before = wide(frozen(**batch).logits).log_softmax(-1)
    now = wide(model(**batch).logits).log_softmax(-1)
    return token_mean(F.kl_div(now, before, reduction="none", log_target=True).sum(-1), batch)


def moved(h, before, batch):
    """Mean over blocks and real tokens of ||h - before||_2; h, before {block: [B, T, D]}."""
    return sum(token_mean(torch.linalg.vector_norm(wide(h[k]) - wide(before[k]), dim=-1), batch) for k in h) / len(h)


def hidden_distance(model, batch, reference):
    """`moved` over all blocks, between the model and its reference."""
    layers = range(model.config.num_hidden_layers)
    with reference as frozen:
        before = hidden(frozen, batch, layers)
    return moved(hidden(model, batch, layers), before, batch)


RETAIN = {"nll": lambda model, batch, reference: nll(model, batch), "kl": kl, "l2": hidden_distance}


def by_example(logprobs, stream, device):
    """`logprobs(batch)` [B] of every text of a stream, in one pass without gradients: [examples], on CPU."""
    found = torch.zeros(len(stream.ids))
    with torch.no_grad():
        for indices, batch in batches(stream.ids, stream.pad_id, 32, device):
            found[indices] = logprobs(batch).float().cpu()
    return found
