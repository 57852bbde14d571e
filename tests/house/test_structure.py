"""The shape of the project: imported lives in brittle/, run lives in the folders, and --help
answers at once.
"""

import ast
import functools
import importlib.metadata
import inspect
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib

import pytest

from brittle.base.knobs import flag as flag_of
from brittle.base.knobs import knobs as knobs_of
from brittle.methods import METHODS, method_class
from brittle.methods.wrappers import Wrappers
from brittle.pipeline import steps
from support.made_once import made_once
from support.places import ROOT

FOLDERS = ("experiment", "eval", "unlearn", "hooks")
SCRIPTS = sorted(
    p for p in [*ROOT.glob("*.py"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.py"))]
)
PACKAGE = sorted((ROOT / "brittle").rglob("*.py"))
HEAVY = {
    "torch",
    "transformers",
    "tokenizers",
    "pandas",
    "matplotlib",
    "sklearn",
    "scipy",
    "numpy",
    "datasets",
    "lm_eval",
    "wandb",
    "peft",
    "accelerate",
    "safetensors",
    "optuna",
}
INSTALLED = set(importlib.metadata.packages_distributions())


def name(path):
    return str(path.relative_to(ROOT))


@functools.cache
def imports(path):
    """Top-level names that a file imports, anywhere in it; "." for a relative import."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {
        alias.name.split(".")[0]
        for node in nodes
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    return plain | {
        "." if n.level else n.module.split(".")[0] for n in nodes if isinstance(n, ast.ImportFrom)
    }


@pytest.mark.parametrize("path", [*SCRIPTS, *PACKAGE], ids=name)
def test_imports(path):
    """Scripts import the package and libraries, never each other; nothing edits sys.path."""
    assert not imports(path) & {".", *FOLDERS, *(script.stem for script in SCRIPTS)}
    source = path.read_text(encoding="utf-8")
    assert "sys.path" not in source and "PYTHONPATH" not in source and "# /// script" not in source


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_no_script_hides_a_library(path):
    """A script's folder comes first on sys.path: a script called like a library would be imported
    in its place.
    """
    used = {module for p in [*SCRIPTS, *PACKAGE] for module in imports(p)}
    assert path.stem not in used | set(sys.stdlib_module_names) | INSTALLED


def test_only_the_package_is_packaged():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["brittle"]
    assert "scripts" not in project["project"]


def test_lock_names_plain_pypi_alone():
    """A lock made with find-links in the environment would hold a folder of that machine."""
    sources = {
        str(p["source"])
        for p in tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    }
    assert sources == {str({"registry": "https://pypi.org/simple"}), str({"editable": "."})}


def distributions(*folders):
    """Distributions whose modules are imported below `folders` (and by top-level scripts for
    "").
    """
    owners = importlib.metadata.packages_distributions()
    files = [p for folder in folders for p in (ROOT / folder).rglob("*.py")]
    if "brittle" in folders:
        files += ROOT.glob("*.py")
    modules = {module for path in files for module in imports(path)}
    own = {"brittle", "support"} | {path.stem for path in (ROOT / "tests").rglob("*.py")}
    found = {module: set(owners.get(module, ())) for module in modules - own}
    found = {module: {d.lower().replace("_", "-") for d in of} for module, of in found.items()}
    return {module: of for module, of in found.items() if of}


def declared(listed):
    """{distribution: its line} of a list of requirements."""
    return {re.match(r"[A-Za-z0-9-]+", line)[0].lower(): line for line in listed}


def test_what_is_imported_is_declared_and_what_is_not_imported_is_not_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = declared(project["project"]["dependencies"])
    used = distributions("brittle", *FOLDERS)
    missing = {module for module, of in used.items() if not of & set(wanted)}
    assert not missing
    # lm-eval names its backends in brackets; nothing else may be declared and not imported
    unused = set(wanted) - {name for of in used.values() for name in of}
    assert not unused
    tests = {**wanted, **declared(project["dependency-groups"]["dev"])}
    missing = {module for module, of in distributions("tests").items() if not of & set(tests)}
    assert not missing


HELP = """
import io, json, os, runpy, sys
commands, heavy = json.loads(sys.argv[1])
import typer
for command in commands:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        out, code = sys.stdout, None
        sys.stdout, sys.argv = io.StringIO(), [*command.split(), "--help"]
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        loaded = sorted({m.partition(".")[0] for m in sys.modules} & set(heavy))
        print(json.dumps([command, code, sys.stdout.getvalue(), loaded]), file=out, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


OF_A_METHOD = "unlearn/unlearn.py --method "
METHODS_ASKED = ("npo", "sequential", "ga_simple", "nonsense")


@pytest.fixture(scope="module")
def helps(tmp_path_factory):
    """{command: (exit status, text, heavy modules that were loaded)} of every script's --help, and
    of that of some methods, in processes without them.
    """
    written = made_once("helps", tmp_path_factory, write_helps)
    return {row[0]: row[1:] for row in map(json.loads, written.read_text("utf-8").splitlines())}


def write_helps(file):
    commands = [*map(name, SCRIPTS), *(OF_A_METHOD + method for method in METHODS_ASKED)]
    environment = {**os.environ, "COLUMNS": "200", "TERM": "dumb"}
    command = [sys.executable, "-c", HELP, json.dumps([commands, sorted(HEAVY)])]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    file.write_text(run.stdout, encoding="utf-8")


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_help_answers_without_heavy_imports(helps, path):
    code, text, loaded = helps[name(path)]
    assert code == 0 and "Usage" in text and "--help" in text
    assert loaded == []


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_no_default_names_a_folder_of_this_machine(helps, path):
    text = " ".join(helps[name(path)][1].split())
    assert not re.findall(r"default: (?:/|~)[^\]]*", text)
    assert str(ROOT) not in text


def sections(text):
    """{heading: flags} of a help."""
    listed, heading = {}, None
    for line in text.splitlines():
        if re.fullmatch(r"[A-Z].*:", line):
            heading = line.rstrip(":")
        elif line.startswith("  --"):
            listed.setdefault(heading, []).append(line.split()[0].rstrip(","))
    return listed


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_long_helps_are_in_groups(helps, path):
    """What does not fit into a screen has headings, and no list is long but that of all knobs."""
    listed = sections(helps[name(path)][1])
    listed.pop("Knobs of the methods", None)
    too_long = {heading: flags for heading, flags in listed.items() if len(flags) > 12}
    assert not too_long, "a script's table of groups goes to command.run"
    assert next(iter(listed)) == "Options" and "--help" in listed["Options"]


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_groups_name_options_that_there_are(path):
    """A group that names an option which is gone would lose it without a word."""
    names = runpy.run_path(str(path), run_name="groups")
    listed = [option for group in names.get("HELP_GROUPS", {}).values() for option in group]
    knobs = set(knobs_of(Wrappers)) if path.name == "unlearn.py" else set()
    parameters = inspect.signature(names["main"]).parameters if listed else {}
    assert set(listed) <= {*parameters, *knobs}
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize("method", METHODS_ASKED)
def test_help_of_a_method_lists_its_own_knobs_and_no_others(helps, method):
    code, text, loaded = helps[OF_A_METHOD + method]
    assert code == 0 and loaded == []
    listed = sections(text)
    if method not in METHODS:
        assert "--steering-coeff" in listed["Knobs of the methods"]  # as without a method
        return
    own = set(map(flag_of, knobs_of(method_class(method))))
    assert set(listed.get(f"Knobs of {method}", [])) == own
    others = {flag_of(knob) for other in METHODS for knob in knobs_of(method_class(other))} - own
    assert not others & {option for options in listed.values() for option in options}
    assert "--lora-rank" in listed["Wrappers, with any method"]
    assert "--lr" in listed["Training"] and "--push-to-hub" in listed["Hub and saving"]
    words = " ".join(text.split())
    assert f"preset default of {method}: lr" in words and f"preset mini of {method}: lr" in words


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_every_script_says_what_it_is_for(helps, path):
    """A docstring that says how it is run, and options that explain themselves."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert doc and (name(path) in doc or path.name == "pipeline.py")
    text = helps[name(path)][1]
    options = [line for line in text.splitlines() if line.lstrip().startswith("--")]
    assert options


def test_steps_name_scripts_that_exist():
    rows = steps.read_steps(ROOT / "experiment" / "steps.csv")
    assert len({row["step"] for row in rows}) == len(rows)
    for row in rows:
        assert (ROOT / row["script"]).is_file(), row["script"]
        assert row["title"] and row["output"]


def test_steps_need_steps_that_stand_above_them():
    rows = steps.read_steps(ROOT / "experiment" / "steps.csv")
    above = set()
    for row in rows:
        assert row["needs"] == "*" or set(row["needs"].split()) <= above, row["step"]
        above.add(row["step"])


def test_steps_give_scripts_options_that_they_have(helps):
    """Calling convention: --model-a A --model-b B --outdir DIR, or --model M --outdir DIR, and each
    step's extra flags.
    """
    common = {
        "data": ["--outdir"],
        "family": ["--data", "--outdir"],
        "unlearn": ["--model", "--method", "--root"],
        "control": ["--model", "--method", "--root"],
        "comparison": ["--model-a", "--model-b", "--outdir"],
        "model": ["--model", "--outdir"],
        "all": ["--base", "--filtered", "--unlearned", "--root"],
    }
    for row in steps.read_steps(ROOT / "experiment" / "steps.csv"):
        flags = common[row["scope"]] + [
            part for part in row["extra"].split() if part.startswith("--")
        ]
        flags += ["--outdir"] * bool(row["folder"])
        for flag in flags:
            assert flag in helps[row["script"]][1].split(), (row["script"], flag)


@pytest.mark.parametrize("preset", ["mini", "deep-ignorance"])
def test_presets_give_scripts_options_that_they_have(helps, preset):
    for script, arguments in steps.read_study(preset).arguments.items():
        for part in arguments.split():
            assert not part.startswith("--") or part.split("=")[0] in helps[script][1].split(), (
                script,
                part,
            )


def test_outputs_of_steps_never_collide():
    for preset in ("mini", "deep-ignorance"):
        made = steps.tasks(steps.read_study(preset), steps.read_steps())
        assert len({task.output for task in made}) == len(made) == len({task.name for task in made})


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_package_files_say_what_they_hold(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
