"""Relative paths start where the user stands, and an error shows where it looked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from brittle.base import places
from support.places import ROOT


@pytest.fixture
def standing(tmp_path, monkeypatch):
    """A user in <tmp>/mine, the repository in <tmp>/clone."""
    for folder in ("mine/model", "mine/owner/model", "clone/outputs"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine")
    yield places.enter_repository(tmp_path / "clone")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "is_read_as"),
    [
        ("data", "{tmp}/mine/data"),
        ("../clone/outputs", "outputs"),
        ("/somewhere/else", "/somewhere/else"),
        (None, None),
    ],
)
def test_paths_start_where_the_user_stands(standing, tmp_path, given, is_read_as):
    assert Path.cwd() == tmp_path / "clone"
    assert standing.path(given) == (is_read_as and is_read_as.format(tmp=tmp_path))


@pytest.mark.parametrize(
    ("given", "is_read_as"),
    [
        ("model", "{tmp}/mine/model"),
        ("owner/model", "{tmp}/mine/owner/model"),
        ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m"),
        ("outputs/models/mini-base", "{tmp}/mine/outputs/models/mini-base"),
        ("../clone/outputs/x", "outputs/x"),
    ],
)
def test_models_are_folders_where_the_user_stands_or_ids(standing, tmp_path, given, is_read_as):
    assert standing.model(given) == is_read_as.format(tmp=tmp_path)
    assert standing.preset("mini") == "mini"
    assert standing.preset("my.toml") == f"{tmp_path}/mine/my.toml"


def test_what_is_typed_in_the_repository_stays_as_it_is(tmp_path, monkeypatch):
    """So records of a study that ran before stay true."""
    monkeypatch.chdir(tmp_path)
    here = places.enter_repository(tmp_path)
    assert here.path("./outputs") == "./outputs" and here.model("outputs/x") == "outputs/x"


@pytest.mark.parametrize(
    ("script", "arguments", "absolute"),
    [
        (
            "experiment/pipeline.py",
            ["--dry-run", "--unlearned", "clone/outputs/x"],
            "clone/outputs/x",
        ),
        ("unlearn/create_all.py", ["--dry-run", "--data", "mine"], "mine"),
        ("unlearn/unlearn.py", ["--method", "npo", "--model", "outputs/x"], "outputs/x"),
        ("create_datasets.py", ["--forget-file", "a.txt", "--retain-file", "b.txt"], "a.txt"),
    ],
)
def test_from_another_folder_the_error_shows_where_it_looked(tmp_path, script, arguments, absolute):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / script, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert str(tmp_path / absolute) in done.stderr
    assert not list(tmp_path.iterdir())


def test_only_what_is_missing_is_said_to_have_been_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()
    said = "there: 3 lines not found. Make x/y with z/w."
    assert places.looked_for(said, ["there", "x/y"]) == said
    said = "--method npoo: choose npo."
    assert places.looked_for(said, ["--method", "npoo"]) == said
    said = "/a/b not found."
    assert places.looked_for(said, ["/a/b"]) == said
    said = "--data mine: no such folder. See docs/data.md."
    assert places.looked_for(said, ["--data=mine"]) == f"{said} Looked for {tmp_path}/mine."


def test_where_a_folder_lies_is_said_outside_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert places.where(Path("data")) == f"data lies where you stand: {tmp_path}/data"
    assert places.where(tmp_path) == ""
    monkeypatch.chdir(ROOT)
    assert places.where(Path("data")) == ""
