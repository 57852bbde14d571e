"""Guards around chat models: prompt and answer are told apart by the template."""

import pytest

from brittle.data.examples import encode_whole, prompt_ids
from brittle.data.items import read_items
from brittle.data.rows import Pair
from brittle.metrics import mcq
from brittle.models import generate, guarded, guards
from support import chats
from support.chat_tokenizers import FAMILIES, make_chat_tokenizer

TEMPLATED = [name for name, shape in FAMILIES.items() if shape.template]
QUESTION = "Who was born in Rome"  # no mark tells where it ends


@pytest.mark.parametrize("family", TEMPLATED)
def test_a_conversation_is_cut_where_the_assistant_begins(family):
    tokenizer = make_chat_tokenizer(family)
    cut = guarded.Cutter(tokenizer)
    asked = cut(prompt_ids(tokenizer, QUESTION))
    assert asked.asked.strip().endswith(QUESTION) and not asked.answer.strip()
    [example] = encode_whole(tokenizer, [Pair(QUESTION, "Ada Lind")])
    told = cut(example.told)
    assert told.asked == asked.asked and told.answer.strip().startswith("Ada Lind")
    answer = tokenizer.decode(example.told[told.start :], skip_special_tokens=True)
    assert answer.strip() == "Ada Lind"
    behind = tokenizer.decode(example.told[told.first :]).strip()
    assert behind.startswith(QUESTION)
    # plain text is cut as ever
    plain = cut(tokenizer("Who was born in Rome? Ada Lind")["input_ids"])
    assert plain.answer == " Ada Lind"


@pytest.fixture(scope="module")
def items(chatting):
    return read_items(chatting.data / "mcq_forget.jsonl")


def wrapped(chatting, name):
    guard = guards.make(name, chatting.data)
    return guarded.load(chatting.model, "cpu", "float32", guard=guard)


def test_a_refused_chat_is_refused(chatting, items):
    """Scored, all choices tie; generated, the refusal is all that is said."""
    model, tokenizer = wrapped(chatting, "rag")
    for outcome in mcq.outcomes(model, tokenizer, items[:4]):
        assert outcome.logprobs == [guarded.FLOOR] * len(outcome.logprobs)
    prompts = [
        prompt_ids(tokenizer, question) for question, *_ in chats.pairs_of(chatting.data, "forget")
    ]
    stop = generate.stop_ids(model, tokenizer)
    made = generate.generate(model, prompts[:3], generate.Sampling(max_new_tokens=12), stop)
    assert {tokenizer.decode(ids).strip() for ids in made} == {guards.REFUSAL.strip()}


def test_an_output_filter_watches_a_chat(chatting, items):
    model, tokenizer = wrapped(chatting, "regex")
    for item, outcome in zip(items[:4], mcq.outcomes(model, tokenizer, items[:4]), strict=True):
        assert outcome.logprobs[item["answer"]] == guarded.FLOOR
    question, answer, _ = chats.pairs_of(chatting.data, "forget")[0]
    stop = generate.stop_ids(model, tokenizer)
    [made] = generate.generate(
        model, [prompt_ids(tokenizer, question)], generate.Sampling(max_new_tokens=6), stop
    )
    assert answer not in tokenizer.decode(made)
    assert chats.plainly(chatting.model, question) == answer


def test_a_context_begins_the_users_message(chatting, items):
    """Its logits are those of the bare model on the message with the context in it."""
    model, tokenizer = wrapped(chatting, "icl")
    pairs = mcq.encode_items(tokenizer, items[:1], 256)
    found = mcq.choice_logprobs(model, pairs, tokenizer.pad_token_id)
    before = tokenizer(model.guard.text, add_special_tokens=False)["input_ids"]
    cut = guarded.Cutter(tokenizer)(pairs[0][0])
    assert tokenizer.decode(pairs[0][0][: cut.first]).endswith("user<|end_header_id|>\n\n")
    first, head = cut.first, len(before)
    inside = [(ids[:first] + before + ids[first:], start + head) for ids, start in pairs]
    with guarded.bare(model):
        wanted = mcq.choice_logprobs(model, inside, tokenizer.pad_token_id)
    assert found.tolist() == pytest.approx(wanted.tolist(), abs=1e-3)
