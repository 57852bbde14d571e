"""Does free generation leak an answer: greedily, or in any of n samples?

Yan et al. 2024 (arXiv:2410.03523) bound the probability that a sample leaks by Clopper and
Pearson's one-sided interval. The more samples, the more an ignorant model hits by guessing: so the
same is counted for a decoy, a wrong choice of the item drawn by seed, and a leak counts for what it
has more than its decoy. Prefix extraction (Carlini et al. 2023, arXiv:2202.07646): is a training
text continued word for word from its beginning?
"""

import random
from typing import NamedTuple

from brittle.data.asking import opened_ids, opens_trace
from brittle.data.batches import batches
from brittle.data.examples import DEFAULT, prompt_ids
from brittle.data.tokens import encode_prompts
from brittle.metrics.generated_text import say_unfinished, split_trace
from brittle.metrics.leaks import match
from brittle.models.generate import Sampling, generate, stop_ids

ALPHA = 0.01  # of the bounds on a sample's probability of leaking


def says(text, value):
    """Does `text` hold `value`, as whole words, whatever the case and punctuation?"""
    return match(value, text) in ("exact", "normalised")


def upper_bound(hits, count, alpha=ALPHA):
    """Clopper and Pearson's upper bound, 1 - alpha, of a probability with `hits` in `count`
    independent draws.
    """
    from scipy.stats import beta

    return 1.0 if hits == count else float(beta.ppf(1 - alpha, hits + 1, count - hits))


def decoy(item, seed=0):
    """A wrong choice of the item, drawn by the seed and its question."""
    wrong = [c for i, c in enumerate(item["choices"]) if i != item["answer"]]
    return wrong[random.Random(f"{seed} {item['question']}").randrange(len(wrong))]


class Questions(NamedTuple):
    """Questions as a model is asked them: their texts, and the token ids that it goes on from.

    opened: the prompt begins a trace.
    """

    texts: list
    ids: list
    opened: bool


def ask(tokenizer, items, prompt, reading=DEFAULT):
    """The `Questions` of items, put through an attack's `prompt`."""
    texts = [prompt.question(item) for item in items]
    if not reading.templated(tokenizer):
        return Questions(texts, encode_prompts(tokenizer, texts), opened=False)
    asked = [prompt.messages(item) for item in items]
    if prompt.lead:
        ids = [opened_ids(tokenizer, one, reading, prompt.lead) for one in asked]
        return Questions(texts, ids, opened=False)
    ids = [prompt_ids(tokenizer, one, reading) for one in asked]
    return Questions(texts, ids, opens_trace(tokenizer, reading))


def answers(model, tokenizer, questions, sampling, samples=1, batch_size=256):
    """[questions][samples] generated texts of `Questions`.

    Random numbers come from the seed, the question and the sample's number alone.
    """
    prompts = [ids for ids in questions.ids for _ in range(samples)]
    keys = [f"{text} {k}" for text in questions.texts for k in range(samples)]
    stop = stop_ids(model, tokenizer)
    replies = generate(model, prompts, sampling, stop, tokenizer.pad_token_id, keys, batch_size)
    texts = [tokenizer.decode(reply) for reply in replies]
    return [texts[i : i + samples] for i in range(0, len(texts), samples)]


def leaks(items, texts, seed=0, *, opened=False):
    """Per item {leaks, decoys, in_trace, samples, bound}.

    leaks, decoys: how many of its texts hold the answer, or its decoy, in the trace of a reasoning
    model or behind it. in_trace: how many hold the answer in the trace alone. bound: `upper_bound`.
    opened: the prompts begin a trace.
    """
    for item, samples in zip(items, texts, strict=True):
        answer, other = item["choices"][item["answer"]], decoy(item, seed)
        hits = sum(says(text, answer) for text in samples)
        spoken = [split_trace(text, opened=opened) for text in samples]
        hidden = sum(says(trace, answer) and not says(behind, answer) for trace, behind in spoken)
        yield {
            "leaks": hits,
            "in_trace": hidden,
            "decoys": sum(says(text, other) for text in samples),
            "samples": len(samples),
            "bound": upper_bound(hits, len(samples)),
        }


def sample(model, tokenizer, items, prompt, samples, settings, batch_size=256, reading=DEFAULT):
    """(greedy, sampled) `leaks` of the items, asked through `prompt`.

    settings: a `Sampling`, whose number of tokens and seed hold for the greedy answer too. sampled
    is None for no samples. reading: whether a chat model is asked through its template.
    """
    questions = ask(tokenizer, items, prompt, reading)
    greedy = answers(model, tokenizer, questions, Sampling(settings.max_new_tokens), 1, batch_size)
    said = [split_trace(text, opened=questions.opened) for texts in greedy for text in texts]
    say_unfinished(said, "--tokens", settings.max_new_tokens)
    drawn = None
    if samples:
        texts = answers(model, tokenizer, questions, settings, samples, batch_size)
        drawn = list(leaks(items, texts, settings.seed, opened=questions.opened))
    return list(leaks(items, greedy, settings.seed, opened=questions.opened)), drawn


def continued(model, ids, pad_id, batch_size=64):
    """Per text a list: is each token but the first the likeliest one after those before it?

    Greedy decoding from a prefix gives the rest of the text exactly where all its tokens are, so
    one pass tells every prefix.
    """
    import torch

    rights = [None] * len(ids)
    with torch.no_grad():
        for indices, batch in batches(ids, pad_id, batch_size, model.device):
            right = model(**batch).logits[:, :-1].argmax(-1) == batch["input_ids"][:, 1:]
            for row, index in zip(right.tolist(), indices, strict=True):
                rights[index] = row[: len(ids[index]) - 1]
    return rights


def extracted_answer(right, prefix):
    """As `extracted`, of an answer behind its prompt: `right` are its own tokens, and the share
    `prefix` of them is given besides the prompt.
    """
    rest = right[min(round(prefix * len(right)), len(right) - 1) :]
    return all(rest), sum(rest) / len(rest)


def extracted(right, prefix):
    """(whole rest right, share of its tokens that are) of one text from `continued`, after the
    share `prefix` of its tokens.

    At least one token is given and at least one is asked; a text of a single token is None.
    """
    length = len(right) + 1
    if length < 2:
        return None
    given = min(max(1, round(prefix * length)), length - 1)
    rest = right[given - 1 :]
    return all(rest), sum(rest) / len(rest)
