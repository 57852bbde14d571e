"""tests/bench/mutation.py: where a change lies, what is not mutated, which tests run first."""

import ast
import csv
import subprocess
import sys

import pytest

from support.places import ROOT

TEXT = """def f(a: int | None):
    if a < 2:
        raise ValueError(3)
    return g(
        a + 1,
    )
"""


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "bench")
    monkeypatch.setattr(sys, "argv", ["mutation.py"])
    import mutants
    import mutation

    return mutants, mutation


def test_a_change_is_put_where_it_belongs(bench):
    mutants, _ = bench
    for new in ("x = a - b", "x = a", "y = a + b", "x = a + + b", ""):
        start, end, text = mutants.changed_span("x = a + b", new)
        assert "x = a + b"[:start] + text + "x = a + b"[end:] == new


def test_lines_of_a_statement_and_what_is_silent(bench):
    mutants, _ = bench
    tree = ast.parse(TEXT)
    assert [mutants.statement_lines(tree, n) for n in (1, 2, 3, 5)] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 6),
    ]
    spans = mutants.silent_spans(tree)
    assert (1, 9, 1, 19) in spans and (3, 8, 3, 27) in spans and len(spans) == 2


def test_tests_that_reach_a_line_run_first_and_quick_ones_before(bench):
    mutants, mutation = bench
    tests = {
        "t.py::slow": {"seconds": 9.0, "lines": [["m.py", 4]]},
        "t.py::other": {"seconds": 0.1, "lines": []},
        "t.py::quick": {"seconds": 1.0, "lines": [["m.py", 5]]},
    }
    reach = {"t.py": {"tests": tests, "at_import": [["m.py", 1]]}}
    chooser = mutation.Chooser({"groups": {"g": {"tests": ["t.py"]}}}, reach)
    mutant = mutants.Mutant("i", "g", "m.py", "s", 4, 4, 6, "o", 0, 1, "a", "b")
    wanted = ["t.py::quick", "t.py::slow", "t.py::other"]
    assert chooser.tests_for(mutant) == wanted
    assert chooser.within(wanted, 2.0) == ["t.py::quick", "t.py::other"]
    assert chooser.tests_for(mutant._replace(first=7, last=7)) == []


def row_of(mutants, text, was, new, status, occurrence=1):
    """A row of results for the change of the `occurrence`-th `was` of a module."""
    start = -1
    for _ in range(occurrence):
        start = text.index(was, start + 1)
    at = {"start": str(start), "end": str(start + len(was)), "new": new, "status": status}
    return {"module": "m.py", "operator": "Op", "sha": mutants.digest(text)} | at


def test_survivors_of_several_runs_keep_their_reasons_when_lines_move(bench, tmp_path):
    """The same line twice is two mutants; one that any run killed, or whose line went, is none."""
    mutants, _ = bench
    import survivors

    def git(*arguments):
        who = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    old = "a = b + 1\nif a:\n    c = 2\n    a = b + 1\nd = zip(a, b, strict=True)\n"
    module, path = tmp_path / "m.py", tmp_path / "list.csv"
    module.write_text(old)
    git("init", "-q")
    git("add", "m.py")
    git("commit", "-qm", "old")
    first = [
        row_of(mutants, old, "+", "-", "survived", 1),
        row_of(mutants, old, "+", "-", "not reached", 2),
        row_of(mutants, old, "2", "3", "survived"),
        row_of(mutants, old, "True", "False", "survived"),
    ]
    module.write_text("# new\n" + old.replace("    c = 2\n", ""))
    git("commit", "-qam", "new")
    second = [row_of(mutants, module.read_text(), "+", "-", "killed", 1)]
    for name, rows in (("results_1.csv", first), ("results_2.csv", second)):
        with open(tmp_path / name, "w", newline="") as file:
            writer = csv.DictWriter(file, first[0])
            writer.writeheader()
            writer.writerows(rows)
    kinds = [{"operator": "O", "after": "strict=False", "reason": "same length"}]

    def written(*places):
        survivors.write_survivors(path, places, tmp_path, kinds)
        rows = list(csv.DictReader(path.open()))
        return [(row["line"], row["after"], row["status"], row["reason"]) for row in rows]

    expected = [
        ["4", "a = b - 1", "not reached", ""],
        ["5", "d = zip(a, b, strict=False)", "survived", "same length"],
    ]
    assert written(tmp_path) == [tuple(row) for row in expected]
    path.write_text(path.read_text().replace("not reached,", "not reached,mine"))
    module.write_text("# newer\n" + module.read_text())
    expected = [["5", *expected[0][1:3], "mine"], ["6", *expected[1][1:]]]
    assert written(tmp_path) == [tuple(row) for row in expected]
    assert len(written(tmp_path / "results_1.csv")) == 3  # without the run that killed one
