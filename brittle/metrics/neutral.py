"""Neutral text: texts of neither set, on which an intervention should change nothing.

Here is what counts as neutral text, and how far predictions on it may move. The collapse check at
the end of a training (brittle/unlearning/collapse.py), the step `neutral` (a comparison of two
finished models) and the verdict of the report all use it. Without torch at import: the report
reads the limit.
"""

from pathlib import Path

FILE = "neutral.txt"  # of a data folder
LENGTH = 64  # tokens of a text that are read
LIMIT = 1.0  # KL in nats a token: predictions that moved farther, and became worse, are damaged
DRAWS = 1000  # bootstrap samples
TOKENS = 512  # a batch, padding included: two models' log-probabilities of a 7B model fit


def neutral_file(data):
    """The file of neutral texts in the folder `data`, or None where it has none."""
    path = Path(data) / FILE
    return path if path.is_file() else None


def kl_of_targets(before, now):
    """KL(p_before || p_now) [B, T-1] in nats, for the prediction of each next token.

    before, now: log-probabilities [B, T, V]. A token to which `before` gives no probability at all
    adds nothing. Where only `now` gives one none, the divergence is infinite.
    """
    from brittle.maths.precision import wide

    before, now = wide(before[:, :-1]), wide(now[:, :-1])
    probability = before.exp()
    return (probability * (before - now)).masked_fill(probability == 0, 0.0).sum(-1)


def sums(model_a, model_b, ids, pad_id):
    """[texts, 4] float64: of each text the predicted tokens, and over them the sums of nll_a, nll_b
    and KL(p_a || p_b), in nats.

    ids: token ids of each text, at least two. Padding is not counted.
    """
    import torch

    from brittle.data.batches import batches
    from brittle.maths.precision import wide
    from brittle.models.logprobs import target_mask, token_logprobs

    totals = torch.zeros(len(ids), 4, dtype=torch.float64)
    with torch.no_grad():
        for indices, batch in batches(ids, pad_id, TOKENS, model_a.device, TOKENS):
            logits_a, logits_b = model_a(**batch).logits, model_b(**batch).logits
            mask, targets = target_mask(batch), batch["input_ids"]
            kl = kl_of_targets(*(wide(x).log_softmax(-1) for x in (logits_a, logits_b)))
            nll_a, nll_b = (-token_logprobs(x, targets) for x in (logits_a, logits_b))
            columns = [mask, nll_a * mask, nll_b * mask, kl * mask]
            totals[indices] = torch.stack([c.double().sum(1) for c in columns], 1).cpu()
    return totals


def measure(totals, units, seed):
    """{column: number}: the means a token of what `sums` gives, and their 95 % intervals.

    units: what the bootstrap draws, an entity's name a text or the number of texts (see
    `intervals.resample`). An interval is (None, None) from fewer than three of them.
    """
    from brittle.maths.intervals import count_units, quantiles, resample

    tokens, nll_a, nll_b, kl = totals.sum(0).tolist()
    drawn = resample(units, DRAWS, seed, "neutral texts") @ totals
    count = count_units(units)
    change_low, change_high = quantiles((drawn[:, 2] - drawn[:, 1]) / drawn[:, 0], count)
    kl_low, kl_high = quantiles(drawn[:, 3] / drawn[:, 0], count)
    return {
        "n_texts": len(totals),
        "n_tokens": int(tokens),
        "nll_a": nll_a / tokens,
        "nll_b": nll_b / tokens,
        "nll_change": (nll_b - nll_a) / tokens,
        "nll_change_low": change_low,
        "nll_change_high": change_high,
        "kl": kl / tokens,
        "kl_low": kl_low,
        "kl_high": kl_high,
    }
