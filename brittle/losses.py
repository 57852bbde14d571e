"""Losses and log-probabilities: float32, padding masked before anything is averaged. B batch, T tokens, V vocabulary, D width."""

import torch
import torch.nn.functional as F


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


def nll(model, batch):
    """Mean negative log-likelihood a real token, in nats (a scalar); equals the model's own `labels=` loss."""
    logprobs = token_logprobs(model(**batch).logits, batch["input_ids"])
    return -masked_mean(logprobs, target_mask(batch), getattr(batch, "n_targets", None))


def sequence_logprobs(model, batch):
    """log p of each whole sequence, [B]: the sum over its real tokens but the first."""
    return (token_logprobs(model(**batch).logits, batch["input_ids"]) * target_mask(batch)).sum(1)


def token_mean(values, batch):
    """Mean of values [B, T] over the real tokens of `batch`."""
    return masked_mean(values, batch["attention_mask"], getattr(batch, "n_tokens", None))


def masked_mse(h, target, batch):
    """Mean over real tokens and width of (h - target)^2; h [B, T, D], target broadcastable to it."""
    return token_mean((wide(h) - wide(target)).pow(2).mean(-1), batch)
