"""A method of one's own, in a file outside the package: it is found, checked and watched.

tests/house/test_cookbook.py runs one through unlearn.py and the scoreboard.
"""

import json

import pytest

from brittle.base import code, layout
from brittle.base.errors import UserError
from brittle.base.files import describe_file
from brittle.methods import METHODS, chosen, method_class
from brittle.pipeline import methods

MINE = """
from dataclasses import dataclass

from brittle.base.knobs import knob
from brittle.methods.base import Method
from brittle.methods.rmu import RMU


@dataclass
class Mine(Method):
    push: float = knob(1.0, "How hard.", low=0)

    def losses(self, forget, retain, progress):
        return {"forget": self.push}
"""
BAD = {
    "syntax": ("class Mine:\n    def", "is no Python, line 2"),
    "import": ("import no_such_module", "line 1 breaks as it is read: ModuleNotFoundError"),
    "exit": ("x = 1\nraise SystemExit(0)", "line 2 breaks as it is read: SystemExit"),
    "no class": ("Mine = 3", "has no class Mine. It has no class."),
    "borrowed": ("from brittle.methods.rmu import RMU as Mine", "has no class Mine"),
    "another class": (MINE.replace("Mine", "Other"), "has no class Mine. It has Other."),
    "no Method": (MINE.replace("(Method)", ""), "Mine does not extend Method"),
    "no dataclass": (MINE.replace("@dataclass", ""), "no @dataclass above"),
    "no losses": (MINE.replace("losses", "loss"), "Mine has no losses(forget, retain, progress)"),
    "too few": (MINE.replace(", progress", ""), "losses of Mine takes forget, retain and progress"),
}


@pytest.fixture
def mine(tmp_path):
    """The name of a sound method in a file of its own."""
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    return f"{tmp_path}/mine.py:Mine"


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_gets_one_line(what, tmp_path, script, snapshot):
    text, message = BAD[what]
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    before = snapshot(tmp_path)
    call = ["--method", f"{tmp_path}/mine.py:Mine", "--model", "nowhere", "--push", "2"]
    done = script("unlearn/unlearn.py", *call, "--root", tmp_path / "out")
    assert done.code == 2 and message in done.err, done.err
    assert done.err.count("\n") == 1 and snapshot(tmp_path) == before


def test_a_file_that_is_not_there_and_one_without_its_class(mine):
    with pytest.raises(UserError, match=r"nowhere.py not found"):
        method_class("nowhere.py:Mine")
    with pytest.raises(UserError, match=r"name its class too, such as .*mine.py:Mine"):
        method_class(mine.removesuffix(":Mine"))


def test_its_name_is_its_class_and_no_other_methods(tmp_path, mine):
    assert layout.method_label(mine) == "Mine" and layout.method_label("npo") == "npo"
    assert layout.unlearned_dir("out", "m", mine) == layout.unlearned_dir("out", "m", "Mine")
    (tmp_path / "mine.py").write_text(MINE.replace("Mine", "NPO"), encoding="utf-8")
    with pytest.raises(UserError, match="NPO is the name of a method of the package"):
        method_class(mine.replace(":Mine", ":NPO"))


def test_lists_take_it_once_and_refuse_two_of_one_name(tmp_path, mine):
    assert chosen(f"{mine}, npo,{mine}") == [mine, "npo"]
    assert chosen("") == list(METHODS)
    (tmp_path / "other.py").write_text(MINE, encoding="utf-8")
    with pytest.raises(UserError, match="have one name"):
        chosen(f"{mine},{tmp_path}/other.py:Mine")


def test_its_knobs_are_in_help_and_none_may_be_an_option(tmp_path, mine, script):
    call = ["--model", "nowhere", "--method", mine]
    done = script("unlearn/unlearn.py", *call, "--help")
    assert "Knobs of Mine" in done.out and "--push" in done.out
    (tmp_path / "mine.py").write_text(MINE.replace("push:", "steps:"), encoding="utf-8")
    done = script("unlearn/unlearn.py", *call)
    assert done.code == 2 and "--steps is an option of this command already" in done.err


def test_a_changed_file_is_read_anew_and_what_it_imports_is_of_the_run(tmp_path, mine):
    first = method_class(mine)
    assert method_class(mine) is first
    before = code.start()
    try:
        method_class(mine)
        assert "brittle/methods/rmu.py" in code.made_by({})
    finally:
        code.end(before)
    (tmp_path / "mine.py").write_text(MINE.replace("1.0", "2.0"), encoding="utf-8")
    assert (first().push, method_class(mine)().push) == (1.0, 2.0)


def test_a_model_of_an_older_file_is_refused(tmp_path, mine):
    folder = layout.unlearned_dir(tmp_path, "m", mine)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    file = tmp_path / "mine.py"
    record = {"inputs": {str(file): describe_file(file)}}
    (folder / "training_history.run.json").write_text(json.dumps(record), encoding="utf-8")
    assert methods.found_models(tmp_path, "m", [mine]) == ({"Mine": str(folder)}, [])
    file.write_text(MINE.replace("1.0", "2.0"), encoding="utf-8")
    with pytest.raises(UserError, match=r"was not made by .*mine.py as it is now"):
        methods.found_models(tmp_path, "m", [mine])
