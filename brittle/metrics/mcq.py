"""Multiple choice: is a question answered right? The one home of that rule.

Each choice is scored by its summed log-probability behind the question. The prediction is the
likeliest choice, and among equals the first one.

Question and choice are tokenised together, with one blank between them whatever blanks they bring
(data.tokens.join). The choice's tokens are those behind the longest common prefix with the
question's own tokens. This is the convention of lm-eval's `multiple_choice` (acc; acc_norm divides
by the choice's characters). A chat model is asked through its template, and its choices stand where
an assistant's message begins (brittle/data/asking.py).
"""

import math
from contextlib import nullcontext
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.data.asking import Told, encode_answers
from brittle.data.batches import batches
from brittle.data.examples import DEFAULT
from brittle.data.tokens import common_prefix, encode_prompts, join
from brittle.models.filter import hooked

BROKEN = "gives NaN or infinite log-probabilities: it is broken, and has no accuracy."


class Outcome(NamedTuple):
    """How one question was answered.

    right: 1 where the predicted choice is the answer, else 0.
    prediction: the index of the likeliest choice.
    logprobs: the summed log-probability of each choice, in nats.
    answer_nll: the summed negative log-likelihood of the right choice, in nats.
    """

    right: int
    prediction: int
    logprobs: list[float]
    answer_nll: float


def likeliest(values):
    """The index of the highest value; among equals the first one, as lm-eval does."""
    return max(range(len(values)), key=values.__getitem__)


def chance(items):
    """The accuracy of guessing: the mean of 1 / number of choices over the items."""
    return sum(1 / len(item["choices"]) for item in items) / len(items)


def encode_items(tokenizer, items, max_length, reading=DEFAULT):
    """[(ids, start)] of every (item, choice), flat: all tokens, and where the choice's start.

    Texts of more than `max_length` tokens lose tokens on the left.
    """
    return [(one.ids, one.start) for one in encode_asked(tokenizer, items, max_length, reading)]


def encode_asked(tokenizer, items, max_length, reading=DEFAULT, prompt=None):
    """[Told] of every (item, choice), flat; `prompt` changes the words of a question."""
    choices = [item["choices"] for item in items]
    if reading.templated(tokenizer):
        asked = [prompt.messages(item) if prompt else item["question"] for item in items]
        lead = prompt.lead if prompt else ""
        pairs = encode_answers(tokenizer, asked, choices, reading, lead)
    else:
        asked = [prompt.question(item) if prompt else item["question"] for item in items]
        pairs = _plain_answers(tokenizer, asked, choices)
    return [pair.cut(max_length) for pair in pairs]


def _plain_answers(tokenizer, questions, choices):
    """[Told] of each question with each of its choices, flat, without a template."""
    prompts = encode_prompts(tokenizer, questions)
    owners = [number for number, each in enumerate(choices) for _ in each]
    flat = [choice for each in choices for choice in each]
    texts = [join(questions[k], choice) for k, choice in zip(owners, flat, strict=True)]
    pairs = []
    for ids, owner in zip(tokenizer(texts)["input_ids"], owners, strict=True):
        start = min(common_prefix(ids, prompts[owner]), len(ids) - 1)  # one token is scored
        pairs.append(Told(ids, start, start))
    return pairs


def contexts(pairs, *, whole=False):
    """What to run, and what to read there, to score `pairs` of `encode_items`.

    Returns (texts, reads): the distinct token lists to run, and for each of them the list of
    (pair, position, token) to read behind it.

    What follows a token changes nothing before it. So a pair's last token is not run, and a context
    that begins another one is read there: the choices of one token share the question's pass.
    `whole` runs every text to its end, for what judges the text as a whole (a guard).
    """
    if whole:
        needed = [tuple(ids) for ids, _ in pairs]
    else:
        needed = [tuple(ids[:-1] or ids) for ids, _ in pairs]
    home, longer = {}, ()
    # in falling order, a context that begins another one comes right behind it
    for context in sorted(set(needed), reverse=True):
        begins_longer = not whole and longer[: len(context)] == context
        home[context] = home[longer] if begins_longer else context
        longer = context
    reads = {home[context]: [] for context in needed}
    for number, (context, (ids, start)) in enumerate(zip(needed, pairs, strict=True)):
        reads[home[context]] += [(number, t - 1, ids[t]) for t in range(start, len(ids))]
    return [list(text) for text in reads], list(reads.values())


