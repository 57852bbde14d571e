"""Which tokens are the answer's: the mask against a loop over places."""

import torch

from brittle.data.batches import pad
from brittle.data.tokens import answer_mask, common_prefix, prompt_length
from support import tiny


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
    assert prompt_length(["Why", "?", "so", "?"]) == 2  # nothing follows the last one
    assert prompt_length(["Why", "?", "Answer", ":", "so"]) == 4  # the last mark, not the first
    assert prompt_length(["a", "b", "c", "d"]) == 2 and prompt_length(["a"]) == 1
