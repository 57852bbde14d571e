"""What a filtered model gives away, with planted answers."""

import pytest

from brittle.data.texts import write_jsonl
from brittle.filters import leaks
from brittle.metrics.mcq import Outcome

CHOICES = ["canyon", "meadow", "marsh", "tundra"]


@pytest.fixture
def tables(tmp_path):
    """Four questions a split, and two private values, of which one belongs to two entities."""
    for split in ("forget", "retain"):
        items = [
            {"question": f"{split} {i}", "choices": CHOICES, "answer": 0, "fact": f"{split}/{i}/x"}
            for i in range(4)
        ]
        write_jsonl(tmp_path / f"mcq_{split}.jsonl", items)
    private = [("a", "555-967"), ("b", "Ada Stone"), ("c", "ada stone!")]
    write_jsonl(
        tmp_path / "private.jsonl",
        [{"question": f"private {owner}", "answer": value} for owner, value in private],
    )
    return leaks.LeakTables(tmp_path, 8, 0)


def checked(monkeypatch, tables, answer, right, base=None):
    """{check: row} of a model that gives answer(question), and is right where right(question)."""

    def outcomes(_model, _tokenizer, items, reading):
        return [Outcome(int(right(item["question"])), 0, [], 0.0) for item in items]

    def answers_of(_model, _tokenizer, questions, reading):
        return list(map(answer, questions))

    monkeypatch.setattr(leaks.mcq, "outcomes", outcomes)
    monkeypatch.setattr(leaks, "answers_of", answers_of)
    rows = leaks.check_leaks(None, None, tables, base)
    return {row["check"]: row for row in rows}


def test_a_model_that_knows_everything_leaks_everything_and_keeps_everything(monkeypatch, tables):
    def answer(question):
        return "555 967" if question == "private a" else "The Canyons."

    base = checked(monkeypatch, tables, answer, lambda question: True)
    assert not any(row["fails"] for row in base.values())  # nothing is held against the base
    rows = checked(monkeypatch, tables, answer, lambda question: True, list(base.values()))
    failing = {check for check, row in rows.items() if row["fails"]}
    assert failing == {"mcq_forget", "slot_forget", "private_own"}
    assert all(rows[check]["value"] == 1 for check in (*failing, "slot_retain", "mcq_retain"))
    assert rows["private_own"]["n"] == 1  # a value of two entities identifies neither


def test_silence_fails_the_form_and_damage_fails_retain(monkeypatch, tables):
    base = checked(monkeypatch, tables, lambda question: "canyon", lambda question: True)
    rows = checked(
        monkeypatch,
        tables,
        lambda question: " ..." if question.startswith("forget") else "marsh",
        lambda question: question == "retain 0",
        list(base.values()),
    )
    assert rows["empty"]["value"] == 1 and rows["empty"]["fails"] == "form"
    assert rows["mcq_forget"]["value"] == 0 and rows["mcq_forget"]["fails"] is None
    assert rows["mcq_retain"]["fails"] == rows["slot_retain"]["fails"] == "retain"
    assert leaks.failures(rows.values()) == {"form", "retain"}
    beyond = rows["mcq_retain"]["limit"] - 0.25 + rows["slot_retain"]["limit"]
    assert leaks.badness(rows.values()) == pytest.approx(beyond + 0.1 * (1 - 0.1))


def test_paraphrases_differ_in_the_fact_alone(data):
    row = leaks.LeakTables(data, 5, 0).paraphrases[0]
    choices = leaks.varied(row)
    assert choices[0] == row["paraphrased_answer"]
    assert len(set(choices)) == 1 + len(row["perturbed_answer"])
