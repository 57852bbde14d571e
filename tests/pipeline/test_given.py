"""What is given to the pipeline is checked before anything is planned: models, method, data, and
whose questions are asked.
"""

import json
import re
import shutil

import pytest

from brittle.base.errors import UserError
from brittle.pipeline import given, methods, steps
from support.places import ROOT
from support.processes import Child

PIPELINE = "experiment/pipeline.py"


@pytest.fixture
def mini():
    return steps.read_study("mini")


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setattr(given, "offline", lambda: False)


def stranger(folder, **about):
    """A model folder whose config.json says `about`; its weights are never opened."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "model.safetensors").touch()
    return str(folder)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--unlearned", "nowhere/at/all"], "--unlearned nowhere/at/all: no such folder"),
        (["--filtered", "outputs/nothing"], "--filtered outputs/nothing: no such folder"),
        (["--base", "./nothing"], "--base ./nothing: no such folder"),
        (
            ["--base", "nobody/nothing"],
            "--base nobody/nothing is no local folder, is not in the Hugging Face cache",
        ),
        (["--filtered", "tests"], "--filtered tests has no config.json"),
        (["--method", "npoo"], "--method npoo: choose ga_simple"),
        (["--method", "filter"], "--method filter: hooks/ makes it"),
        (["--data", "nowhere"], "--data nowhere: no such folder"),
        (["--data", "tests"], "--data tests has no forget.txt and no retain.txt"),
    ],
)
def test_what_cannot_be_used_is_said_before_the_plan(arguments, says, tmp_path):
    done = Child([PIPELINE, "--dry-run", *arguments], tmp_path / "log", {}).wait()
    assert (
        done.code == 2
        and done.err.startswith(f"error: {says}")
        and done.err.count("\n") == 1
        and not done.out
    )


def test_a_base_of_ones_own_has_no_twin_of_the_presets(mini, family, tmp_path):
    own = stranger(tmp_path / "own", model_type="llama")
    for base in (own, family.base):
        assert given.complete(mini, base, data="my_data") == ("", "my_data")
        assert given.complete(mini, base, "twin", data="my_data") == ("twin", "my_data")
    assert given.complete(mini) == given.complete(mini, mini.base) == (None, None)
    # of the mini family, so of its world
    assert given.complete(mini, family.base) == ("", None)
    assert given.check_given(mini, base=family.base, filtered=family.filtered) == []
    assert given.check_given(mini, base=family.base, filtered="") == [given.NO_TWIN]


def test_without_data_a_stranger_is_asked_about_what_it_was_unlearned_on(mini, data, tmp_path):
    own, other = stranger(tmp_path / "own", model_type="llama"), stranger(tmp_path / "other")
    assert given.complete(mini, own, unlearned=[other]) == ("", "")
    command = ["unlearn/unlearn.py", "--forget", f"{data}/forget.txt"]
    record = {"command": command, "inputs": {}}
    (tmp_path / "other" / "training_history.run.json").write_text(json.dumps(record))
    assert given.complete(mini, own, unlearned=[other]) == ("", str(data))


def test_two_models_without_data_are_compared_by_their_weights_alone(mini, tmp_path):
    own, other = stranger(tmp_path / "own", model_type="llama"), stranger(tmp_path / "other")
    nothing = {"base": own, "filtered": "", "data": ""}
    with pytest.raises(UserError, match=f"--base {own} alone: there is nothing to compare"):
        given.check_given(mini, **nothing)
    (note,) = given.check_given(mini, **nothing, unlearned=[other])
    assert note.startswith("note: no --data, so the weights alone are compared")
    chosen = steps.override(mini, **nothing, unlearned=[other])
    planned = {task.step for task in steps.tasks(chosen, steps.read_steps())}
    assert planned == {"1", "2", "spectrum", "6", "7", "10", "report"}


def test_without_filtered_every_step_that_compares_runs_on_base_and_unlearned(mini, family, data):
    rows = steps.read_steps()
    both = {"base": family.base, "unlearned": ["my/one"], "data": str(data)}
    tasks = steps.tasks(steps.override(mini, **both, filtered=""), rows)
    assert {t.step for t in tasks} == {r["step"] for r in rows if r["scope"] not in steps.MAKING}
    assert not [part for t in tasks for part in t.command if "filtered" in part]
    assert not [t.name for t in tasks if t.name.endswith(" ")]
    mini.unlearned = []
    made = steps.override(mini, base=family.base, filtered="", method="npo", data=str(data))
    makers = [t.name for t in steps.tasks(made, rows) if t.step in steps.MAKING]
    assert makers == ["unlearn"]


def test_the_presets_own_base_needs_nothing(mini, tmp_path):
    mini.base = stranger(tmp_path / "own")
    assert (
        given.check_given(mini, base=mini.base)
        == given.check_given(mini, base=f"{mini.base}/../own/")
        == []
    )


def test_a_stranger_that_is_asked_about_the_mini_world_is_named(mini, data, online, tmp_path):
    own, other = stranger(tmp_path / "own", model_type="llama"), stranger(tmp_path / "other")
    wanted = f"note: {own} is asked about the mini world (data/mini). Give --data DIR"
    (note,) = given.data_notes(mini, own)
    assert note.startswith(wanted) and "\n" not in note
    assert "some/model is asked" in given.data_notes(mini, "some/model")[0]
    assert given.check_given(mini, base=own, filtered=other, data=str(data)) == []
    hub = steps.read_study("deep-ignorance")
    assert given.complete(hub, own) == ("", None)
    assert given.check_given(hub, base=own, filtered="") == [given.NO_TWIN]


def test_hub_ids_are_asked_for_only_offline(mini, online, monkeypatch):
    given.check_given(mini, unlearned=["some/model"])
    monkeypatch.setattr(given, "offline", lambda: True)
    with pytest.raises(UserError, match="--unlearned some/model is no local folder"):
        given.check_given(mini, unlearned=["some/model"])


def test_a_method_that_is_not_needed_is_not_checked(mini, family):
    mini.method = ""
    assert given.check_given(mini, unlearned=[family.filtered]) == []
    with pytest.raises(UserError, match="--method : choose"):
        given.check_given(mini)


def test_data_of_ones_own_are_read_and_not_made(mini, data, family, tmp_path):
    folder = tmp_path / "my data"
    folder.mkdir()
    for name in given.TEXTS:
        (folder / name).write_text("a text\n")
    with pytest.raises(UserError, match=r"no pretrain_base.txt to train the mini models on"):
        given.check_given(mini, data=str(folder))
    (note,) = given.check_given(mini, base=family.base, filtered=family.filtered, data=str(folder))
    assert note.startswith(
        f"note: {folder} has no mcq_forget.jsonl, no mcq_retain.jsonl, no mcq_general.jsonl"
    )
    assert given.check_given(mini, data=str(data)) == []
    chosen = steps.override(
        mini, base=family.base, filtered=family.filtered, unlearned=["my/one"], data=str(folder)
    )
    tasks = steps.tasks(chosen, steps.read_steps())
    assert not {"data", "base", "filtered", "unlearn"} & {t.step for t in tasks}
    read = {part for t in tasks for part in t.command if str(folder) in part}
    assert read == {str(folder), f"{folder}/forget.txt", f"{folder}/retain.txt"}
    assert not [part for t in tasks for part in t.command if "data/mini" in part]


def own_data(folder, halves="AB"):
    """A data folder with texts and four-way forget and retain questions of the given halves."""
    folder.mkdir()
    for name in given.TEXTS:
        (folder / name).write_text("a text\n")
    for split in ("forget", "retain"):
        items = [
            {"question": f"q{i}", "choices": ["a", "b"], "answer": 0, "half": halves[i % 2]}
            for i in range(12)
        ]
        lines = "".join(json.dumps(item) + "\n" for item in items)
        (folder / f"mcq_{split}.jsonl").write_text(lines)
    return str(folder)


def test_what_lacks_its_file_is_left_out_in_one_line(mini, family, tmp_path):
    """First use 10: 23 ran, 19 failed, exit 1, though the files were known to be missing."""
    folder = own_data(tmp_path / "own")
    models = {"base": family.base, "filtered": family.filtered}
    (note,) = given.check_given(mini, **models, data=folder)
    assert "no mcq_general.jsonl: left out are general questions; see" in note
    chosen = steps.override(mini, **models, unlearned=["my/one"], data=folder)
    tasks = steps.tasks(chosen, steps.read_steps())
    assert given.without_left_out(tasks, folder) == tasks
    (tmp_path / "own" / "mcq_retain.jsonl").unlink()
    (note,) = given.check_given(mini, **models, data=folder)
    assert "left out are 14, 14t; see" in note  # forget questions are attacked
    (tmp_path / "own" / "mcq_forget.jsonl").unlink()
    (note,) = given.check_given(mini, **models, data=folder)
    assert "left out are tamper, harness, recovery, significance, 14, 14t; see" in note
    left = {task.step for task in given.without_left_out(tasks, folder)}
    assert {"report", "13", "1", "basin"} <= left
    assert not left & {"tamper", "harness", "recovery", "significance", "14", "14t"}
    assert given.without_left_out(tasks, None) == tasks


def test_a_folder_of_plain_texts_runs_to_its_end(family, knowing, tmp_path, script, fork):
    """First use 10: with texts alone the study ended with 19 failures and exit 1."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in given.TEXTS:
        (folder / name).write_text("a text\n" * 4)
    models = ["--base", family.base, "--filtered", family.filtered, "--unlearned"]
    copy = tmp_path / "cut"
    shutil.copytree(knowing, copy)
    study = [PIPELINE, *models, str(copy), "--data", str(folder), "--root", str(tmp_path / "out")]
    plan = script(*study, "--dry-run")
    assert plan.code == 0, plan.err
    notes = [line for line in plan.out.splitlines() if line.startswith("note:")]
    (note,) = notes
    assert "no mcq_forget.jsonl" in note and "left out are tamper, harness, recovery" in note
    planned = {line.split()[1] for line in plan.out.splitlines() if line.startswith("→")}
    assert {"1", "10", "13", "report"} <= planned
    assert not planned & {"tamper", "harness", "recovery", "significance", "14", "14t"}
    done = fork(*study, "--only", "1", "harness", "report").wait(300)
    assert done.code == 0, done.out + done.err
    assert done.out.rstrip().endswith("3 ran")
    assert (tmp_path / "out" / "report.html").is_file()


