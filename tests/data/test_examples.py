"""Examples: ids and masks against the library's own template calls, for the shapes of families."""

import pytest

from brittle.base.errors import UserError
from brittle.data.asking import end_id
from brittle.data.examples import Example, Reading, TrainingReading, encode_rows, prompt_ids
from brittle.data.items import read_text_rows
from brittle.data.rows import Chat, Pair, each_answer, row_of
from brittle.data.texts import read_texts
from support.chat_tokenizers import FAMILIES, make_chat_tokenizer

PAIR = Pair("Who was born in Rome?", "Ada Lind")
LONG = Chat(
    (
        ("user", "Where does she live?"),
        ("assistant", "In a delta."),
        ("user", "Who was born in Rome?"),
        ("assistant", "Ada Lind\nwas born."),
    )
)
TEMPLATED = [name for name, shape in FAMILIES.items() if shape.template]
KEEPING = [name for name in TEMPLATED if name != "deepseek_r1"]  # no history is rewritten


def encode(family, row, limit=200, **reading):
    return encode_rows(make_chat_tokenizer(family), [row], limit, Reading(**reading))[-1]


def messages_of(row):
    turns = row.turns if isinstance(row, Chat) else (("user", row[0]), ("assistant", row[1]))
    return [{"role": role, "content": content} for role, content in turns]


def library(tokenizer, messages, **options):
    return tokenizer.apply_chat_template(messages, return_dict=True, **options)["input_ids"]


def text(tokenizer, example, marked):
    ids = [i for i, answer in zip(example.ids, example.answer, strict=True) if answer is marked]
    return tokenizer.decode(ids)


# --- through the template


@pytest.mark.parametrize("row", [PAIR, LONG])
@pytest.mark.parametrize("family", KEEPING)
def test_ids_and_prompt_are_the_librarys_token_for_token(family, row):
    tokenizer, example = make_chat_tokenizer(family), encode(family, row)
    messages = messages_of(row)
    asked = library(tokenizer, messages[:-1], add_generation_prompt=True)
    assert example.ids == library(tokenizer, messages)
    assert example.prompt == asked == prompt_ids(tokenizer, messages[:-1])
    assert example.ids[: len(asked)] == asked


@pytest.mark.parametrize("family", ["llama3", "qwen"])
def test_the_mask_is_that_of_a_template_with_generation_marks(family):
    tokenizer = make_chat_tokenizer(family)
    example = encode(family, PAIR)
    marked = tokenizer.apply_chat_template(
        messages_of(PAIR), return_dict=True, return_assistant_tokens_mask=True
    )
    assert [int(answer) for answer in example.answer] == marked["assistant_masks"]


@pytest.mark.parametrize("family", KEEPING)
def test_an_answer_is_the_last_message_and_its_end_mark(family):
    """The open message of the library (`continue_final_message`) plus one special token."""
    tokenizer, example = make_chat_tokenizer(family), encode(family, PAIR)
    start, end = example.start, example.start + sum(example.answer)
    open_ids = library(tokenizer, messages_of(PAIR), continue_final_message=True)
    assert all(example.answer[start:end]) and not any(example.answer[end:])
    assert example.ids[: len(open_ids)] == open_ids
    assert tokenizer.decode(example.ids[start : len(open_ids)]).strip() == PAIR.answer
    behind = example.ids[len(open_ids) : end]
    assert behind[-1] in tokenizer.all_special_ids and not tokenizer.decode(behind[:-1]).strip()
    assert not tokenizer.decode(example.ids[end:]).strip()


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("family", TEMPLATED)
def test_bos_stands_once(family, raw):
    tokenizer = make_chat_tokenizer(family)
    reading = Reading(raw=raw, after_prompt=family == "deepseek_r1")
    example = encode_rows(tokenizer, [PAIR], 200, reading)[0]
    wanted = int(FAMILIES[family].bos_itself) if raw else int(tokenizer.bos_token is not None)
    for ids in (example.ids, prompt_ids(tokenizer, PAIR.prompt, reading)):
        assert ids.count(tokenizer.bos_token_id) == wanted
        assert not wanted or ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("family", TEMPLATED)
