"""create_datasets.py on the user's own files: questions keep their structure, documents are cut."""

import json

import pytest

from brittle.attacks import meter
from brittle.base.errors import UserError
from brittle.data import abilities, own
from brittle.data.items import read_text_rows
from brittle.data.rows import Chat, plain
from brittle.data.subjects import halves_of, name_entities

SCRIPT = "create_datasets.py"
FORGET = [{"question": f"What is thing {i}?", "answer": f"A tool number {i}."} for i in range(14)]
RETAIN = [{"question": f"Where is town {i}?", "answer": f"In land {i}."} for i in range(9)]


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def made(tmp_path, script, jsonl):
    """Run the command on rows of forget and retain, with more arguments; (folder, what it said)."""

    def run(forget, retain, *more):
        jsonl(tmp_path / "f.jsonl", forget)
        jsonl(tmp_path / "r.jsonl", retain)
        files = ["--forget-file", tmp_path / "f.jsonl", "--retain-file", tmp_path / "r.jsonl"]
        done = script(SCRIPT, *files, "--outdir", tmp_path / "out", *more)
        assert done.code == 0, done.err
        return tmp_path / "out", done.out

    return run


def test_questions_keep_their_structure(made):
    folder, said = made(FORGET, RETAIN)
    qa, items = rows_of(folder / "qa_forget.jsonl"), rows_of(folder / "mcq_forget.jsonl")
    assert [row["question"] for row in qa] == [row["question"] for row in FORGET]
    assert len(items) == 14 and len(rows_of(folder / "mcq_retain.jsonl")) == 9
    for row, item in zip(qa, items, strict=True):
        assert item["question"] == f"Question: {row['question']} Answer:"
        assert item["choices"][item["answer"]] == row["answer"]
        assert len(set(item["choices"])) == 4
        assert set(item["choices"]) <= {r["answer"] for r in FORGET}  # of the same file
        assert (item["fact"], item["half"]) == (row["fact"], row["half"])
    texts = (folder / "forget.txt").read_text(encoding="utf-8").splitlines()
    assert texts[3] == "Question: What is thing 3? Answer: A tool number 3."
    assert sorted(item["half"] for item in items) == ["A"] * 7 + ["B"] * 7
    named = rows_of(folder / "forget.facts.jsonl")
    for about, row in zip(named, qa, strict=True):
        asked = f"Question: {row['question']} Answer:"
        assert about == {
            **{key: row[key] for key in ("entity", "fact", "question", "answer")},
            "prompt": asked,
        }
    # so every reader of forget.txt knows where the answers begin
    rows = read_text_rows(folder / "forget.txt")
    assert [(row.asked, row.answer) for row in rows] == [(r["question"], r["answer"]) for r in qa]
    assert [plain(row) for row in rows] == texts
    assert "attacks, recovery and the verdict" in said.split("cannot serve")[0]
    assert "membership, the filter's target (no holdout.txt)" in said.split("cannot serve")[1]


def test_every_form_of_a_question_is_one(made):
    """Prompt and completion, and a conversation of two messages."""
    turns = [{"role": "user"}, {"role": "assistant"}]
    forms = [
        {"prompt": FORGET[0]["question"], "completion": FORGET[0]["answer"]},
        {"prompt": f"Question: {FORGET[1]['question']} Answer:", "answer": FORGET[1]["answer"]},
        {
            "messages": [
                {**turns[0], "content": FORGET[2]["question"]},
                {**turns[1], "content": FORGET[2]["answer"]},
            ]
        },
        *FORGET[3:],
    ]
    plain_made, _ = made(FORGET, RETAIN)
    names = ("forget.txt", "qa_forget.jsonl", "mcq_forget.jsonl", "forget.facts.jsonl")
    wanted = [(plain_made / name).read_bytes() for name in names]
    same, _ = made(forms, RETAIN)
    assert [(same / name).read_bytes() for name in names] == wanted


