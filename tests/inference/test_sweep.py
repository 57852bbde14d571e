"""The sweep: a table a prompt that holds exactly what was asked and answered, and is added to,
never written over.
"""

import csv
import hashlib
import json
import multiprocessing
import re
import shutil

import pandas as pd
import pytest

from brittle.base.errors import UserError
from brittle.inference import loaded, overview, prompts, sweep
from brittle.models.generate import Sampling

NASTY = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "../../escape",
    "/etc/passwd",
    "con",
    "a" * 200,
    "two\nlines",
    'a "quote", a comma',
    "carriage\rreturn",
    "\u202eright to left",
    "[bold]markup[/bold]",
    "é🙂",
    " spaces ",
]


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def ask(script):
    return lambda *more: script(
        "infer.py", "--sweep", "--max-new-tokens", "4", "--device", "cpu", *more
    )


def test_sweep_tables(ask, family, tmp_path):
    file = tmp_path / "prompts.jsonl"
    pd.Series(NASTY).to_frame("prompt").to_json(file, orient="records", lines=True)
    models = ["--models", family.base, "--models", family.filtered]
    done = ask(*models, "--prompts-file", file, "--outdir", tmp_path / "out", "--batch-size", "4")
    assert done.code == 0, done.err
    tables = sorted(p.name for p in (tmp_path / "out").glob("*.csv"))
    assert tables == sorted(hashlib.sha256(p.encode()).hexdigest() + ".csv" for p in NASTY)
    assert {p.name for p in tmp_path.iterdir()} == {"prompts.jsonl", "out"}
    for prompt in NASTY:
        path = tmp_path / "out" / sweep.prompt_file(prompt)
        rows = rows_of(path)
        assert list(rows[0]) == ["prompt", "model", "model_path", "output"]
        assert [(r["prompt"], r["model"], r["model_path"]) for r in rows] == [
            (prompt, "mini-base", family.base),
            (prompt, "mini-filtered", family.filtered),
        ]
        assert pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records") == rows
        assert path.with_suffix(".run.json").is_file()


def test_sweep_asks_only_what_is_missing(ask, family, tmp_path, monkeypatch):
    asked, real = [], loaded.Loaded.stream
    monkeypatch.setattr(
        loaded.Loaded, "stream", lambda self, *a: asked.append(self.name) or real(self, *a)
    )
    common = ["--prompt", "The habitat of", "--outdir", tmp_path, "--greedy"]
    table = tmp_path / sweep.prompt_file("The habitat of")
    assert ask(*common, "--models", family.base).code == 0
    first = table.read_bytes()
    assert "all 1 answers are there" in ask(*common, "--models", family.base).out
    assert asked == ["mini-base"] and table.read_bytes() == first
    assert ask(*common, "--models", family.base, "--models", family.filtered).code == 0
    assert asked == ["mini-base", "mini-filtered"] and table.read_bytes().startswith(first)
    other = ask(*common, "--models", family.base, "--quantize", "4")
    assert asked[-1] == "mini-base+4bit" and [r["model"] for r in rows_of(table)] == [
        *asked[:2],
        "mini-base+4bit",
    ], other.err
    kept = ask(*common, "--models", family.base, "--top-p", "0.5")
    assert (
        "1 answers of mini-base were made by other weights or settings; --force asks again"
        in kept.err
    )
    before = rows_of(table)
    assert ask(*common, "--models", family.base, "--force").code == 0
    assert len(asked) == 4 and rows_of(table) == before


def test_a_model_that_cannot_be_asked_does_not_stop_the_sweep(ask, family, tmp_path):
    models = ["--models", "nobody/nothing", "--models", family.base]
    done = ask(*models, "--prompt", "a", "--outdir", tmp_path / "out")
    assert (
        done.code == 2
        and done.err.startswith("error: nobody/nothing: ")
        and done.err.count("\n") == 1
    )
    assert [r["model"] for r in rows_of(tmp_path / "out" / sweep.prompt_file("a"))] == ["mini-base"]