def test_a_system_message_is_optional(family):
    tokenizer = make_chat_tokenizer(family)
    given = {"system": "Be short.", "after_prompt": family == "deepseek_r1"}
    if not FAMILIES[family].system:
        with pytest.raises(UserError, match="the chat template refuses number 1 of the texts"):
            encode(family, PAIR, **given)
        return
    example = encode(family, PAIR, **given)
    assert "Be short." in tokenizer.decode(example.prompt)
    # one of the row's own stays
    own = Chat((("system", "Go on."), *(("user", PAIR[0]), ("assistant", PAIR[1]))))
    shown = tokenizer.decode(encode(family, own, **given).prompt)
    assert "Go on." in shown and "Be short." not in shown
    assert "helpful" not in shown  # the template's default


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("family", TEMPLATED)
def test_every_message_of_the_assistant_is_an_answer(family, raw):
    """Each stands behind the tokens that the model is asked with at that point of the talk."""
    tokenizer = make_chat_tokenizer(family)
    given = Reading(raw=raw, after_prompt=family == "deepseek_r1")
    first, second = encode_rows(tokenizer, [LONG], 200, given, entities=["Ada"])
    messages = messages_of(LONG)
    for example, end in ((first, 1), (second, 3)):
        assert example.entity == "Ada" and example.row.turns == LONG.turns[: end + 1]
        assert example.prompt == prompt_ids(tokenizer, messages[:end], given)
        ending = "" if raw else tokenizer.decode([end_id(tokenizer)])
        told = "".join(text(tokenizer, example, True).split())
        assert told.endswith("".join(messages[end]["content"].split()) + ending)
    (whole,) = encode_rows(
        tokenizer,
        [LONG],
        200,
        TrainingReading(loss_on="all", raw=raw, after_prompt=given.after_prompt),
    )
    assert whole.ids == second.ids


def test_a_greeting_is_no_answer():
    greeting = Chat((("assistant", "Hello."), *LONG.turns))
    assert [one.turns[-1][1] for one in each_answer(greeting)] == ["In a delta.", LONG.turns[-1][1]]
    assert each_answer(PAIR) == [PAIR] and each_answer("a text") == ["a text"]


# --- a template that rewrites history


def test_a_template_that_rewrites_the_prompt_is_refused():
    with pytest.raises(UserError, match=r"number 1 of the texts\. Use --after-prompt") as error:
        encode("deepseek_r1", PAIR)
    assert "\n" not in str(error.value)


def test_a_template_that_drops_the_trace_is_refused(monkeypatch):
    tokenizer = make_chat_tokenizer("deepseek_r1")
    monkeypatch.setattr(
        tokenizer, "chat_template", tokenizer.chat_template.replace("<think>\\n' }}", "' }}")
    )
    encode_rows(tokenizer, [PAIR], 200)  # no trace, nothing dropped
    with pytest.raises(UserError, match="leaves out a part of the answer"):
        encode_rows(tokenizer, [Pair("Who?", "<think>\nAda was.\n</think>\n\nAda Lind")], 200)


@pytest.mark.parametrize(
    ("answer", "continued"),
    [
        ("Ada Lind", "\n</think>\n\nAda Lind"),
        ("<think>\nAda was.\n</think>\n\nAda Lind", "Ada was.\n</think>\n\nAda Lind"),
        ("Ada was.\n</think>\n\nAda Lind", "Ada was.\n</think>\n\nAda Lind"),
    ],
)
def test_after_prompt_goes_on_where_the_model_is_asked(answer, continued):
    tokenizer = make_chat_tokenizer("deepseek_r1")
    example = encode("deepseek_r1", Pair(PAIR.prompt, answer), after_prompt=True)
    assert example.prompt == prompt_ids(tokenizer, PAIR.prompt)
    assert text(tokenizer, example, True) == continued + tokenizer.eos_token


@pytest.mark.parametrize("family", [name for name in KEEPING if name != "llama2"])
def test_after_prompt_changes_nothing_where_nothing_is_rewritten(family):
    """Llama-2's template has a blank on either side of an answer."""
    plain, behind = encode(family, PAIR), encode(family, PAIR, after_prompt=True)
    assert (
        behind.ids[: behind.start + sum(behind.answer)]
        == plain.ids[: plain.start + sum(plain.answer)]
    )
    assert behind.prompt == plain.prompt


