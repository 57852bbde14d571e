"""Which code made a result: the same answer in a cold process and in a fork, and no result is
called true beyond its code.
"""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from brittle.base import code
from brittle.base.record import Run, why_run
from support.places import ROOT
from support.processes import Child

FILES = {
    "__init__.py": '"""A small brittle."""\n',
    "maths/__init__.py": "",
    "maths/alone.py": "X = 1\n",
    "maths/deep.py": (
        "try:\n    from brittle.maths import alone\nexcept ImportError:\n    alone = None\n"
    ),
    "maths/top.py": "from brittle.maths.deep import alone\nimport os\n",
    "maths/lazy.py": "import brittle.maths.top\n\ndef f():\n    from brittle.maths import never\n",
    "maths/classy.py": "class A:\n    from brittle.maths import lazy\n",
    "maths/never.py": "",
}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A package of seven files in the place of brittle; what it says of imports is planted."""
    package = tmp_path / "repository" / "brittle"
    for name, text in FILES.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    monkeypatch.setattr(code, "PACKAGE", package)
    monkeypatch.setattr(code, "ROOT", package.parent)
    monkeypatch.setattr(code, "_watches", [])
    code.digests.cache_clear()
    yield package
    code.digests.cache_clear()


@pytest.mark.parametrize(
    ("module", "files"),
    [
        ("brittle.maths.alone", "alone"),
        ("brittle.maths.alone.X", "alone"),  # a name in a module
        ("brittle.maths.deep", "alone deep"),
        ("brittle.maths.top", "alone deep top"),
        ("brittle.maths.lazy", "alone deep top lazy"),  # the import in the function has not run
        ("brittle.maths.classy", "alone deep top lazy classy"),
        ("os.path", None),
    ],
)
def test_imports_at_the_top_are_followed(small, module, files):
    expected = {small / "maths" / f"{name}.py" for name in (files or "").split()}
    packages = {small / "__init__.py", small / "maths" / "__init__.py"} if files else set()
    assert code.closure([module]) == expected | packages


def test_a_mended_file_is_named_and_counts_for_what_used_it(small):
    with code.watch("brittle.maths.top") as seen:
        pass
    made = seen.code()
    assert [Path(p).stem for p in made if "__init__" not in p] == ["alone", "deep", "top"]
    assert all(path.startswith("brittle/") for path in made) and code.still_true(made)
    (small / "maths" / "never.py").write_text("mended = True\n")
    assert code.why_older(made) is None
    (small / "maths" / "deep.py").write_text("from brittle.maths import alone  # mended\n")
    assert code.why_older(made) == "made by older code: brittle/maths/deep.py"
    (small / "maths" / "alone.py").unlink()
    assert code.why_older(made) == "made by older code: brittle/maths/alone.py and 1 more"
    assert not code.still_true(made) and not code.still_true(None)


def test_a_file_that_is_mended_during_the_run_is_not_what_made_the_result(small):
    with code.watch("brittle.maths.alone") as seen:
        (small / "maths" / "alone.py").write_text("X = 2  # the process still has the old one\n")
    assert code.older(seen.code()) == ["brittle/maths/alone.py"]


def test_kept_results_bring_their_code_along(small):
    kept = {"brittle/maths/never.py": code.digests()["brittle/maths/never.py"]}
    old = {"brittle/maths/alone.py": "0" * 64}
    with code.watch("brittle.maths.top") as seen:
        code.use(kept)
        assert code.older(seen.code()) == [] and kept.items() <= seen.code().items()
        code.use(old)
    # the result rests on older code: accepting a kept part does not launder it
    assert code.older(seen.code()) == ["brittle/maths/alone.py"]


def test_a_run_leaves_nothing_to_what_the_process_does_next(tmp_path, script):
    """A kept part of older code, taken behind a script in one process, made later results old.

    tests/report failed behind tests/attacks so.
    """
    assert script("experiment/clean.py", "--root", tmp_path).code == 0
    code.use({"brittle/base/code.py": "0" * 64})
    with Run(tmp_path / "out") as run:
        run.csv("x.csv", ["a"], [{"a": 1}])
    made = json.loads((tmp_path / "out" / "x.run.json").read_text())["code"]
    assert code.why_older(made) is None


def test_watches_see_what_runs_inside_them_alone():
    with code.watch() as outer:
        from brittle.base import tables  # noqa: F401

        with code.watch() as inner:
            importlib.import_module("brittle.maths.moments")
        with code.uncounted():
            importlib.import_module("brittle.maths.linalg")
    with code.watch() as later:
        code.again(inner)
    assert "brittle.base.tables" in outer.modules and "brittle.maths.moments" in inner.modules
    assert inner.modules == later.modules < outer.modules
    assert "brittle.maths.linalg" not in outer.modules


# --- in records


@pytest.fixture
def result(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["none.py"])
    # `watch` forgets what this process has imported before
    with code.watch(), Run("out") as run:
        run.csv("x.csv", ["a"], [{"a": 1}])
    return Path("out/x.csv")


def edit(**changes):
    path = Path("out/x.run.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_older_code_is_a_reason_to_run_and_can_be_accepted(result):
    command = ["none.py"]
    assert why_run(result, command) is None
    current = code.digests()["brittle/maths/linalg.py"]
    edit(code={"brittle/maths/linalg.py": current})
    assert why_run(result, command) is None
    edit(code={"brittle/maths/linalg.py": "0" * 64, "brittle/maths/gone.py": "0" * 64})
    assert why_run(result, command) == "made by older code: brittle/maths/gone.py and 1 more"
    assert why_run(result, command, accept_older_code=True) is None
    Path("out/x.csv").write_text("edited")
    assert why_run(result, command, accept_older_code=True) == "x.csv is not what was written"


def test_a_record_from_before_code_was_recorded(result):
    path = Path("out/x.run.json")
    record = json.loads(path.read_text())
    del record["code"]
    path.write_text(json.dumps(record))
    assert why_run(result, ["none.py"]) == "made by older code: its files were not recorded"
    assert why_run(result, ["none.py"], accept_older_code=True) is None


def test_inputs_in_the_project_are_named_relative_to_it(tmp_path, monkeypatch):
    """A project that is moved, or copied, has results that are still true."""
    outside = tmp_path / "outside.txt"
    project = tmp_path / "one"
    project.mkdir()
    for file in (outside, project / "in.txt"):
        file.write_text("text")
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["none.py"])
    with Run("out", [project / "in.txt", outside]) as run:
        run.csv("x.csv", ["a"], [{"a": 1}])
    record = json.loads(Path("out/x.run.json").read_text())
    assert set(record["inputs"]) == {"in.txt", str(outside)}
    monkeypatch.chdir(project.rename(tmp_path / "two"))
    assert why_run("out/x.csv", ["none.py"]) is None
    Path("in.txt").write_text("other text")
    assert why_run("out/x.csv", ["none.py"]) == "in.txt changed"


# --- a cold process and a fork of one that has everything imported

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from brittle.base import command
from brittle.base.record import Run

def main(which: str):
    from brittle.methods import method_class
    if which == "npo":
        method_class(which)
    else:
        from brittle.maths.linalg import svd
    with Run(which) as run:
        run.csv("x.csv", ["a"], [dict(a=1)])

if __name__ == "__main__":
    command.run(main)
"""


@pytest.mark.parametrize("which", ["npo", "linalg"])
def test_a_fork_says_what_a_cold_process_says(which, tmp_path, monkeypatch, imported):
    monkeypatch.chdir(tmp_path)
    Path("some.py").write_text(SCRIPT.format(root=str(ROOT)))
    listed = []
    for how in ("cold", "fork"):
        if how == "cold":
            subprocess.run([sys.executable, "some.py", which], check=True)
        else:
            assert Child(["some.py", which], tmp_path / "log", {}).wait().code == 0
        listed.append(json.loads(Path(which, "x.run.json").read_text())["code"])
    assert listed[0] == listed[1]
    names = set(listed[0])
    assert {"some.py", "brittle/base/record.py", "brittle/methods/__init__.py"} <= names
    assert ("brittle/methods/npo.py" in names) == (which == "npo")
    assert ("brittle/methods/base.py" in names) == (which == "npo")  # imported at npo's top
    assert ("brittle/maths/linalg.py" in names) == (which == "linalg")
    assert "brittle/methods/ga.py" not in names