def test_two_models_of_one_name_keep_their_settings_apart(ask, family, tmp_path):
    """An unchanged second run says nothing of other settings; the columns are what they were."""
    for folder, source in (("a", family.base), ("b", family.filtered)):
        shutil.copytree(source, tmp_path / folder / "m__npo" / "unlearned_model")
    asked = [
        "--models",
        tmp_path / "a" / "m__npo",
        "--models",
        tmp_path / "b" / "m__npo" / "unlearned_model",
        "--prompt",
        "a",
        "--outdir",
        tmp_path / "out",
    ]
    first, second = ask(*asked), ask(*asked)
    assert first.code == second.code == 0 and "note" not in first.err + second.err
    assert "a/m__npo: all 1 answers" in second.out and "b/m__npo: all 1 answers" in second.out
    found = rows_of(tmp_path / "out" / sweep.prompt_file("a"))
    assert [r["model"] for r in found] == ["m__npo", "m__npo"]
    assert [r["model_path"] for r in found] == [
        str(tmp_path / f / "m__npo" / "unlearned_model") for f in "ab"
    ]
    assert ask(*asked, "--greedy").err.count("made by other weights or settings") == 2


def test_records_that_went_by_the_name_are_still_read(ask, family, tmp_path):
    common = ["--prompt", "a", "--outdir", tmp_path, "--models", family.base]
    assert ask(*common).code == 0
    record = (tmp_path / sweep.prompt_file("a")).with_suffix(".run.json")
    made = json.loads(record.read_text())
    made["settings"]["answers"] = {"mini-base": next(iter(made["settings"]["answers"].values()))}
    record.write_text(json.dumps(made))
    assert (
        "note" not in ask(*common).err
        and "other weights or settings" in ask(*common, "--greedy").err
    )


def test_what_cannot_work_is_said_before_any_model_answers(ask, family, tmp_path):
    """A folder that is not there, and a prompt that is too long for the second model alone: its
    file and line.
    """
    file, out = tmp_path / "prompts.txt", tmp_path / "out"
    file.write_text("one\n\n" + "The habitat of " * 30 + "\nlast\n")
    shutil.copytree(family.base, tmp_path / "short")
    config = tmp_path / "short" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": 16}))
    common = ["--outdir", out, "--models", family.base]
    done = ask(*common, "--models", tmp_path / "short", "--prompts-file", file)
    assert done.code == 2 and re.search(
        r"prompts.txt line 3: the prompt has \d+ tokens; short reads 16", done.err
    ), done.err
    assert done.err.count("\n") == 1 and not out.exists()
    done = ask(*common, "--models", tmp_path / "nowhere", "--prompt", "a")
    assert (
        done.code == 2
        and "nowhere not found" in done.err
        and done.err.count("\n") == 1
        and not out.exists()
    )
    assert ask(*common, "--prompts-file", file).code == 0