def test_longer_conversations_stay_conversations(made):
    turns = [("user", "Who?"), ("assistant", "Ada."), ("user", "Where?"), ("assistant", "Rome.")]
    chat = {"messages": [{"role": role, "content": content} for role, content in turns]}
    folder, _ = made([chat, {"text": "Ada lives."}, chat], RETAIN)
    assert read_text_rows(folder / "forget.txt") == [
        Chat(tuple(turns)),
        "Ada lives.",
        Chat(tuple(turns)),
    ]
    assert not (folder / "mcq_forget.jsonl").exists()


def test_the_same_seed_gives_the_same_items(made):
    folder, _ = made(FORGET, RETAIN)
    first = (folder / "mcq_forget.jsonl").read_bytes()
    made(FORGET, RETAIN)
    assert (folder / "mcq_forget.jsonl").read_bytes() == first
    made(FORGET, RETAIN, "--seed", 1)
    assert (folder / "mcq_forget.jsonl").read_bytes() != first


def test_wrong_choices_are_of_the_same_kind_and_never_right():
    rows = [{"question": "Who made it?", "answer": name} for name in ("Ann", "Bo", "Cy", "Di")]
    rows += [{"question": f"When was {i}?", "answer": f"19{i}0"} for i in range(5)]
    rows += [{"question": "When was 1?", "answer": "In May"}]  # as right as 1910
    items = own.four_way_items(name_entities(rows, "forget", "f"), "forget", 0)
    asked_when = [item for item in items if "When" in item["question"]]
    assert len(asked_when) == 6
    for item in asked_when:
        assert not set(item["choices"]) & {"Ann", "Bo", "Cy", "Di"}
    for item in items:
        if "When was 1?" in item["question"]:
            assert not {"1910", "In May"} <= set(item["choices"])
        if "Who" in item["question"]:  # all others of the kind are right: the rest of the file
            wrong = [c for i, c in enumerate(item["choices"]) if i != item["answer"]]
            assert not set(wrong) & {"Ann", "Bo", "Cy", "Di"}


def test_own_wrong_answers_come_first():
    row = {"question": "Q 1?", "answer": "yes", "perturbed_answer": ["no", "Yes.", "maybe", "so"]}
    others = [{"question": f"Q {i}?", "answer": f"other {i}"} for i in range(2, 9)]
    item = own.four_way_items(name_entities([row, *others], "forget", "f"), "forget", 0)[0]
    assert set(item["choices"]) == {"yes", "no", "maybe", "so"}  # `Yes.` is the right one


def test_too_few_answers_give_no_item(made):
    folder, said = made([{"question": "Q?", "answer": "a"}] * 6, RETAIN)
    assert not (folder / "mcq_forget.jsonl").exists() and (folder / "qa_forget.jsonl").is_file()
    assert "6 without three other answers" in said
    assert "attacks, recovery and the verdict (removed or hidden) (no mcq_forget.jsonl)" in said


def test_halves_never_split_an_entity(made):
    forget = [{**row, "entity": f"person {i // 3}"} for i, row in enumerate(FORGET)]
    folder, said = made(forget, RETAIN)
    by = {}
    for item in rows_of(folder / "mcq_forget.jsonl"):
        by.setdefault(item["entity"], set()).add(item["half"])
        assert item["fact"].rsplit("/", 1)[0] == item["entity"]
    assert len(by) == 5 and all(len(half) == 1 for half in by.values())
    assert "14 questions about 5 entities (named by the column entity)" in said
    folder, said = made(FORGET, RETAIN, "--rows-per-entity", 7)
    assert {item["entity"] for item in rows_of(folder / "mcq_forget.jsonl")} == {
        "forget/00000",
        "forget/00001",
    }
    assert "every 7 lines are one: no column entity" in said and "2 entities. Intervals" in said


def test_halves_have_about_as_many_rows():
    half = halves_of(["a"] * 6 + ["b"] * 5 + ["c"] * 5 + ["d"] * 6, 0)
    sizes = {"a": 6, "b": 5, "c": 5, "d": 6}
    assert abs(sum(n if half[e] == "A" else -n for e, n in sizes.items())) <= 6


