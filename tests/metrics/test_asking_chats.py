"""An untouched chat model through every script that asks: what they measure agrees with the
library's own `generate` through the library's own template.
"""

import pytest

from brittle.data.examples import Reading
from brittle.data.items import read_items
from brittle.metrics import mcq
from brittle.models.load import load_model, load_tokenizer
from support import chats


@pytest.fixture(scope="module")
def loaded(chatting):
    return load_model(chatting.model, "cpu", "float32"), load_tokenizer(chatting.model)


@pytest.fixture(scope="module")
def plainly(chatting):
    """{split: share of questions that a plain `generate` answers rightly}."""
    shares = {}
    for split in ("forget", "retain"):
        asked = chats.pairs_of(chatting.data, split)
        answers = [chats.plainly(chatting.model, question, 8) for question, _, _ in asked]
        shares[split] = sum(a == answer for a, (_, answer, _) in zip(answers, asked, strict=True))
        shares[split] /= len(asked)
    return shares


def test_multiple_choice(loaded, chatting, plainly):
    for split, share in plainly.items():
        items = read_items(chatting.data / f"mcq_{split}.jsonl")
        raw = mcq.accuracy(*loaded, items, Reading(raw=True))
        assert mcq.accuracy(*loaded, items) == share == 1.0
        assert raw < 0.95
