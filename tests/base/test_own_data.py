"""Which data a command reads where --data is left out: the model's own, or the mini world."""

import json
from pathlib import Path

import pytest

from brittle.base import own_data


@pytest.fixture
def asked(tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder; (data, forget) that it reads, and what it says."""
    monkeypatch.chdir(tmp_path)

    def main(
        model: str, data: Path = Path("data/mini"), forget: Path = Path("data/mini/forget.txt")
    ):
        return data, forget

    def run(*words, **arguments):
        monkeypatch.setattr("sys.argv", ["eval/x.py", *words])
        given = {"data": Path("data/mini"), "forget": Path("data/mini/forget.txt")} | arguments
        result = own_data.follow(main)(**given)
        return result, capsys.readouterr().err

    return run


def unlearned(folder, inputs, command=(), family=None):
    """A model folder whose record names its inputs."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"family": family} if family else {}))
    record = {"command": list(command), "inputs": {path: {} for path in inputs}}
    (folder / "training_history.run.json").write_text(json.dumps(record))


def test_the_record_of_the_model_says_which_data(asked):
    unlearned(Path("outputs/m__npo/unlearned_model"), ["mine/forget.txt", "mine/mcq_forget.jsonl"])
    Path("mine").mkdir()
    read, said = asked(model="outputs/m__npo")
    assert read == (Path("mine"), Path("mine/forget.txt"))
    assert "--data is left out: outputs/m__npo was unlearned on mine, which is read." in said


def test_data_is_followed_by_the_texts(asked):
    """First use 15: the questions of one folder, the texts of another."""
    read, said = asked("--data", "tofu", model="m", data=Path("tofu"))
    assert (read, said) == ((Path("tofu"), Path("tofu/forget.txt")), "")
    read, _ = asked("--data=tofu", "--forget=x.txt", model="m", data=Path("tofu"), forget="x.txt")
    assert read == (Path("tofu"), "x.txt")
    Path("lines").mkdir()
    Path("lines/forget.jsonl").write_text("{}")
    read, _ = asked("--data", "lines", model="m", data=Path("lines"))
    assert read[1] == Path("lines/forget.jsonl")


def test_a_strange_model_is_told_which_questions_it_gets(asked):
    """First use 14: a model of one's own was asked about invented organisms without a word."""
    Path("own").mkdir()
    Path("own/config.json").write_text("{}")
    read, said = asked(model="own")
    assert read[0] == Path("data/mini")
    assert said == "note: --data is left out: own is asked about the mini world (data/mini).\n"
    assert "owner/name is asked about the mini world" in asked(model="owner/name")[1]


def test_the_mini_family_is_not_told(asked):
    Path("base").mkdir()
    Path("base/config.json").write_text('{"family": "mini"}')
    assert asked(model="base")[1] == ""
    unlearned(Path("u"), ["data/mini/forget.txt"])
    assert asked(model="u")[1] == ""


def test_data_that_are_gone_are_named(asked):
    unlearned(Path("u"), ["f.txt"], ["unlearn.py", "--forget", "gone/f.txt"])
    read, said = asked(model="u")
    assert read[0] == Path("data/mini")
    assert "u was unlearned on gone, which is not there" in said and "give --data DIR" in said


def test_an_injected_model_was_taught_and_not_unlearned(asked):
    """It was told that it "was unlearned on" the folder whose facts it had learned."""
    folder = Path("models/m-base")
    folder.mkdir(parents=True)
    inputs = {"mine/pretrain_base.txt": {}}
    record = {"command": [], "inputs": inputs, "settings": {"teaching": {"source": "data"}}}
    (folder / "model.run.json").write_text(json.dumps(record))
    Path("mine").mkdir()
    read, said = asked(model="models/m-base")
    assert read[0] == Path("mine")
    assert said == (
        "note: --data is left out: models/m-base was taught the facts of mine, which is read.\n"
    )


def test_data_given_as_the_default_are_taken_as_they_are(asked):
    unlearned(Path("u"), ["mine/forget.txt"])
    Path("mine").mkdir()
    read, said = asked("--data", "data/mini", model="u")
    assert read[0] == Path("data/mini") and said == ""


def test_a_damaged_record_is_no_record(asked):
    unlearned(Path("u"), [])
    Path("u/training_history.run.json").write_text("{")
    assert own_data.unlearned_on("u") is None


def test_every_script_follows(script, family, data, tmp_path):
    """The rule stands around a real script: texts and questions come from --data."""
    done = script(
        "eval/extract.py", "--model", family.base, "--data", data, "--templates", "plain",
        "--samples", 0, "--max-items", 5, "--max-texts", 4, "--outdir", tmp_path, "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "prefix.run.json").read_text())
    assert str(data / "forget.txt") in record["inputs"]