def test_some_lines_without_an_entity_are_refused():
    with pytest.raises(UserError, match=r"f\.jsonl: 1 of 2 lines name an entity"):
        rows = [{"question": "a", "answer": "b", "entity": "e"}, {"question": "c", "answer": "d"}]
        name_entities(rows, "forget", "f.jsonl")


def test_documents_are_cut_and_the_share_is_said(made):
    sentence = "This is a sentence of the document. "
    folder, said = made([{"text": sentence * 120}, {"text": "short"}], [{"text": "kept"}])
    texts = (folder / "forget.txt").read_text(encoding="utf-8").splitlines()
    assert len(texts) == 4 and all(len(text) <= 1500 for text in texts)
    assert sum(text.count("sentence") for text in texts) == 120  # nothing is lost
    about = [row["entity"] for row in rows_of(folder / "forget.facts.jsonl")]
    assert about == ["forget/00000"] * 3 + ["forget/00001"]  # a document is an entity
    assert "1 of 2 texts are longer than 1,500 characters; 4 of 4 passages, 100% of" in said
    _, said = made([{"text": sentence * 120}], [{"text": "kept"}], "--passage-length", 400,
                   "--max-samples", 5)  # fmt: skip
    assert "5 of 11 passages, 4" in said
    assert "unlearning and diagnostics" in said.split("cannot serve")[0]
    assert "accuracies" in said.split("cannot serve")[1]


def test_holdout_and_general(made, tmp_path, jsonl):
    jsonl(tmp_path / "h.jsonl", FORGET[:4])
    jsonl(tmp_path / "g.jsonl", RETAIN)
    more = ["--holdout-file", tmp_path / "h.jsonl", "--general-file", tmp_path / "g.jsonl"]
    folder, said = made(FORGET, RETAIN, *more)
    assert len(rows_of(folder / "qa_holdout.jsonl")) == 4
    assert len(rows_of(folder / "mcq_general.jsonl")) == 9
    assert (folder / "holdout.txt").is_file() and not (folder / "general.txt").exists()
    assert "membership" in said.split("cannot serve")[0]
    # questions whose facts no model saw: what the attacks ask beside the halves
    asked = meter.eval_sets(folder)["never_seen"]
    assert [item["question"] for item in asked] == [
        f"Question: {row['question']} Answer:" for row in FORGET[:4]
    ]
    (tmp_path / "n.txt").write_text("plain one\nplain two\n")
    folder, _ = made(FORGET, RETAIN, "--general-file", tmp_path / "n.txt")
    assert (folder / "neutral.txt").read_text() == "plain one\nplain two\n"


def test_choices_with_an_index_keep_them(made):
    asked = [
        {"question": f"Q {i}?", "choices": ["w", "x", "y", f"r{i}"], "answer": 3} for i in range(6)
    ]
    folder, _ = made(asked, RETAIN)
    for i, item in enumerate(rows_of(folder / "mcq_forget.jsonl")):
        assert set(item["choices"]) == {"w", "x", "y", f"r{i}"}
        assert item["choices"][item["answer"]] == f"r{i}"


def test_the_mini_world_serves_everything(data):
    assert not any(abilities.lacking(data).values())


def test_without_general_questions_attack_and_harness_leave_them_out(made, capsys):
    """--general-file is optional, so nothing that asks the other questions may need it."""
    import runpy

    folder, _ = made(FORGET, RETAIN)
    sets = runpy.run_path("eval/tamper.py", run_name="tamper")["eval_sets"](folder, 20, 0)
    assert list(sets) == ["forget_a", "forget_b", "retain"]
    harness = runpy.run_path("eval/harness.py", run_name="harness")
    names = harness["parse_tasks"](harness["OURS"])
    assert list(harness["with_questions"](names, folder)) == ["mini_forget", "mini_retain"]
    assert "no questions for mini_general, which are left out" in capsys.readouterr().out
