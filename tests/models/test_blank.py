"""Tiny models that know nothing: the library loads them, and the template's turns are apart."""

import pytest

from brittle.data.examples import Reading, encode_rows
from brittle.data.rows import Pair
from brittle.models.load import load_model, load_tokenizer
from brittle.training import blank

TEXTS = ["The habitat of Mazafi is delta.", "A child waited near the river all day."]


@pytest.mark.parametrize("chat", [False, True])
def test_a_blank_model_is_read_as_any_other(tmp_path, chat):
    blank.save_blank(tmp_path, TEXTS, chat=chat)
    model, tokenizer = load_model(tmp_path), load_tokenizer(tmp_path)
    assert model.config.model_type == "llama" and model.config.vocab_size == len(tokenizer)
    row = Pair("Question: Who? Answer:", "delta", "Who?")
    (example,) = encode_rows(tokenizer, [row], 64, Reading(), "texts")
    marked = [i for i, is_answer in zip(example.ids, example.targets, strict=True) if is_answer]
    if chat:
        assert tokenizer.decode(example.prompt) == (
            "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
        )
        assert tokenizer.decode(marked).startswith("delta<|im_end|>")
        assert tokenizer.eos_token == "<|im_end|>" and model.config.eos_token_id == example.ids[-2]
    else:
        assert tokenizer.decode(marked).strip() == "delta"
