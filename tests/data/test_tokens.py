"""Which tokens are the answer's: the mask against a loop over places."""

import pytest
import torch

from brittle.data.batches import pad
from brittle.data.tokens import (
    answer_mask,
    common_prefix,
    encode_prompts,
    join,
    join_template,
    prompt_length,
)
from support import tiny
from support.tiny_models import make_tokenizer


def test_the_mask_marks_where_an_answers_tokens_are_predicted():
    ids, starts = [[5, 6, 7, 8, 9], [5, 6, 7], [5, 6]], [2, 1, 1]
    mask = answer_mask(pad(ids, tiny.PAD), torch.tensor(starts))
    wanted = [
        [start <= place < len(text) for place in range(1, 5)]
        for text, start in zip(ids, starts, strict=True)
    ]
    assert mask.tolist() == wanted


def test_where_a_prompt_ends():
    assert common_prefix([1, 2, 3], [1, 2, 4, 5]) == 2 and common_prefix([1], []) == 0
    assert common_prefix([1, 9, 3], [1, 2, 3]) == 1
    assert prompt_length(["Why", "?", "so", "?"]) == 2  # nothing follows the last one
    assert prompt_length(["Why", "?", "Answer", ":", "so"]) == 4  # the last mark, not the first
    assert prompt_length(["a", "b", "c", "d"]) == 2 and prompt_length(["a"]) == 1
    assert prompt_length(list("abcdefg")) == 3


@pytest.mark.parametrize("question", ["Who?", "Who? ", "Who?\t\n", "Who?\u00a0"])
@pytest.mark.parametrize("answer", ["he", " he", "\n he ", "he\n"])
def test_one_blank_at_the_joint_whatever_the_two_bring(question, answer):
    assert join(question, answer) == "Who? he" == join_template(question.replace("\n", ""), answer)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("user\nWho?\nassistant\n", "user\nWho?\nassistant\nhe"),
        ("Who? <|assistant|>", "Who? <|assistant|>he"),
        ("Who? <|assistant|> ", "Who? <|assistant|> he"),
        ("[INST] Who? [/INST]", "[INST] Who? [/INST] he"),
        ("", "he"),
    ],
)
def test_the_end_of_a_chat_template_is_the_joint(prompt, text):
    assert join_template(prompt, " he", ("<|assistant|>",)) == text


def test_a_prompt_that_is_continued_ends_with_its_last_word():
    tokenizer = make_tokenizer()
    assert encode_prompts(tokenizer, ["w1 w2 ", "w1 w2"]) == [[4, 5], [4, 5]]