def test_prompts_of_a_csv(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_bytes('\ufeffid, prompt\n1,"two\nlines"\n\n2,"a, b"\n3,"a, b"\n'.encode())
    assert prompts.read_prompts(path) == {"two\nlines": f"{path} line 2", "a, b": f"{path} line 5"}
    path.write_text("question,answer\na,b\n")
    with pytest.raises(UserError, match=r"has no column prompt \(it has: question, answer\)"):
        prompts.read_prompts(path)
    path.write_text("prompt,x\na,b\n ,b\n")
    with pytest.raises(UserError, match=r"prompts.csv line 3: the prompt is empty"):
        prompts.read_prompts(path)
    path.write_text('prompt\n"a"b\n')
    with pytest.raises(UserError, match=r"prompts.csv line 2 is not CSV"):
        prompts.read_prompts(path)


def test_prompts_of_lines_and_json_lines(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"question": "a"}\n"b"\n{"text": "a"}\n')
    assert prompts.read_prompts(path) == {"a": f"{path} line 1", "b": f"{path} line 2"}
    assert prompts.read_expected(path) == {}
    path.write_text('{"prompt": "a"}\n"\\ud800"\n')
    with pytest.raises(UserError, match=r"p\.jsonl line 2: the prompt is empty, or no valid UTF-8"):
        prompts.read_prompts(path)


def test_all_answers_stand_side_by_side_with_an_index_of_the_files(ask, family, tmp_path):
    """First use 34: 60 files named by a hash, and the answers in the prompts file not compared."""
    file, out = tmp_path / "mine.jsonl", tmp_path / "out"
    questions = ["The habitat of", "The colour of", "What is it?"]
    first = ask(
        *("--models", family.base, "--prompt", questions[0], "--outdir", out, "--greedy"),
    )
    said = rows_of(out / "table" / "prompt.csv")[0]["mini-base"]
    assert f"side by side: {out}/table/prompt.csv" in first.out and "match" not in first.out
    items = [
        {"question": questions[0], "short_answer": said.upper(), "answer": "In a sentence."},
        {"question": questions[1], "choices": ["never said so", "x"], "answer": 0},
        {"question": questions[2]},
    ]
    file.write_text("".join(json.dumps(item) + "\n" for item in items))
    done = ask(
        *("--models", family.base, family.filtered),  # as one guesses, not only repeated
        *("--prompts-file", file, "--outdir", out, "--greedy"),
    )
    assert done.code == 0, done.err
    assert "mini-base: 1 of 2 answers match\n" in done.out
    assert done.out.endswith(f"5 answers, 3 tables in {out}\n")
    table = rows_of(out / "table" / "mine.csv")
    assert list(table[0]) == ["prompt", "file", "answer", "mini-base", "mini-filtered"]
    assert [row["prompt"] for row in table] == questions
    assert [row["answer"] for row in table] == [said.upper(), "never said so", ""]
    for row in table:
        single = rows_of(out / row["file"])
        assert [r["output"] for r in single] == [row["mini-base"], row["mini-filtered"]]
    models = rows_of(out / "table" / "mine_models.csv")
    assert [(r["model"], r["answers"], r["compared"]) for r in models] == [
        ("mini-base", "3", "2"),
        ("mini-filtered", "3", "2"),
    ]
    assert models[0]["matches"] == "1" and models[0]["model_path"] == family.base
    assert len(list(out.glob("*.csv"))) == 3  # the contract: one file a prompt, no other


def test_models_of_one_name_have_columns_of_their_own():
    one, other = overview.Answerer("m", "a/m"), overview.Answerer("m", "b/m")
    third = overview.Answerer("file", "c/file")
    assert list(overview.column_names([one, other, third]).values()) == [
        "m (a/m)",
        "m (b/m)",
        "file (c/file)",
    ]


@pytest.mark.parametrize(
    ("output", "is_match"),
    [("It is in the Deep  forest.", True), ("deep-forest", True), ("the deep forests", False)],
)
def test_an_output_matches_where_it_holds_the_answer_as_whole_words(output, is_match):
    assert overview.matches(output, "deep forest") is is_match


def test_two_sweeps_into_one_table_lose_nothing(family, tmp_path, monkeypatch):
    """Both have asked before either writes.

    Processes, not threads: transformers patches its classes while it loads a model, and two loads
    in one process can leave it unable to tie weights.
    """
    fork = multiprocessing.get_context("fork")
    both, real = fork.Barrier(2, timeout=60), sweep.locked
    monkeypatch.setattr(sweep, "locked", lambda folder: (both.wait(), real(folder))[1])
    setup = loaded.Setup(device="cpu")

    def one(model):
        sweep.sweep([(model, setup)], sweep.Sweep(["a", "b"], Sampling(2), tmp_path))

    runs = [fork.Process(target=one, args=(m,)) for m in (family.base, family.filtered)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(120)
    assert [run.exitcode for run in runs] == [0, 0]
    for prompt in "ab":
        assert {r["model"] for r in rows_of(tmp_path / sweep.prompt_file(prompt))} == {
            "mini-base",
            "mini-filtered",
        }


def test_tables_that_are_not_ours_are_left_alone(tmp_path):
    path = tmp_path / "a.csv"
    for content in (
        b"x,y\n1,2\n",
        b"\xff\xfe",
        b'prompt,model,model_path,output\na,"b\n',
        b"prompt,model,model_path,output\na\n",
        b"",
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is not a table of prompt, model"):
            sweep.read_table(path)
