"""There is one way down: a folder of brittle/ uses what stands above it in LAYERS, and nothing
else.
"""

import ast

import pytest

from brittle import LAYERS
from support.places import ROOT

PACKAGE = ROOT / "brittle"
FLOOR = {name: floor for floor, names in enumerate(LAYERS) for name in names.split()}
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = [
    path
    for folder in ("experiment", "eval", "hooks", "unlearn", ".")
    for path in sorted((ROOT / folder).glob("*.py"))
]


def imports(path):
    """(folder of brittle/, module) of each import of the package in a file, those inside functions
    included.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node


def module(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}


def target(name):
    """The module of the package that an imported name belongs to, or None."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name if name.startswith("brittle.") else None


def test_every_folder_has_its_layer_and_no_file_lies_loose():
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py"]
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(FLOOR) and len(FLOOR) == 14


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_folder_uses_what_stands_above_it(path):
    home = path.relative_to(PACKAGE).parts[0]
    for name, node in imports(path):
        found = target(name)
        if found and home in FLOOR:
            other = found.split(".")[1]
            assert other == home or FLOOR[other] < FLOOR[home], f"line {node.lineno}: {name}"
        if isinstance(node, ast.Import) and home != "pipeline":
            assert not name.startswith("brittle"), f"line {node.lineno}: from brittle.x import y"


def test_no_module_imports_itself_by_a_way_round():
    uses = {
        name: {t for imported, _ in imports(path) if (t := target(imported)) and t != name}
        for name, path in MODULES.items()
    }
    done, walked = set(), []

    def walk(name):
        assert name not in walked, " -> ".join([*walked[walked.index(name) :], name])
        if name in done:
            return
        walked.append(name)
        for other in sorted(uses[name]):
            walk(other)
        done.add(walked.pop())

    for name in MODULES:
        walk(name)


def test_a_package_holds_its_docstring_and_nothing_else():
    for path in PACKAGE.rglob("__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
        if path.parent.name not in ("brittle", "methods", "attacks"):  # LAYERS, and two registries
            assert len(body) == 1, path


def test_nobody_uses_a_script():
    scripts = {path.stem for path in SCRIPTS}
    for path in [*FILES, *SCRIPTS]:
        for name, node in imports(path):
            first = name.split(".")[0]
            assert first not in ("experiment", "eval", "hooks", "unlearn"), (path, node.lineno)
            assert first not in scripts, (path, node.lineno)


def defined(path):
    """The names that a module defines or imports at its top level."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
            continue
        stored = (n for n in ast.walk(node) if isinstance(n, ast.Name))
        names |= {n.id for n in stored if isinstance(n.ctx, ast.Store)}
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def test_every_imported_name_exists():
    """Imports inside functions fail only when they run; here each is looked up."""
    names = {name: defined(path) for name, path in MODULES.items()}
    for path in [*FILES, *SCRIPTS, *sorted((ROOT / "tests").rglob("*.py"))]:
        for name, node in imports(path):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("brittle"):
                last = name.rpartition(".")[2]
                there = name in MODULES or last in names.get(node.module, ())
                assert there, f"{path} line {node.lineno}: {name}"
