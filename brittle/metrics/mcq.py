"""Multiple choice: read items, score every choice by its summed log-probability after the question.

Question and choice are tokenised together (`question + " " + choice`); the choice's tokens are those after the longest
common prefix with the question's own tokens. Same convention as lm-eval's `multiple_choice` (acc; acc_norm by characters).
"""

from contextlib import nullcontext

from brittle.base.errors import UserError
from brittle.data.batches import batches
from brittle.data.tokens import common_prefix
from brittle.models.filter import hooked


def encode_items(tokenizer, items, max_length):
    """(ids, start) of every (item, choice), flat: all tokens, and where the choice's tokens start. Cut on the left."""
    questions = tokenizer([i["question"] for i in items])["input_ids"]
    whole = tokenizer([f"{i['question']} {c}" for i in items for c in i["choices"]])["input_ids"]
    owners = [q for q, item in zip(questions, items, strict=True) for _ in item["choices"]]
    pairs = []
    for ids, asked in zip(whole, owners, strict=True):
        start = min(common_prefix(ids, asked), len(ids) - 1)  # at least one token is scored
        cut = max(0, len(ids) - max_length)
        pairs.append((ids[cut:], max(1, start - cut)))
    return pairs


def contexts(pairs, whole=False):
    """(texts, reads): the distinct token lists to run, and for each the [(pair, position, token), ...] to read behind them.

    What follows a token changes nothing before it, so a pair's last token is not run, and a context that begins another one
    is read there: the choices of one token share the question's pass. `whole`: for what judges the text as a whole (a guard).
    """
    needed = [tuple(ids if whole else ids[:-1] or ids) for ids, _ in pairs]
    home, longer = {}, ()
    for context in sorted(
        set(needed), reverse=True
    ):  # what begins another one comes right behind it
        shared = not whole and longer[: len(context)] == context
        home[context] = home[longer] if shared else context
        longer = context
    reads = {home[context]: [] for context in needed}
    for number, (context, (ids, start)) in enumerate(zip(needed, pairs, strict=True)):
        reads[home[context]] += [(number, t - 1, ids[t]) for t in range(start, len(ids))]
    return [list(text) for text in reads], list(reads.values())


def passes(model, pairs, pad_id, batch_size, tokens=None):
    """Yield what scores `pairs`: (batch, (row, position) of the n places to read, (pair, place, id) of each scored token).

    The pair's number is on the CPU, where sums are kept; the others are on the model's device.
    """
    import torch

    texts, reads = contexts(pairs, whole=getattr(model, "guard", None) is not None)
    for indices, batch in batches(texts, pad_id, batch_size, model.device, tokens):
        found = [
            (row, position, pair, token)
            for row, i in enumerate(indices)
            for pair, position, token in reads[i]
        ]
        places = {place: n for n, place in enumerate(dict.fromkeys(f[:2] for f in found))}
        where = torch.tensor(list(places), dtype=torch.long, device=model.device).view(-1, 2)
        scored = torch.tensor(
            [(pair, places[row, at], token) for row, at, pair, token in found], dtype=torch.long
        ).view(-1, 3)
        pair, place, token = scored.unbind(1)
        yield batch, where.unbind(1), (pair, place.to(model.device), token.to(model.device))


def choice_logprobs(model, pairs, pad_id, batch_size=128):
    """Summed log-probability [number of pairs] (float64) of each pair's tokens from `start` on."""
    import torch

    from brittle.maths.precision import wide

    sums = torch.zeros(len(pairs), dtype=torch.float64)
    with torch.no_grad():
        for batch, (row, position), (pair, place, token) in passes(
            model, pairs, pad_id, batch_size
        ):
            logprobs = torch.log_softmax(wide(model(**batch).logits[row, position]), -1)
            sums.index_add_(0, pair, logprobs[place, token].double().cpu())
    return sums


def score(model, tokenizer, items, batch_size=128, normalise=False):
    """Per item the predicted choice and the choices' log-probabilities: [(prediction, [logprob, ...]), ...].

    `normalise` divides by the choice's characters (lm-eval's acc_norm). NaN logits raise UserError: no score is invented.
    """
    import math

    from brittle.models.blocks import context_length

    pairs = encode_items(tokenizer, items, context_length(model.config))
    sums, position, scored = (
        choice_logprobs(model, pairs, tokenizer.pad_token_id, batch_size).tolist(),
        0,
        [],
    )
    for item in items:
        values = sums[position : position + len(item["choices"])]
        position += len(values)
        if not all(map(math.isfinite, values)):
            raise UserError(
                "the model gives NaN or infinite log-probabilities: it is broken, and has no accuracy."
            )
        ranked = (
            [v / max(1, len(c)) for v, c in zip(values, item["choices"], strict=True)]
            if normalise
            else values
        )
        scored.append((max(range(len(ranked)), key=ranked.__getitem__), values))
    return scored


def accuracy(model, tokenizer, items, batch_size=128):
    """Share of items whose highest-scored choice is the answer."""
    scored = score(model, tokenizer, items, batch_size)
    return sum(p == item["answer"] for (p, _), item in zip(scored, items, strict=True)) / len(items)


def accuracies(model, tokenizer, items):
    """{split: accuracy} of multiple-choice items {split: items}."""

    return {split: accuracy(model, tokenizer, rows) for split, rows in items.items()}


def right(model, tokenizer, made, items):
    """{split: [right?, one an item]} of the hooked model (made None: of the model as it is) on {split: items}."""
    with hooked(model, made) if made is not None else nullcontext():
        scored = {split: score(model, tokenizer, chosen) for split, chosen in items.items()}
    return {
        s: [int(p == i["answer"]) for (p, _), i in zip(scored[s], items[s], strict=True)]
        for s in items
    }
