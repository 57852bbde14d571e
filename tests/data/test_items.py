"""Texts drawn from a file, and what each is about."""

import json

import pytest

from brittle.base.errors import UserError
from brittle.data import subjects
from brittle.data.items import draw_texts, entity_of, read_items, text_files


def test_texts_are_drawn_by_seed_with_what_they_are_about(tmp_path, jsonl):
    """A planted file: text i is of entity i // 10 and fact i // 5."""
    path = tmp_path / "forget.txt"
    path.write_text("".join(f"text {i}\n" for i in range(100)), encoding="utf-8")
    rows = [{"entity": f"e{i // 10}", "fact": f"e{i // 10}/f{i // 5}"} for i in range(100)]
    plain = draw_texts(path, 20)
    assert plain.entities is None and plain.facts is None and text_files(path) == [path]
    jsonl(tmp_path / "forget.facts.jsonl", rows)
    assert text_files(path) == [path, tmp_path / "forget.facts.jsonl"]
    drawn = draw_texts(path, 20)
    numbers = [int(text.split()[1]) for text in drawn.texts]
    assert numbers == sorted(set(numbers)) and len(numbers) == 20 and max(numbers) > 60
    assert drawn.texts == plain.texts and drawn == draw_texts(path, 20)
    assert drawn.texts != draw_texts(path, 20, seed=1).texts
    assert drawn.entities == [f"e{i // 10}" for i in numbers]
    assert drawn.facts == [f"e{i // 10}/f{i // 5}" for i in numbers]
    assert draw_texts(path).texts == draw_texts(path, 100, 5).texts  # all, in their order
    (tmp_path / "retain.txt").write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    assert draw_texts(tmp_path / "retain.txt", 20).texts != drawn.texts  # each file by itself


ITEM = {"question": "Who?", "choices": ["Ann", "Bob"], "answer": 0}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"question": " \u00a0\t"}, "line 2: the question is empty"),
        ({"choices": ["Ann", "\u3000"]}, "line 2: a choice is empty"),
    ],
)
def test_questions_and_choices_of_blanks_alone_are_refused(tmp_path, jsonl, change, says):
    jsonl(tmp_path / "mcq.jsonl", [ITEM, ITEM | change])
    with pytest.raises(UserError, match=says) as error:
        read_items(tmp_path / "mcq.jsonl")
    assert "\n" not in str(error.value)


def test_blanks_of_every_kind_and_marks_of_files_make_no_difference(tmp_path):
    """A byte order mark, CRLF, a line of a no-break space, such spaces and tabs at the joint."""
    odd = ITEM | {"question": "Who?\u00a0\t", "choices": ["\u00a0Ann", "Bob\u3000"]}
    lines = ["\ufeff" + json.dumps(odd), "\u00a0", json.dumps(ITEM), ""]
    (tmp_path / "mcq.jsonl").write_bytes("\r\n".join(lines).encode())
    assert read_items(tmp_path / "mcq.jsonl") == [ITEM, ITEM]


def test_every_line_is_as_likely(tmp_path):
    path = tmp_path / "forget.txt"
    path.write_text("".join(f"{i}\n" for i in range(20)), encoding="utf-8")
    drawn = [int(text) for seed in range(400) for text in draw_texts(path, 5, seed).texts]
    assert all(60 < drawn.count(i) < 145 for i in range(20))  # 100 each, six sd about 52


def test_json_lines_say_themselves_what_they_are_about(tmp_path, jsonl):
    jsonl(tmp_path / "own.jsonl", [{"text": "a", "entity": "x"}, {"text": "b", "fact": "y/0/c"}])
    drawn = draw_texts(tmp_path / "own.jsonl")
    assert drawn == (["a", "b"], ["x", "y/0"], None, 2)
    assert drawn.about() == {"texts": 2, "of": 2, "entities": 2}
    jsonl(tmp_path / "some.jsonl", [{"text": "a", "entity": "x"}, {"text": "b"}, "c"])
    assert draw_texts(tmp_path / "some.jsonl").entities is None  # not of all


def test_a_sidecar_of_other_texts_is_refused(tmp_path, jsonl):
    (tmp_path / "forget.txt").write_text("a\nb\n", encoding="utf-8")
    jsonl(tmp_path / "forget.facts.jsonl", [{"entity": "x"}])
    with pytest.raises(UserError, match=r"has 1 lines and forget.txt 2 texts. Make both again"):
        draw_texts(tmp_path / "forget.txt")


def asked(count, **more):
    return [
        {"question": f"Q {i}?", "choices": ["a", "b"], "answer": 0, **more} for i in range(count)
    ]


def test_halves_that_no_question_names_are_drawn_over_entities():
    items = [{**item, "entity": f"e{i % 7}"} for i, item in enumerate(asked(28))]
    drawn = subjects.with_halves(items)
    halves = {}
    for item in drawn:
        halves.setdefault(item["entity"], set()).add(item["half"])
    assert all(len(of_entity) == 1 for of_entity in halves.values())
    counts = [[item["half"] for item in drawn].count(half) for half in "AB"]
    assert abs(counts[0] - counts[1]) <= 4 and subjects.with_halves(items) == drawn
    assert subjects.drawn_over(items) == "7 entities"
    assert [{k: v for k, v in item.items() if k != "half"} for item in drawn] == items


def test_halves_are_drawn_over_questions_where_there_are_no_two_entities():
    for items in (asked(10), asked(10, entity="one")):
        halves = [item["half"] for item in subjects.with_halves(items)]
        assert halves.count("A") == halves.count("B") == 5
        assert subjects.drawn_over(items) == "10 questions"
    # a question that stands twice is in one half
    twice = subjects.with_halves(asked(6) * 2)
    assert [i["half"] for i in twice[:6]] == [i["half"] for i in twice[6:]]


def test_halves_that_are_named_are_kept():
    items = [*asked(3, half="A"), *asked(1)]
    assert subjects.with_halves(items) == items and subjects.drawn_over(items) is None


def test_a_question_with_an_entity_alone_asks_a_fact_of_it(tmp_path, jsonl):
    jsonl(tmp_path / "q.jsonl", [*asked(2, entity="a b"), *asked(1), *asked(1, fact="f/x")])
    items = read_items(tmp_path / "q.jsonl")
    assert [item.get("fact") for item in items] == ["a b/0", "a b/1", None, "f/x"]
    assert entity_of({"fact": items[1]["fact"]}) == "a b"