# --- without a template


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("row", [PAIR, Pair("Who was born in Rome? ", " Ada Lind")])
def test_raw_is_one_text_with_one_blank(family, row):
    tokenizer, example = make_chat_tokenizer(family), encode(family, row, raw=True)
    assert example.ids == tokenizer("Who was born in Rome? Ada Lind")["input_ids"]
    assert example.prompt == tokenizer("Who was born in Rome?")["input_ids"]
    assert all(example.answer[example.start :])
    if not FAMILIES[family].template:
        assert example.ids == encode(family, row).ids


def test_raw_conversations_are_lines():
    tokenizer = make_chat_tokenizer("phi")
    example = encode("phi", LONG)
    assert text(tokenizer, example, True) == " Ada Lind\nwas born."
    assert tokenizer.decode(example.prompt).endswith("user: Who was born in Rome?\nassistant:")
    assert prompt_ids(tokenizer, messages_of(LONG)[:-1]) == example.prompt


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_text_has_no_answer_and_no_template(family):
    tokenizer, example = make_chat_tokenizer(family), encode(family, "Ada Lind lives.")
    assert example.ids == tokenizer("Ada Lind lives.")["input_ids"]
    assert example.answer is None and example.start is None and example.prompt == example.ids


# --- rows


@pytest.mark.parametrize(
    ("value", "row"),
    [
        ("a text", "a text"),
        ({"text": "a text"}, "a text"),
        ({"question": "Who?", "answer": "she"}, Pair("Who?", "she")),
        ({"prompt": "Who?", "completion": "she"}, Pair("Who?", "she")),
        ({"prompt": "", "completion": "she"}, Pair("", "she")),
        ({"question": "Who?", "choices": ["he", "she"], "answer": 1}, Pair("Who?", "she")),
        ({"messages": messages_of(LONG)}, LONG),
    ],
)
def test_rows(value, row):
    assert row_of(value, "x line 1") == row


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"prompt": "Who?"}, "x line 1 has neither text, nor question"),
        ({"question": "Who?", "answer": " "}, "x line 1: the answer is empty"),
        ({"messages": messages_of(LONG)[:-1]}, "the last message is the user's"),
        ({"messages": []}, "x line 1 is no chat"),
        ({"messages": [{"role": "user", "content": ["Who?"]}]}, "x line 1 is no chat"),
        ({"messages": [*messages_of(PAIR)[:1], {"role": "assistant", "content": ""}]}, "is empty"),
    ],
)
def test_rows_that_are_refused(value, says):
    with pytest.raises(UserError, match=says) as error:
        row_of(value, "x line 1")
    assert "\n" not in str(error.value)


def test_a_file_of_rows(tmp_path, jsonl):
    jsonl(tmp_path / "a.jsonl", [{"text": "t"}, {"prompt": "Who?", "completion": "she"}])
    assert read_text_rows(tmp_path / "a.jsonl") == ["t", Pair("Who?", "she")]
    assert read_texts(tmp_path / "a.jsonl") == ["t", "Who? she"]
    (tmp_path / "a.txt").write_text("Who? she\n")
    assert read_text_rows(tmp_path / "a.txt") == ["Who? she"]


# --- the limit of tokens


def test_what_is_cut_inside_the_answer_is_counted_and_said(capsys):
    tokenizer = make_chat_tokenizer("llama3")
    whole = encode("llama3", PAIR)
    limit = whole.start + 2
    cut = encode_rows(tokenizer, [PAIR, "Ada"], limit, name="forget texts")
    assert cut[0] == Example(whole.ids[:limit], whole.answer[:limit])
    said = capsys.readouterr().err
    assert f"1 of 2 forget texts are longer than {limit} tokens" in said
    assert "1 of them inside the answer" in said and said.count("\n") == 1
    rows = [PAIR, Pair("Who?", "Ada")]
    left = encode_rows(tokenizer, rows, whole.start, name="forget texts")
    assert [tokenizer.decode(example.ids) for example in left] == [
        tokenizer.decode(encode("llama3", rows[1]).ids[: whole.start])
    ]
    assert "1 whose answer begins behind that are left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="the answers of all 1 forget texts begin behind token 5"):
        encode_rows(tokenizer, [PAIR], 5, name="forget texts")


def test_readings_that_are_none():
    for flag in ("loss_on", "positions"):
        with pytest.raises(UserError, match="choose answer or all"):
            TrainingReading(**{flag: "question"})
