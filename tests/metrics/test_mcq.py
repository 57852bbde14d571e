"""Multiple choice: scores against a computation item by item, one sequence at a time."""

import math

import pytest
import torch

from brittle.base.errors import UserError
from brittle.data.items import KEYS, read_items, read_splits, subset
from brittle.data.tokens import common_prefix
from brittle.metrics import mcq
from support.tiny_models import WORDS, make_model, make_tokenizer

FAMILIES = ["llama", "gpt_neox"]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return make_model(request.param, initializer_range=0.3)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def items():
    """Items of different lengths, with 2 to 5 choices of 1 to 4 tokens."""
    generator = torch.Generator().manual_seed(0)

    def words(low, high):
        count = int(torch.randint(low, high + 1, (1,), generator=generator))
        return " ".join(
            WORDS[i] for i in torch.randint(len(WORDS), (count,), generator=generator).tolist()
        )

    made = []
    for i in range(30):
        choices = [words(1, 4) for _ in range(2 + i % 4)]
        made.append({"question": words(1, 12), "choices": choices, "answer": i % len(choices)})
    return made


def directly(model, tokenizer, question, choice):
    """log p(choice | question), one token after the other, with no batch and no padding."""
    ids = tokenizer(question)["input_ids"]
    total = 0.0
    for token in tokenizer(f" {choice}")["input_ids"]:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].double()
        total += (logits[token] - torch.logsumexp(logits, 0)).item()
        ids = [*ids, token]
    return total


def test_scores_are_the_sums_of_token_logprobs(model, tokenizer, items):
    scored = mcq.outcomes(model, tokenizer, items)
    assert len(scored) == len(items)
    right = 0
    for (was_right, prediction, values, nll), item in zip(scored, items, strict=True):
        expected = [directly(model, tokenizer, item["question"], c) for c in item["choices"]]
        assert values == pytest.approx(expected, abs=2e-4)
        assert prediction == max(range(len(values)), key=expected.__getitem__)
        assert was_right == int(prediction == item["answer"]) and nll == -values[item["answer"]]
        right += was_right
    assert mcq.accuracy(model, tokenizer, items) == right / len(items)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 1000])
def test_batch_size_and_padding_change_nothing(model, tokenizer, items, batch_size):
    alone = mcq.outcomes(model, tokenizer, items, batch_size=1)
    batched = mcq.outcomes(model, tokenizer, items, batch_size=batch_size)
    for one, other in zip(alone, batched, strict=True):
        assert one.prediction == other.prediction
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_order_of_items_changes_nothing(model, tokenizer, items):
    forwards, backwards = (
        mcq.outcomes(model, tokenizer, items),
        mcq.outcomes(model, tokenizer, items[::-1])[::-1],
    )
    assert [o.prediction for o in forwards] == [o.prediction for o in backwards]


def test_what_the_padding_token_is_changes_nothing(model, tokenizer, items):
    """The padding token stands in no text, and where it stands nothing is read."""
    pairs = mcq.encode_items(tokenizer, items, 64)
    assert torch.allclose(
        mcq.choice_logprobs(model, pairs, 1), mcq.choice_logprobs(model, pairs, 17), atol=1e-4
    )


def test_contexts_are_run_once_and_hold_what_is_read(tokenizer, items):
    """Each scored token is read once, right behind its own prefix; no context is run that begins
    another one.
    """
    pairs = mcq.encode_items(tokenizer, items, 64)
    texts, reads = mcq.contexts(pairs)
    seen = []
    for text, found in zip(texts, reads, strict=True):
        for number, position, token in found:
            ids, start = pairs[number]
            assert (
                text[: position + 1] == ids[: position + 1]
                and token == ids[position + 1]
                and position + 1 >= start
            )
            seen.append((number, position))
    assert sorted(seen) == [
        (n, t - 1) for n, (ids, start) in enumerate(pairs) for t in range(start, len(ids))
    ]
    assert not any(a is not b and b[: len(a)] == a for a in texts for b in texts)
    single = [
        {"question": f"w1 w{i}", "choices": ["w3", "w4", "w5"], "answer": 0} for i in range(6, 10)
    ]
    assert len(mcq.contexts(mcq.encode_items(tokenizer, single, 64))[0]) == 4  # one pass a question
    longer = [*single, {"question": "w1 w6", "choices": ["w3 w4", "w3 w5 w6"], "answer": 0}]
    assert (
        len(mcq.contexts(mcq.encode_items(tokenizer, longer, 64))[0]) == 4
    )  # read behind w1 w6 w3 w5
    assert sorted(map(tuple, mcq.contexts(pairs, whole=True)[0])) == sorted(
        {tuple(ids) for ids, _ in pairs}
    )
    assert mcq.choice_logprobs(make_model("llama"), [([5], 1)], 1).tolist() == [
        0.0
    ]  # nothing to score


