"""Losses of sequential unlearning, on a probe's logits z [B, T, V] and against the start.

Every mean is over the tokens that `--loss-on` counts, in float32. With V tokens in the vocabulary,
the forget losses at every position are

    max_entropy   [logsumexp(z) - mean(z)] / ln V = (KL(uniform || p) + ln V) / ln V
                  least at uniform p: 1
    ce_random     -log p(y) / ln V, y uniform, drawn anew at each step and position:
                  max_entropy in expectation
    entropy_topk  max_entropy over the K largest logits, / ln K                      least: 1
    entropy_rev   KL(p || uniform) / ln V = 1 - H(p) / ln V                          0 to 1
"""

import math

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from brittle.maths.intervals import generator
from brittle.maths.precision import wide
from brittle.methods.terms import kl_of
from brittle.models.logprobs import target_mask, token_mask, token_mean

# Logits whose float32 copies are held at once. Above that they are made again, stretch by stretch,
# in the backward pass.
PART = 2**26


def by_parts(value, logits, *aligned):
    """value(logits, *aligned) [B, T], computed over stretches of positions.

    All arguments are [B, T, ...].
    """
    step = max(1, PART // (logits.size(0) * logits.size(2)))
    if step >= logits.size(1):
        return value(logits, *aligned)
    stretches = zip(*(tensor.split(step, 1) for tensor in (logits, *aligned)), strict=True)
    return torch.cat([checkpoint(value, *tensors, use_reentrant=False) for tensors in stretches], 1)


def max_entropy(z):
    z = wide(z)
    return (z.logsumexp(-1) - z.mean(-1)) / math.log(z.size(-1))


def ce_random(z, y):
    nats = F.cross_entropy(wide(z).flatten(0, 1), y.flatten(), reduction="none")
    return nats.view(y.shape) / math.log(z.size(-1))


def entropy_rev(z):
    logp = wide(z).log_softmax(-1)
    return 1 + (logp.exp() * logp).sum(-1) / math.log(z.size(-1))


def random_targets(batch, vocabulary, seed, progress):
    """[B, T] tokens drawn uniformly, by seed, progress and example.

    So neither batching nor padding changes them.
    """
    mask, drawn = batch["attention_mask"].bool(), torch.zeros_like(batch["input_ids"])
    for row, index in enumerate(batch.index.tolist()):
        count = int(mask[row].sum())
        draw = generator(seed, f"{progress:.9f}/{index}")
        y = torch.randint(vocabulary, (count,), generator=draw)
        drawn[row, mask[row]] = y.to(drawn.device)
    return drawn


def forget_loss(kind, z, batch, seed=0, progress=0.0, top_k=100):
    """One of the losses above, a scalar."""
    if kind == "ce_random":
        targets = random_targets(batch, z.size(-1), seed, progress)
        return token_mean(by_parts(ce_random, z, targets), batch)
    if kind == "entropy_topk":
        z = z.topk(min(top_k, z.size(-1)), -1).values
    value = entropy_rev if kind == "entropy_rev" else max_entropy
    return token_mean(by_parts(value, z), batch)


def mean_logprobs(z, batch):
    """log p a token of each text [B], from logits z."""
    mask = target_mask(batch)
    logprobs = by_parts(_logprobs, z[:, :-1], batch["input_ids"][:, 1:])
    return (logprobs * mask).sum(1) / mask.sum(1).clamp_min(1)


def _logprobs(z, targets):
    nats = F.cross_entropy(wide(z).flatten(0, 1), targets.flatten(), reduction="none")
    return -nats.view(targets.shape)


def npo_probe(z, batch, before, beta):
    """Mean over texts of -log sigmoid(-beta (log p - log p_start)), log p a token.

    before [B]: log p_start. It is ln 2 at the start.
    """
    return -F.logsigmoid(-beta * (mean_logprobs(z, batch) - before)).mean()


def kl(now, before, batch, reduction):
    """`token`: mean over the tokens that count. `sum`: their sum in a text, mean over texts."""
    divergence = by_parts(kl_of, before.detach(), now)
    if reduction == "token":
        return token_mean(divergence, batch)
    return (divergence * token_mask(batch)).sum() / divergence.size(0)


def nll(now, batch):
    """Mean NLL a predicted real token, from logits."""
    mask = target_mask(batch)
    total = -(by_parts(_logprobs, now[:, :-1], batch["input_ids"][:, 1:]) * mask).sum()
    return total / (getattr(batch, "n_targets", None) or mask.sum().clamp_min(1))
