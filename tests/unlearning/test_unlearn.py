"""unlearn.py: its folders beside each other, what it says before and after a run, and its help."""

import csv
import re
import shutil

import pytest

from brittle.base.errors import UserError
from brittle.base.layout import check_tag


@pytest.fixture
def unlearn(script, family, brief, tmp_path):
    def run(*more, method="ga_simple", forget=brief / "forget.txt"):
        return script(
            "unlearn/unlearn.py",
            "--model",
            family.base,
            "--method",
            method,
            "--forget",
            forget,
            "--root",
            tmp_path,
            "--steps",
            "1",
            "--batch-size",
            "2",
            "--max-samples",
            "8",
            "--device",
            "cpu",
            *more,
        )

    return run


def test_max_samples_draws_texts_and_knows_their_entities(unlearn, data, monkeypatch):
    """The first lines of a file are of one entity or two: a part of the set, and of one kind."""
    from brittle.data.items import draw_texts
    from brittle.unlearning import run

    jobs = []
    monkeypatch.setattr(run, "run", lambda job, *_, **__: jobs.append(job))
    for seed in ("0", "0", "1"):
        assert unlearn("--seed", seed).code == 0
    every = draw_texts(data / "forget.txt")
    same, again, other = (job.texts for job in jobs)
    assert len(same.forget) == len(same.retain) == 8
    assert same == again and same.forget != other.forget and same.forget != every.rows[:8]
    places = [every.rows.index(row) for row in same.forget]
    assert places == sorted(places)
    assert same.forget_entities == [every.entities[place] for place in places]
    assert len(set(same.forget_entities)) > 2


def test_a_model_is_not_replaced_without_a_word_and_a_name_keeps_both(
    unlearn, script, family, tmp_path
):
    first = unlearn()
    assert first.code == 0 and "note" not in first.err, first.err
    assert "is replaced" not in unlearn().err  # the same again
    home = tmp_path / "mini-base__ga_simple" / "unlearned_model"
    other = unlearn("--lr", "1e-4")
    says = (
        rf"note: {home} is replaced at the end; it was made by: "
        r"unlearn/unlearn.py .*--device cpu\. --name TAG keeps both\.\n"
    )
    assert other.code == 0 and re.search(says, other.err), other.err
    before = (home / "model.safetensors").read_bytes()
    named = unlearn("--lr", "0", "--name", "no-lr")
    assert named.code == 0 and "is replaced" not in named.err
    assert (home / "model.safetensors").read_bytes() == before
    assert (tmp_path / "mini-base__ga_simple-no-lr" / "unlearned_model" / "config.json").is_file()
    (home / "training_history.run.json").unlink()
    assert "it has no record of how it was made" in unlearn().err
    table = script(
        "unlearn/methods_table.py",
        "--model",
        family.base,
        "--root",
        tmp_path,
        "--methods",
        "ga_simple,ga_simple-no-lr",
    )
    assert table.code == 0, table.err
    with open(tmp_path / "methods.csv", newline="") as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["ga_simple", "ga_simple-no-lr"]


def test_changed_data_under_the_same_command_is_said(unlearn, brief, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(brief, own)
    (own / "forget.facts.jsonl").unlink()  # it has a line for each text
    assert unlearn(forget=own / "forget.txt").code == 0
    text = (own / "forget.txt").read_text()
    (own / "forget.txt").write_text("One more line of text.\n" + text)
    done = unlearn(forget=own / "forget.txt")
    assert (
        done.code == 0
        and f"the same command, but {own / 'forget.txt'} changed. --name TAG" in done.err
    ), done.err


def test_without_questions_the_texts_are_measured(unlearn, brief, tmp_path):
    """Also where forget and retain texts are the same: that is said."""
    for name in ("forget.txt", "retain.txt"):
        shutil.copy(brief / "forget.txt", tmp_path / name)
    done = unlearn("--eval-split", ".5", "--max-samples", "999", forget=tmp_path / "forget.txt")
    assert done.code == 0, done.err
    assert "every forget text is also a retain text" in done.err
    assert (
        "  no mcq_*.jsonl beside the texts, so no accuracies\n" in done.out and "{}" not in done.out
    )
    numbers = re.findall(
        r"held-out (forget|retain) NLL a token: (\d+\.\d+) -> (\d+\.\d+)", done.out
    )
    assert [n for n, _, _ in numbers] == ["forget", "retain"] and numbers[0][1] == numbers[1][1]
    card = (tmp_path / "mini-base__ga_simple" / "unlearned_model" / "README.md").read_text()
    assert f"| held-out forget NLL a token | {numbers[0][1]} | {numbers[0][2]} |" in card
    with_questions = unlearn("--data", brief)
    assert (
        with_questions.code == 0
        and "forget: " in with_questions.out
        and "no mcq" not in with_questions.out
    )
    assert (
        "so no accuracies; no text was kept out"
        in unlearn("--eval-split", "0", forget=tmp_path / "forget.txt").out
    )


@pytest.mark.parametrize(
    "tag", ["..", "../x", "a/b", "a__b", "a..b", "-a", "a b", "a\n", ".a", "é", "x" * 61]
)
def test_tags_that_are_none(tag, unlearn, tmp_path):
    with pytest.raises(UserError, match=r"--name .*letters and digits"):
        check_tag(tag)
    done = unlearn(f"--name={tag}")
    assert done.code == 2 and done.err.startswith("error: --name ") and done.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_names_every_choice():
    from brittle.base import knobs
    from brittle.methods import METHODS, method_class

    helps = knobs.all_knobs({name: method_class(name) for name in METHODS})
    for cls in map(method_class, METHODS):
        for name, spec in knobs.knobs(cls).items():
            assert all(
                choice in helps[name].split(" [")[0] for choice in spec.metadata["choices"] or ()
            ), name
    for name in ("variant", "probe", "probe_start", "forget_loss"):
        assert " One of: " in helps[name]
    assert "One of" not in helps["wt_noise_unit"]  # its help names them already