def test_normalised_scores_are_per_character(model, tokenizer):
    """acc_norm: the sum over the choice's characters; the log-probabilities themselves stay
    sums.
    """
    item = {"question": "w1 w2", "choices": ["w3", "w4 w5 w6 w7"], "answer": 0}
    ((_, prediction, values, _),) = mcq.outcomes(model, tokenizer, [item], normalise=True)
    assert values == pytest.approx(
        [directly(model, tokenizer, "w1 w2", c) for c in item["choices"]], abs=2e-4
    )
    assert prediction == max((0, 1), key=lambda i: values[i] / len(item["choices"][i]))


def test_certain_model_scores_one_and_blind_model_breaks_ties_first(tokenizer):
    """A model with zero unembedding gives every token 1/V: sums are -n ln V, so the shortest choice
    wins, the first of equals.
    """
    model = make_model("gpt_neox")
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    items = [{"question": "w1", "choices": ["w2 w3", "w4", "w5"], "answer": 1}]
    ((_, prediction, values, _),) = mcq.outcomes(model, tokenizer, items)
    assert prediction == 1 and values == pytest.approx(
        [-2 * math.log(48), -math.log(48), -math.log(48)], rel=1e-6
    )
    assert mcq.accuracy(model, tokenizer, items) == 1.0


def test_merges_across_the_boundary_score_only_what_follows():
    """BPE can merge the question's end with the choice: what counts as the choice starts where the
    tokens part.
    """
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([1, 2], [1, 2, 3]) == 2 and common_prefix([], [1]) == 0

    def merging(texts):
        ids = {"a": [5], "a b": [6, 7], "a c": [5, 8], "q": [9], "q ": [9]}
        return {"input_ids": [ids[t] for t in texts]}

    pairs = mcq.encode_items(merging, [{"question": "a", "choices": ["b", "c"], "answer": 0}], 64)
    assert pairs == [
        ([6, 7], 1),
        ([5, 8], 1),
    ]  # the first token has no log-probability: nothing is before it


def test_long_questions_are_cut_on_the_left(tokenizer):
    """The choice always stays whole, and the context is the longest that fits."""
    question = " ".join(WORDS[i % 40] for i in range(100))
    items = [{"question": question, "choices": ["w1 w2", "w3"], "answer": 0}]
    (first, at), (second, at_second) = mcq.encode_items(tokenizer, items, 10)
    whole = tokenizer(f"{question} w1 w2")["input_ids"]
    assert first == whole[-10:] and at == 8 and len(second) == 10 and at_second == 9


def test_broken_models_get_no_score(tokenizer, items):
    model = make_model("gpt_neox")
    with torch.no_grad():
        model.get_output_embeddings().weight[3] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        mcq.outcomes(model, tokenizer, items)


def test_planted_log_probabilities_give_planted_outcomes():
    """Right or wrong by hand: among equals the first choice is taken; acc_norm divides by
    characters.
    """
    items = [
        {"question": "", "choices": ["ab", "c"], "answer": 0},
        {"question": "", "choices": ["a", "b", "c"], "answer": 2},
    ]
    sums = [-3.0, -2.0, -1.0, -4.0, -1.0]
    scores = mcq.split_by_item(sums, items)
    assert scores == [[-3.0, -2.0], [-1.0, -4.0, -1.0]]
    assert mcq.grade(scores, items) == [
        (0, 1, [-3.0, -2.0], 3.0),
        (0, 0, [-1.0, -4.0, -1.0], 1.0),
    ]
    assert [o.right for o in mcq.grade(scores, items, normalise=True)] == [1, 0]  # -1.5 a character
    assert mcq.likeliest([0.0, 2.0, 2.0]) == 1
    assert mcq.chance(items) == (1 / 2 + 1 / 3) / 2


