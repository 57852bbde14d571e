"""What can be counted of readable code: one thought a line, names that say something, one class a
name."""

import ast
from collections import defaultdict

import pytest

from support.places import ROOT

FOLDERS = ("brittle", "experiment", "eval", "hooks", "unlearn")
FILES = sorted([*ROOT.glob("*.py"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.py"))])
VAGUE = {"found", "made", "part", "stuff", "thing"}  # names that could hold anything
MOST_PARAMETERS = 8
THEIRS = {"main", "forward"}  # commands have many flags; a model's `forward` is transformers' own
# a block of data that a formatter would spread over a page, one cell a line
TABLES_OF_DATA = {"brittle/data/world_words.py"}


def trees():
    for path in FILES:
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_one_thought_a_line(path):
    text = path.read_text(encoding="utf-8")
    problems = []
    name = path.relative_to(ROOT).as_posix()
    if "fmt: skip" in text and name not in TABLES_OF_DATA:
        problems.append("fmt: skip")
    for node in ast.walk(ast.parse(text)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.IfExp):
            inner = [n for child in ast.iter_child_nodes(node) for n in ast.walk(child)]
            if any(isinstance(n, ast.IfExp) for n in inner):
                problems.append(f"line {line}: a ternary inside a ternary")
        if isinstance(node, ast.Expr):
            whole = (ast.Call, ast.Constant, ast.Yield, ast.YieldFrom, ast.Await)
            if not isinstance(node.value, whole):
                problems.append(f"line {line}: a statement that is an expression")
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in VAGUE:
            problems.append(f"line {line}: {node.id} says nothing of what it holds")
        if isinstance(node, ast.FunctionDef) and node.name not in THEIRS:
            arguments = node.args
            count = len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs])
            if count > MOST_PARAMETERS:
                problems.append(f"line {line}: {node.name} takes {count} parameters")
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("brittle"):
            for alias in node.names:
                if alias.asname and (len(alias.asname) < 3 or alias.asname.endswith("_module")):
                    problems.append(f"line {line}: import {alias.name} as {alias.asname}")
    assert not problems, "\n".join(problems)


def test_one_class_name_is_one_class():
    homes = defaultdict(list)
    for name, tree in trees():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(name)
    assert not {name: places for name, places in homes.items() if len(places) > 1}
