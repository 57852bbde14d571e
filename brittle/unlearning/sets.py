"""The examples of an unlearning run.

What trains, what is held out, and chats mixed into the retain set.
"""

import itertools
import math
from pathlib import Path

from brittle.data.examples import encode_rows
from brittle.data.items import read_text_rows
from brittle.data.texts import read_texts
from brittle.data.world import Draws
from brittle.training.injection import with_end


def split_off(examples, share, seed):
    """(training, held out): a seeded `share` of the examples is never trained on.

    At least one stays to train.
    """
    import torch

    count = min(int(len(examples) * share), len(examples) - 1)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    held = set(order[:count])
    train = [example for i, example in enumerate(examples) if i not in held]
    return train, [examples[i] for i in sorted(held)]


def encode_set(tokenizer, rows, length, reading, name, entities=None):
    """The examples of rows that have something to predict; `entities` as in `encode_rows`."""
    examples = encode_rows(tokenizer, rows, length, reading, name, entities)
    return [example for example in examples if example.counts().targets]


def read_sets(job, tokenizer, length):
    """{forget, retain: (Examples to train on, held out)} of a job.Job."""
    sets, texts = {}, job.texts
    for name, rows, entities in (
        ("forget", texts.forget, texts.forget_entities),
        ("retain", texts.retain, None),
    ):
        examples = encode_set(tokenizer, rows, length, job.reading, f"{name} texts", entities)
        sets[name] = split_off(examples, job.eval_split, job.seed)
    if job.rule.texts:
        sets["retain"] = split_off(chosen_set(job, tokenizer, length), job.eval_split, job.seed)
    if job.wrappers.chat:
        rows = read_text_rows(job.wrappers.chat)
        chats = encode_set(tokenizer, rows, length, job.reading, "chats")
        train, held = sets["retain"]
        drawn = some_chats(chats, len(train), job.wrappers.chat_share, job.seed)
        sets["retain"] = [*train, *drawn], held
    return sets


def chosen_set(job, tokenizer, length):
    """The examples of the texts that a method takes in place of the retain set."""
    texts = job.rule.texts
    examples = encode_set(tokenizer, texts.rows, length, job.reading, f"{texts.name} texts")
    if texts.is_pretraining:
        examples = [with_end(example, tokenizer.eos_token_id) for example in examples]
    return examples


def known_texts(texts):
    """How many texts the forget texts had to be found among: the pretraining texts where the data
    folder has them, else the forget and retain texts. texts: job.TextSets.
    """
    pretraining = Path(texts.data) / "pretrain_base.txt"
    if pretraining.is_file():
        return len(read_texts(pretraining))
    return len(texts.forget) + len(texts.retain)


def describe_sets(sets, reading, tokenizer):
    """A line on what the losses count; None where no example has an answer."""
    asked = {
        name: sum(example.answer is not None for example in [*train, *held])
        for name, (train, held) in sets.items()
    }
    if not any(asked.values()):
        return None
    counts = ", ".join(f"{count} {name}" for name, count in asked.items())
    way = "through the chat template" if reading.templated(tokenizer) else "as plain text"
    tokens = "their answers' tokens" if reading.loss_on == "answer" else "all of their tokens"
    return f"texts with an answer: {counts}, {way}; losses count {tokens}"


def some_chats(chats, others, share, seed):
    """Chats drawn by `seed`, so many that they are `share` of all texts.

    None is taken twice before each was taken once.
    """
    order = Draws(f"chats {seed}").shuffled(chats)
    return list(itertools.islice(itertools.cycle(order), math.ceil(others * share / (1 - share))))