def test_a_prompt_changes_what_is_asked(model, tokenizer, items):
    """A question is put otherwise, or tokens are put in: the outcome is that of the changed
    text.
    """

    class Shouted:
        def question(self, item):
            return "w9 " + item["question"]

        def tokens(self, ids, start):
            return [*ids[: start - 1], 7, *ids[start - 1 :]], start + 1

    class Asked(Shouted):
        def tokens(self, ids, start):
            return ids, start

    changed = [{**item, "question": "w9 " + item["question"]} for item in items]
    plain = mcq.outcomes(model, tokenizer, changed)
    assert mcq.outcomes(model, tokenizer, items, Asked()) == plain
    pairs = [
        Shouted().tokens(ids, start) for ids, start in mcq.encode_items(tokenizer, changed, 64)
    ]
    sums = mcq.choice_logprobs(model, pairs, tokenizer.pad_token_id).tolist()
    wanted = mcq.grade(mcq.split_by_item(sums, items), items)
    assert mcq.outcomes(model, tokenizer, items, Shouted()) == wanted != plain


def test_subset_is_seeded_and_keeps_the_order(items):
    assert subset(items, None) is items and subset(items, 30) is items
    drawn = subset(items, 10, 1)
    places = [items.index(i) for i in drawn]
    assert len(drawn) == 10 and places == sorted(places) and drawn == subset(items, 10, 1)
    assert any(subset(items, 10, s) != drawn for s in range(2, 5))


GOOD = {"question": "Q?", "choices": ["a", "b"], "answer": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"answer": 2},
        {"answer": -1},
        {"answer": "b"},
        {"answer": None},
        {"answer": 1.0},
        {"choices": ["a"]},
        {"choices": "ab"},
        {"choices": [1, 2]},
        {"choices": None},
        {"choices": ["a", " "]},
        {"answer": True},
        {"question": 3},
        {"question": None},
    ],
)
def test_damaged_items_are_named(tmp_path, jsonl, change):
    jsonl(tmp_path / "mcq_forget.jsonl", [GOOD, {**GOOD, **change}])
    with pytest.raises(UserError, match=r"mcq_forget\.jsonl line 2"):
        read_items(tmp_path / "mcq_forget.jsonl")


def test_blanks_of_the_file_are_no_tokens(tmp_path, jsonl, model, tokenizer):
    plain = {"question": "w1 w2", "choices": ["w3", "w4 w5"], "answer": 1}
    blank = {**plain, "question": " w1 w2 \n", "choices": [" w3", "\nw4 w5 "]}
    jsonl(tmp_path / "m.jsonl", [blank])
    assert read_items(tmp_path / "m.jsonl") == [plain]
    assert mcq.encode_items(tokenizer, [blank], 64) == mcq.encode_items(tokenizer, [plain], 64)
    assert mcq.outcomes(model, tokenizer, [blank], normalise=True) == mcq.outcomes(
        model, tokenizer, [plain], normalise=True
    )


@pytest.mark.parametrize("key", KEYS)
def test_missing_keys_are_named(tmp_path, jsonl, key):
    jsonl(tmp_path / "m.jsonl", [{k: v for k, v in GOOD.items() if k != key}])
    with pytest.raises(UserError, match=f"line 1 lacks {key}"):
        read_items(tmp_path / "m.jsonl")


def test_splits_are_the_three_files(data, tmp_path):
    splits = read_splits(data)
    assert list(splits) == ["forget", "retain", "general"] and all(splits.values())
    with pytest.raises(UserError, match=r"mcq_forget\.jsonl not found"):
        read_splits(tmp_path)
