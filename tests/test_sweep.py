"""The sweep: a table a prompt that holds exactly what was asked and answered, and is added to, never written over."""

import csv
import hashlib
import threading

import pandas as pd
import pytest

from brittle import inference, sweep
from brittle.errors import UserError
from brittle.generate import Sampling

NASTY = ["=1+1", "+1", "-1", "@SUM(A1)", "../../escape", "/etc/passwd", "con", "a" * 200, "two\nlines", 'a "quote", a comma',
         "carriage\rreturn", "\u202eright to left", "[bold]markup[/bold]", "é🙂", " spaces "]  # fmt: skip


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def ask(script):
    return lambda *more: script("infer.py", "--sweep", "--max-new-tokens", "4", "--device", "cpu", *more)


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
            (prompt, "mini-base", family.base), (prompt, "mini-filtered", family.filtered)]  # fmt: skip
        assert pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records") == rows
        assert path.with_suffix(".run.json").is_file()


def test_sweep_asks_only_what_is_missing(ask, family, tmp_path, monkeypatch):
    asked, real = [], inference.Loaded.stream
    monkeypatch.setattr(inference.Loaded, "stream", lambda self, *a: asked.append(self.name) or real(self, *a))
    common = ["--prompt", "The habitat of", "--outdir", tmp_path, "--greedy"]
    table = tmp_path / sweep.prompt_file("The habitat of")
    assert ask(*common, "--models", family.base).code == 0
    first = table.read_bytes()
    assert "all 1 answers are there" in ask(*common, "--models", family.base).out
    assert asked == ["mini-base"] and table.read_bytes() == first
    assert ask(*common, "--models", family.base, "--models", family.filtered).code == 0
    assert asked == ["mini-base", "mini-filtered"] and table.read_bytes().startswith(first)
    other = ask(*common, "--models", family.base, "--quantize", "4")
    assert asked[-1] == "mini-base+4bit" and [r["model"] for r in rows_of(table)] == [*asked[:2], "mini-base+4bit"], other.err
    kept = ask(*common, "--models", family.base, "--top-p", "0.5")
    assert "1 answers of mini-base were made by other weights or settings; --force asks again" in kept.err
    before = rows_of(table)
    assert ask(*common, "--models", family.base, "--force").code == 0
    assert len(asked) == 4 and rows_of(table) == before


def test_a_model_that_cannot_be_asked_does_not_stop_the_sweep(ask, family, tmp_path):
    models = ["--models", "nobody/nothing", "--models", family.base]
    done = ask(*models, "--prompt", "a", "--outdir", tmp_path / "out")
    assert done.code == 2 and done.err.startswith("error: nobody/nothing: ") and done.err.count("\n") == 1
    assert [r["model"] for r in rows_of(tmp_path / "out" / sweep.prompt_file("a"))] == ["mini-base"]


def test_two_sweeps_into_one_table_lose_nothing(family, tmp_path, monkeypatch):
    """Both have asked before either writes; threads stand for processes."""
    both, real = threading.Barrier(2, timeout=60), sweep.locked
    monkeypatch.setattr(sweep, "locked", lambda folder: (both.wait(), real(folder))[1])
    setup = inference.Setup(device="cpu")

    def one(model):
        sweep.sweep([(model, setup)], ["a", "b"], Sampling(2), tmp_path)

    threads = [threading.Thread(target=one, args=(m,)) for m in (family.base, family.filtered)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for prompt in "ab":
        assert {r["model"] for r in rows_of(tmp_path / sweep.prompt_file(prompt))} == {"mini-base", "mini-filtered"}


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