def passes(model, pairs, pad_id, batch_size, tokens=None):
    """Yield the forward passes that score `pairs`, as (batch, where, scored).

    batch: what the model is called with.
    where: (row, position), each [n], on the model's device: the n places of the logits to read.
    scored: (pair, place, token), each [scored tokens]: the number of the pair (on the CPU, where
    sums are kept), which of the n places tells its log-probability, and the token's id.
    """
    import torch

    texts, reads = contexts(pairs, whole=getattr(model, "guard", None) is not None)
    for indices, batch in batches(texts, pad_id, batch_size, model.device, tokens):
        wanted = [
            (row, position, pair, token)
            for row, text in enumerate(indices)
            for pair, position, token in reads[text]
        ]
        distinct = dict.fromkeys((row, position) for row, position, _, _ in wanted)
        places = {place: number for number, place in enumerate(distinct)}
        where = torch.tensor(list(places), dtype=torch.long, device=model.device).view(-1, 2)
        scored = torch.tensor(
            [(pair, places[row, position], token) for row, position, pair, token in wanted],
            dtype=torch.long,
        )
        pair, place, token = scored.view(-1, 3).unbind(1)
        yield batch, where.unbind(1), (pair, place.to(model.device), token.to(model.device))


def choice_logprobs(model, pairs, pad_id, batch_size=128):
    """Summed log-probability [pairs] (float64, nats) of each pair's tokens from `start` on."""
    import torch

    from brittle.maths.precision import wide

    sums = torch.zeros(len(pairs), dtype=torch.float64)
    with torch.no_grad():
        for batch, where, scored in passes(model, pairs, pad_id, batch_size):
            row, position = where
            pair, place, token = scored
            logprobs = torch.log_softmax(wide(model(**batch).logits[row, position]), -1)
            sums.index_add_(0, pair, logprobs[place, token].double().cpu())
    return sums


def split_by_item(values, items):
    """[items] the values of each item's choices; `values` is flat over items and choices."""
    ends, position = [], 0
    for item in items:
        ends.append((position, position + len(item["choices"])))
        position += len(item["choices"])
    return [values[first:last] for first, last in ends]


def score_choices(model, tokenizer, items, prompt=None, batch_size=128, reading=DEFAULT):
    """[[log-probability of each choice, in nats] of each item {question, choices}], in their order.

    `prompt` changes how a question is put (`attacks.base.Prompt`): its words, or tokens behind
    them. reading: whether a chat model is asked through its template.
    Raises UserError where a log-probability is NaN or infinite: no score is invented.
    """
    from brittle.models.architectures import context_length

    asked = encode_asked(tokenizer, items, context_length(model.config), reading, prompt)
    pairs = [one.put(prompt) if prompt else one for one in asked]
    pairs = [(one.ids, one.start) for one in pairs]
    sums = choice_logprobs(model, pairs, tokenizer.pad_token_id, batch_size).tolist()
    if not all(map(math.isfinite, sums)):
        raise UserError(f"the model {BROKEN}")
    return split_by_item(sums, items)


def grade(scores, items, *, normalise=False):
    """[Outcome] of the items {choices, answer}, from the log-probabilities of their choices.

    `normalise` compares log-probabilities per character (lm-eval's acc_norm).
    """
    graded = []
    for item, logprobs in zip(items, scores, strict=True):
        compared = logprobs
        if normalise:
            lengths = [max(1, len(choice.strip())) for choice in item["choices"]]
            compared = [value / length for value, length in zip(logprobs, lengths, strict=True)]
        prediction = likeliest(compared)
        right = int(prediction == item["answer"])
        graded.append(Outcome(right, prediction, logprobs, -logprobs[item["answer"]]))
    return graded


def outcomes(
    model, tokenizer, items, prompt=None, batch_size=128, *, normalise=False, reading=DEFAULT
):
    """[Outcome] of the items {question, choices, answer}, in their order.

    `prompt`, `reading` and errors as of `score_choices`, `normalise` as of `grade`.
    """
    scores = score_choices(model, tokenizer, items, prompt, batch_size, reading)
    return grade(scores, items, normalise=normalise)


def accuracy(model, tokenizer, items, reading=DEFAULT):
    """Share of items whose likeliest choice is the answer."""
    answered = outcomes(model, tokenizer, items, reading=reading)
    return sum(outcome.right for outcome in answered) / len(items)


def accuracies(model, tokenizer, items, reading=DEFAULT):
    """{split: accuracy} of multiple-choice items {split: items}."""
    return {split: accuracy(model, tokenizer, rows, reading) for split, rows in items.items()}


def right_answers(model, tokenizer, activation_filter, items, reading=DEFAULT):
    """{split: [1 where right, else 0]} of the model behind the filter, on {split: items}.

    Without a filter (None) the model is asked as it is.
    """
    hook = nullcontext() if activation_filter is None else hooked(model, activation_filter)
    with hook:
        return {
            split: [outcome.right for outcome in outcomes(model, tokenizer, rows, reading=reading)]
            for split, rows in items.items()
        }
