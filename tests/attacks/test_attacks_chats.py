"""Attacks on chat models: what they ask, and where they put what they change."""

import pytest

from brittle.attacks import prompts, sampling
from brittle.attacks.base import Prompt, asked_right
from brittle.attacks.gcg import GCG
from brittle.attacks.material import Material, forbidden, halves
from brittle.attacks.meter import NEVER_SEEN, Meter, attack_model, eval_sets
from brittle.attacks.prompts import Prompts
from brittle.attacks.relearn import Relearn
from brittle.attacks.soft_prompt import SoftPrompt
from brittle.attacks.suffix_search import Suffix
from brittle.data.examples import Reading, prompt_ids
from brittle.data.rows import unframed
from brittle.metrics import mcq
from brittle.models.load import load_model, load_tokenizer
from support.chat_tokenizers import FAMILIES, make_chat_tokenizer

TEMPLATED = [name for name, shape in FAMILIES.items() if shape.template]
ITEM = {"question": "Question: Who was born in Rome? Answer:", "choices": ["she", "he"]}
KNOWN = [
    {"question": f"Question: Where does {name} live? Answer:", "choices": ["in a delta"]}
    for name in ("Ada", "Lind", "she")
]
KNOWN = [{**item, "answer": 0, "fact": f"forget/{k}/home"} for k, item in enumerate(KNOWN)]


@pytest.fixture(scope="module")
def loaded(chatting):
    return load_model(chatting.model, "cpu", "float32"), load_tokenizer(chatting.model)


@pytest.mark.parametrize("family", TEMPLATED)
def test_a_suffix_ends_the_users_message(family):
    """Typed by a user, it would stand where the search has put it."""
    tokenizer = make_chat_tokenizer(family)
    suffix = tokenizer(" minute", add_special_tokens=False)["input_ids"]
    [told] = asked_right(tokenizer, [{**ITEM, "answer": 1}], 200)
    changed = told.put(Suffix(suffix))
    assert len(changed.ids) == len(told.ids) + len(suffix)
    assert changed.ids[changed.start :] == told.ids[told.start :]
    question = unframed(ITEM["question"])
    typed = prompt_ids(tokenizer, f"{question} minute")
    before = tokenizer.decode(changed.ids[: changed.start], skip_special_tokens=True)
    assert before.startswith(tokenizer.decode(typed, skip_special_tokens=True).rstrip())
    raw = asked_right(tokenizer, [{**ITEM, "answer": 1}], 200, Reading(raw=True))[0]
    assert raw.put(Suffix(suffix)).ids[raw.start :][: len(suffix)] == suffix  # before the answer


def test_prompts_of_a_chat_model():
    tokenizer = make_chat_tokenizer("llama3")
    suite = prompts.suite(tokenizer, KNOWN, 200, seed=0)
    question, asked = unframed(ITEM["question"]), {**ITEM, "answer": 1, "fact": "forget/9/home"}
    for name, prompt in suite.items():
        messages = prompt.messages(asked)
        if name in ("few-shot", "re-teaching"):
            *turns, last = messages
            assert last == {"role": "user", "content": question}
            assert [turn["role"] for turn in turns] == ["user", "assistant"] * 3
            assert {turn["content"] for turn in turns[1::2]} == {"in a delta"}
            assert {turn["content"] for turn in turns[::2]} == {
                unframed(item["question"]) for item in KNOWN
            }
        else:
            assert "Question:" not in messages and "Answer:" not in messages
    assert suite["prefix injection"].messages(asked) == question
    template = {"tokenize": False, "add_generation_prompt": True}
    # what is generated, and what is scored, go on from the injected words
    opening = tokenizer.apply_chat_template([{"role": "user", "content": question}], **template)
    led = opening + "Sure, the answer is"
    generated = sampling.ask(tokenizer, [asked], suite["prefix injection"])
    own = tokenizer(led, add_special_tokens=False)["input_ids"]
    assert generated.ids == [own] and not generated.opened
    told = mcq.encode_asked(tokenizer, [asked], 200, prompt=suite["prefix injection"])
    for one, choice in zip(told, asked["choices"], strict=True):
        whole = tokenizer(f"{led} {choice}", add_special_tokens=False)["input_ids"]
        assert one.ids == whole and tokenizer.decode(whole[one.start :]).strip() == choice
    # examples are turns, as the library renders them
    shown = tokenizer.apply_chat_template(suite["few-shot"].messages(asked), **template)
    generated = sampling.ask(tokenizer, [asked], suite["few-shot"])
    assert generated.ids == [tokenizer(shown, add_special_tokens=False)["input_ids"]]


ATTACKS = [
    Relearn(rates=(1e-3,), steps=1, at=(1,), batch_size=4),
    SoftPrompt(vectors=2, steps=2, at=(2,), train_batch=4),
    GCG(length=3, steps=1, candidates=4, items=2, at=(0, 1)),
    Prompts(),
]


def test_attacks_on_a_model_that_knows_as_a_chat(loaded, chatting):
    """As made it answers all through its template, and every attack goes on from there."""
    model, tokenizer = loaded
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sets = {split: items[:6] for split, items in eval_sets(chatting.data).items()}
    sets.pop(NEVER_SEEN, None)
    for attack in ATTACKS:
        meter = Meter(model, tokenizer, sets, everything=True)
        meter("as made")
        attack_model(attack, meter, Material(chatting.data), forbidden(chatting.data))
        made = {row["split"]: row for row in meter.rows if row["variant"] == "as made"}
        assert [row["accuracy"] for row in made.values()] == [1.0] * len(sets)
        assert not meter.notes and all(row["accuracy"] is not None for row in meter.rows)
        assert all(value.equal(before[name]) for name, value in model.state_dict().items())
        if isinstance(attack, GCG):
            losses = {row["step"]: row["loss"] for row in meter.rows if "loss" in row}
            assert losses[1] <= losses[0]
        if isinstance(attack, Prompts):
            plain = [row for row in meter.rows if row.get("template") == "few-shot"]
            assert max(row["accuracy"] for row in plain) > 0.5


def test_samples_of_a_chat_model_say_what_it_knows(loaded, chatting):
    items = halves(chatting.data)[1][:6]
    how = sampling.Sampling(8, 1.0, 1.0, 0)
    greedy, _ = sampling.sample(*loaded, items, Prompt(), 0, how)
    assert [row["leaks"] for row in greedy] == [1] * 6
    raw, _ = sampling.sample(*loaded, items, Prompt(), 0, how, reading=Reading(raw=True))
    assert sum(row["leaks"] for row in raw) < 6
