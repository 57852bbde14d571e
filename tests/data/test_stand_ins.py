"""What the cookbook calls my_...: files that the recipes' commands read, of two worlds that know
nothing of each other.
"""

import runpy
from pathlib import Path

import pytest

from brittle.data import stand_ins
from brittle.data.items import read_text_rows
from brittle.data.tofu import write_tofu
from support import commands
from support.places import ROOT

SCRIPT = "experiment/create_examples.py"


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    stand_ins.write(folder, 8, 1)
    return folder


def test_every_name_is_there(examples):
    assert {path.name for path in examples.iterdir()} == set(stand_ins.NAMES)
    prompts = (examples / "my_prompts.txt").read_text().splitlines()
    assert len(set(prompts)) == stand_ins.PROMPTS
    for name in ("forget", "retain"):
        assert (examples / f"my_{name}.txt").read_bytes() == (
            examples / "my_data" / f"{name}.txt"
        ).read_bytes()


def test_chats_ask_what_my_data_asks(examples, jsonl):
    rows, known = (
        read_text_rows(examples / "my_chats.jsonl"),
        jsonl(examples / "my_data/qa_forget.jsonl"),
    )
    assert [[text for _, text in row.turns] for row in rows] == [
        [row["question"], row["short_answer"]] for row in known
    ]


def test_my_tofu_is_a_folder_of_the_hub_about_others(examples, tmp_path, jsonl):
    counts = write_tofu(tmp_path, examples / "my_tofu")
    assert counts["mcq_forget.jsonl"] == counts["qa_forget.jsonl"] == counts["forget.txt"] == 40
    entities = {row["entity"] for row in jsonl(tmp_path / "qa_forget.jsonl")}
    told = (examples / "my_data" / "pretrain_base.txt").read_text()
    assert len(entities) == 8 and not any(entity.split("/")[-1] in told for entity in entities)


def test_models_are_made_by_commands_that_there_are(examples, tmp_path, monkeypatch):
    """Each call is one that its script understands, and what it leaves gets the recipes' names."""
    names, asked = runpy.run_path(str(ROOT / SCRIPT), run_name="examples"), []
    leaves = {
        "create_models.py": ("plain-base", "plain-filtered", "chat-base"),
        "unlearn/unlearn.py": ("my_model__npo/unlearned_model",),
    }

    def start(script, *arguments):
        asked.append((script, commands.parse(script, [str(word) for word in arguments])))
        for folder in leaves[script]:
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)

    make_models = names["make_models"]
    monkeypatch.setitem(make_models.__globals__, "start", start)
    monkeypatch.setitem(make_models.__globals__, "finish", lambda processes: None)
    make_models(tmp_path, examples / "my_data", ["--seed", "1", "--device", "cpu"])
    assert all((tmp_path / name).is_dir() for name in names["MODELS"])
    assert [script for script, _ in asked] == ["create_models.py"] * 2 + ["unlearn/unlearn.py"]


def test_what_is_there_is_not_written_over(tmp_path, script):
    (tmp_path / "my_model").mkdir()
    done = script(SCRIPT, "--outdir", tmp_path)
    assert done.code == 2 and "my_model is there already" in done.err
    assert [path.name for path in Path(tmp_path).iterdir()] == ["my_model"]
