"""Losses and log-probabilities: float32, padding masked before anything is averaged.

Where examples have an answer, its tokens alone count (see data.batches.Batch and, for the choice,
data.examples.Reading). Shapes: B batch, T tokens, V vocabulary, D width.
"""

import torch
import torch.nn.functional as F

from brittle.data.batches import batches
from brittle.data.tokens import answer_mask
from brittle.maths.precision import wide

HELD_OUT_BATCH = 64


def token_logprobs(logits, input_ids):
    """log p of each next token, [B, T-1], from logits [B, T, V] of any dtype, in float32."""
    logits = wide(logits[:, :-1])
    return -F.cross_entropy(
        logits.flatten(0, 1), input_ids[:, 1:].flatten(), reduction="none"
    ).view(logits.shape[:2])


def target_mask(batch):
    """[B, T-1]: 1 where the next token counts, is real and follows a real token."""
    mask, targets = batch["attention_mask"], getattr(batch, "targets", None)
    real = mask[:, 1:] * mask[:, :-1]
    return real if targets is None else real * targets[:, 1:]


def masked_mean(values, mask, count=None):
    """Sum of values [B, T] where mask [B, T] is 1, over `count`.

    By default that is how many they are (see data.batches.Batch for the other use).
    """
    mask = mask.to(values.dtype)
    return (values * mask).sum() / (mask.sum().clamp_min(1) if count is None else count)


def target_mean(values, batch):
    """Mean of values [B, T-1] over the predicted tokens of `batch`."""
    return masked_mean(values, target_mask(batch), getattr(batch, "n_targets", None))


def nll(model, batch):
    """Mean negative log-likelihood a predicted token, in nats: a scalar.

    Where every token counts it equals the model's own loss.
    """
    return -target_mean(token_logprobs(model(**batch).logits, batch["input_ids"]), batch)


def sequence_logprobs(model, batch):
    """log p of each text, [B]: the sum over its predicted tokens.

    They are those of its answer, or all but the first.
    """
    return (token_logprobs(model(**batch).logits, batch["input_ids"]) * target_mask(batch)).sum(1)


def answer_nll(model, batch, starts):
    """Mean over the batch of the answers' summed NLL, in nats.

    starts [B]: where each answer's tokens begin.
    """
    logprobs = token_logprobs(model(**batch).logits, batch["input_ids"])
    return -(logprobs * answer_mask(batch, starts)).sum(1).mean()


def token_mask(batch):
    """[B, T]: 1 at the positions whose prediction counts: all real ones, or those that predict a
    token of the answer.
    """
    predicting = getattr(batch, "predicting", None)
    return batch["attention_mask"] if predicting is None else predicting


def token_mean(values, batch):
    """Mean of values [B, T], of predictions, over `token_mask`."""
    return masked_mean(values, token_mask(batch), getattr(batch, "n_tokens", None))


def state_mask(batch):
    """[B, T]: 1 at the positions whose states count: all real ones, or by `--positions`."""
    states = getattr(batch, "states", None)
    return batch["attention_mask"] if states is None else states


def state_mean(values, batch):
    """Mean of values [B, T], of states, over `state_mask`."""
    return masked_mean(values, state_mask(batch), getattr(batch, "n_states", None))


def kl_rows(base, now):
    """KL(base || now) [...] in nats of log-probabilities [..., V]."""
    return (base.exp() * (base - now)).sum(-1)


def by_example(logprobs, stream, device):
    """`logprobs(batch)` [B] of every text of a stream: [examples], on CPU.

    It takes one pass without gradients.
    """
    values = torch.zeros(len(stream.examples))
    with torch.no_grad():
        for indices, batch in batches(stream.examples, stream.pad_id, 32, device):
            values[indices] = logprobs(batch).float().cpu()
    return values


def mean_nll(model, examples, pad_id):
    """Mean NLL a predicted token over examples or token id lists, or None where there are none."""
    total = count = 0
    with torch.no_grad():
        for _, batch in batches(examples, pad_id, HELD_OUT_BATCH, model.device):
            total += nll(model, batch).item() * batch.n_targets
            count += batch.n_targets
    return total / count if count else None