def test_questions_without_halves_leave_the_attack_out(mini, family, tmp_path):
    folder = own_data(tmp_path / "own", halves="AA")
    (tmp_path / "own" / "mcq_general.jsonl").write_bytes(
        (tmp_path / "own" / "mcq_retain.jsonl").read_bytes()
    )
    (note,) = given.check_given(mini, base=family.base, filtered=family.filtered, data=folder)
    assert "has 0 questions of half B in mcq_forget.jsonl, fewer than 5: left out are " in note
    assert "tamper, recovery; see" in note


# --- which method is made how is known in one place


def test_only_one_file_of_the_pipeline_and_its_scripts_knows_the_filter():
    files = [*(ROOT / "brittle" / "pipeline").glob("*.py"), *ROOT.glob("unlearn/*.py")]
    files += [ROOT / "experiment" / name for name in ("pipeline.py", "scoreboard.py")]
    assert len(files) > 8
    knowing = {f.name for f in files if re.search(r"\bFILTER\b|hooks/", f.read_text("utf-8"))}
    assert knowing == {"methods.py"}


def test_the_filter_is_a_chain_of_tasks_in_the_place_of_training(mini, tmp_path):
    mini.root = str(tmp_path)
    rows = [row for row in steps.read_steps() if row["step"] in ("base", "unlearn", "tamper")]
    trained = methods.making(mini, rows, "npo")
    filtered = methods.making(mini, rows, "filter")
    assert [task.name for task in trained][:2] == ["base", "unlearn npo"]
    chain = ["fit filter", "tune filter", "unlearn filter", "verify filter"]
    assert [task.name for task in filtered][1:5] == chain
    assert filtered[1].needs == ["base"] and filtered[4].needs == ["unlearn filter"]
    home = tmp_path / "mini-base__filter"
    assert filtered[3].output == home / "unlearned_model" / "bake.csv"
    baked = next(task for task in filtered if task.name == "tamper mini-base__filter")
    assert "unlearn filter" in baked.needs
    assert mini.method != "filter" and not mini.unlearned  # the study itself is untouched


