"""Multiple choice of chat models, against the library's own rendering of a conversation."""

import runpy

import pytest
import torch

from brittle.data.asking import encode_answers
from brittle.data.examples import Reading, encode_whole, prompt_ids
from brittle.data.rows import Pair, framed
from brittle.data.tokens import common_prefix
from brittle.metrics import mcq
from support.chat_tokenizers import FAMILIES, make_chat_model, make_chat_tokenizer
from support.places import ROOT

TEMPLATED = [name for name, shape in FAMILIES.items() if shape.template]
QUESTION = "Who was born in Rome?"
ITEMS = [
    {"question": framed(QUESTION), "choices": ["Ada Lind", "a minute", "Rome"], "answer": 1},
    {"question": "Where does she live?", "choices": ["time", "in a delta"], "answer": 0},
]


def asked_with(tokenizer, messages):
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]


def by_hand(family, question, choice, system=""):
    """log p(choice) behind the prompt, by the library's rendering and one plain pass: the tokens of
    the assistant's message without what the template puts before and behind its words.
    """
    tokenizer, model = make_chat_tokenizer(family), make_chat_model(family)
    messages = [{"role": "user", "content": question}]
    messages = ([{"role": "system", "content": system}] if system else []) + messages
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    behind = {"llama2": " ", "deepseek_r1": "\n</think>\n\n"}.get(family, "")
    ids = tokenizer(prompt + behind + choice, add_special_tokens=False)["input_ids"]
    if family == "deepseek_r1":
        told = tokenizer(behind + choice, add_special_tokens=False)["input_ids"]
        ids = asked_with(tokenizer, messages) + told
    count = next(n for n in range(1, len(ids)) if tokenizer.decode(ids[-n:]).strip() == choice)
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    places = range(len(ids) - count, len(ids))
    return sum(float(logprobs[place - 1, ids[place]]) for place in places)


@pytest.mark.parametrize("family", TEMPLATED)
def test_choices_are_scored_behind_the_template(family):
    scores = mcq.score_choices(make_chat_model(family), make_chat_tokenizer(family), ITEMS)
    questions = [QUESTION, ITEMS[1]["question"]]
    wanted = [
        [by_hand(family, question, choice) for choice in item["choices"]]
        for question, item in zip(questions, ITEMS, strict=True)
    ]
    for found, expected in zip(scores, wanted, strict=True):
        assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("family", TEMPLATED)
def test_a_scored_answer_is_that_of_an_example_without_its_end(family):
    """What training counts as answer begins with what multiple choice scores."""
    tokenizer = make_chat_tokenizer(family)
    pair = Pair(framed(QUESTION), "Ada Lind", QUESTION)
    [example] = encode_whole(tokenizer, [pair])
    [asked] = encode_answers(tokenizer, [pair.prompt], [[pair.answer]])
    assert asked.ids == example.told[: len(asked.ids)]
    assert example.start <= asked.start < len(asked.ids)
    assert tokenizer.decode(asked.ids[asked.start :]).strip() == pair.answer
    rest = tokenizer.decode(example.told[len(asked.ids) :], skip_special_tokens=True)
    assert not rest.strip()
    prompt = prompt_ids(tokenizer, pair.prompt)
    assert common_prefix(asked.ids, prompt) == len(prompt)


@pytest.mark.parametrize("family", TEMPLATED)
def test_the_slot_is_behind_the_users_last_word(family):
    tokenizer = make_chat_tokenizer(family)
    [asked] = encode_answers(tokenizer, [QUESTION], [["Ada Lind"]])
    before, behind = asked.ids[: asked.slot], asked.ids[asked.slot : asked.start]
    assert tokenizer.decode(before).endswith(QUESTION)
    assert QUESTION.split()[-1] not in tokenizer.decode(behind)
    cut = asked.cut(len(asked.ids) - 2)
    assert cut.ids == asked.ids[2:] and (cut.start, cut.slot) == (asked.start - 2, asked.slot - 2)


def test_raw_and_system(monkeypatch):
    family = "llama3"
    model, tokenizer = make_chat_model(family), make_chat_tokenizer(family)
    plain = mcq.score_choices(model, tokenizer, ITEMS, reading=Reading(raw=True))
    short = mcq.score_choices(model, tokenizer, ITEMS, reading=Reading(system="Be short."))
    expected = [by_hand(family, QUESTION, choice, "Be short.") for choice in ITEMS[0]["choices"]]
    assert short[0] == pytest.approx(expected, abs=1e-3)
    assert plain != mcq.score_choices(model, tokenizer, ITEMS) != short
    monkeypatch.setattr(tokenizer, "chat_template", None)
    assert plain == mcq.score_choices(model, tokenizer, ITEMS)  # as a base model is asked


def test_a_lead_begins_the_answer_and_is_not_scored():
    tokenizer = make_chat_tokenizer("qwen")
    [asked] = encode_answers(tokenizer, [QUESTION], [["Rome"]], lead="She was born in")
    assert tokenizer.decode(asked.ids[asked.start :]).strip() == "Rome"
    prompt = prompt_ids(tokenizer, QUESTION)
    assert tokenizer.decode(asked.ids[len(prompt) :]) == "She was born in Rome"


@pytest.mark.parametrize("family", TEMPLATED)
def test_the_harness_encodes_alike(family):
    """lm-eval's own way would score a template's last line feeds, and not close a trace."""
    harness = runpy.run_path(str(ROOT / "eval" / "harness.py"))
    tokenizer, kind = make_chat_tokenizer(family), harness["_language_model"]()
    lm = kind.__new__(kind)
    lm.tokenizer, lm.reading, lm.chat_template_args = tokenizer, Reading(), {}
    context = lm.apply_chat_template([{"role": "user", "content": framed(QUESTION)}])
    for choice in ITEMS[0]["choices"]:
        before, told = lm._encode_pair(context, choice)
        [asked] = encode_answers(tokenizer, [framed(QUESTION)], [[choice]])
        if family != "deepseek_r1":
            assert (before, told) == (asked.ids[: asked.start], asked.ids[asked.start :])
        assert tokenizer.decode(told).strip() == choice
