"""The texts of an unlearning run as token ids.

What trains, what is held out, and chats mixed into the retain set.
"""

import itertools
import math

from brittle.base.errors import UserError
from brittle.data.batches import encode
from brittle.data.texts import numbered_jsonl, read_texts


def split_off(ids, share, seed):
    """(training, held out): a seeded `share` of the examples is never trained on.

    At least one stays to train.
    """
    import torch

    count = min(int(len(ids) * share), len(ids) - 1)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed)).tolist()
    held = set(order[:count])
    return [x for i, x in enumerate(ids) if i not in held], [ids[i] for i in sorted(held)]


def read_sets(job, tokenizer, length):
    """{forget, retain: (token ids to train on, held out)} of a job.Job."""
    sets = {}
    for name, texts in (("forget", job.texts.forget), ("retain", job.texts.retain)):
        ids = [i for i in encode(tokenizer, texts, length, f"{name} texts") if len(i) > 1]
        sets[name] = split_off(ids, job.eval_split, job.seed)
    if job.wrappers.chat:
        chats = [
            i
            for i in encode(tokenizer, read_chats(job.wrappers.chat), length, "chats")
            if len(i) > 1
        ]
        train, held = sets["retain"]
        sets["retain"] = [*train, *some_chats(chats, len(train), job.wrappers.chat_share)], held
    return sets


def read_chats(path):
    """One text a chat: the lines `role: content` of its messages.

    Lines that are no chats, and other files, are texts (see data.texts.read_texts).
    """
    if not str(path).endswith((".jsonl", ".json")):
        return read_texts(path)
    rows = numbered_jsonl(path)
    if not any(isinstance(row, dict) and "messages" in row for _, row in rows):
        return read_texts(path)
    return [_chat(path, number, row) for number, row in rows]


def _chat(path, number, row):
    try:
        turns = [f"{m['role']}: {m['content']}" for m in row["messages"]]
    except (KeyError, TypeError):
        turns = []
    if not turns:
        raise UserError(
            f"{path} line {number} is no chat: {{messages: [{{role, content}}, ...]}} is wanted."
        )
    return "\n".join(turns)


def some_chats(chats, others, share):
    """The first chats, so many that they are `share` of all texts.

    They are taken from the first again where there are too few.
    """
    return list(itertools.islice(itertools.cycle(chats), math.ceil(others * share / (1 - share))))
