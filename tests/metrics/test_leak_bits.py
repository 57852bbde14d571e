"""Leak bits of models: pools, shuffled truths, and a model that knows."""

import json
import math

import pytest

from brittle.base.errors import UserError
from brittle.base.tables import read_rows
from brittle.data.items import read_items
from brittle.metrics.leak_bits import leak, shuffled, with_pools
from brittle.models.load import load_model, load_tokenizer


@pytest.fixture(scope="module")
def items(data):
    return read_items(data / "mcq_forget.jsonl")


def test_a_question_is_asked_with_its_whole_pool(items):
    asked = with_pools(items)
    for before, now in zip(items, asked, strict=True):
        assert set(before["choices"]) <= set(now["choices"])
        assert now["choices"][now["answer"]] == before["choices"][before["answer"]]
    assert len({tuple(i["choices"]) for i in asked if i["fact"].endswith("/habitat")}) == 1


def test_shuffled_truths_are_the_same_values_and_go_with_their_fact(items):
    asked = with_pools(items)
    truths = shuffled(asked, 0)
    of_fact = {}
    for item, truth in zip(asked, truths, strict=True):
        assert of_fact.setdefault(item["fact"], truth) == truth
    for half in "AB":
        for noun in ("habitat", "diet"):
            own = [
                (item["answer"], truth)
                for item, truth in zip(asked, truths, strict=True)
                if item["half"] == half and item["fact"].endswith(noun)
            ]
            before, after = zip(*own, strict=True)
            assert sorted(before) == sorted(after)


def test_a_model_that_knows_tells_nearly_all(knowing, items):
    """It learned the questions of half A and half B by heart."""
    leaked = leak(load_model(knowing), load_tokenizer(knowing), items)
    assert leaked.n == sum(item["half"] == "B" for item in items)
    assert leaked.sharpness > 0 and 0.4 * leaked.most < leaked.bits <= leaked.most
    assert leaked.bits_low <= leaked.bits <= leaked.bits_high and leaked.bits_null < leaked.bits
    with pytest.raises(UserError, match="both halves"):
        leak(load_model(knowing), load_tokenizer(knowing), [i for i in items if i["half"] == "A"])


def test_the_script_writes_one_row(family, brief, tmp_path, script):
    done = script(
        "eval/leak_bits.py", "--model", family.base, "--data", brief, "--outdir", tmp_path
    )
    assert done.code == 0, done.err
    (row,) = read_rows(tmp_path / "leak_bits.csv", text=("model",))
    assert 0 <= row["half_b_accuracy"] <= 1 and row["most"] <= math.log2(12)
    assert "bits" in done.out and json.loads((tmp_path / "leak_bits.run.json").read_text())
