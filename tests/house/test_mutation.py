"""tests/bench/mutation.py: where a change lies, what is not mutated, which tests run first."""

import ast
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