def test_a_family_is_made_of_the_model_that_from_names(tmp_path):
    """`--from MODEL`: both models are taught, and Filtered waits for Base, whose steps it takes."""
    own = stranger(tmp_path / "my {model}", model_type="llama")
    study = steps.override(
        steps.start_from(steps.read_study("injected"), own), root=str(tmp_path / "out")
    )
    planned = {task.name: task for task in steps.tasks(study, steps.read_steps())}
    home = tmp_path / "out/models"
    for role, needs in (("base", ["data"]), ("filtered", ["data", "base"])):
        task = planned[role]
        assert task.output == home / f"my {{model}}-{role}" / "model.safetensors"
        assert task.command[-4:] == ["--only", role, "--from", own] and task.needs == needs
    assert planned["unlearn"].command[2] == str(home / "my {model}-base")


def test_from_and_models_of_ones_own_exclude_each_other(tmp_path):
    own = stranger(tmp_path / "own")
    with pytest.raises(UserError, match=f"--from {own} makes Base and Filtered. Leave --base out"):
        given.check_source(own, base=own)
    with pytest.raises(UserError, match="--from nowhere/at/all: no such folder"):
        given.check_source("nowhere/at/all")
    with pytest.raises(UserError, match="preset mini has models of its own"):
        steps.start_from(steps.read_study("mini"), own)
    with pytest.raises(UserError, match="preset injected makes a family of a model: give --from"):
        steps.start_from(steps.read_study("injected"), None)
