"""The README's tables, made from the code: `uv run python -m brittle.docs` rewrites them, a test holds them current."""

import csv
import inspect
import re
import runpy
import sys
from pathlib import Path

from brittle.sweep import COLUMNS as SWEEP_COLUMNS

README = Path("README.md")


def _table(head, rows):
    return "\n".join(["| " + " | ".join(r) + " |" for r in [head, ["---"] * len(head), *rows]])


def _first_sentence(text):
    """The first paragraph of a docstring up to its first full stop or colon-free line end, on one line."""
    paragraph = " ".join((text or "").strip().split("\n\n")[0].split())
    return paragraph.replace("|", "\\|")


def methods_table():
    """Every method: its knobs with their defaults, and the first paragraph of its docstring."""
    from brittle.methods import METHODS, method_class
    from brittle.methods.base import flag, knobs, show

    rows = []
    for name in METHODS:
        cls = method_class(name)
        flags = ", ".join(f"`{flag(k)} {show(f.default)}`" for k, f in knobs(cls).items()) or "none"
        rows.append([f"`{name}`", _first_sentence(inspect.getmodule(cls).__doc__), flags])
    return _table(["method", "what it does", "knobs and defaults"], rows)


def _steps():
    with open("experiment/steps.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _docstring(script):
    return runpy.run_path(script, run_name="docs").get("__doc__")


def diagnostics_table():
    """Every step of steps.csv that studies models: its number, question, script and folder."""
    rows = [
        [r["step"], r["title"], _first_sentence(_docstring(r["script"])), f"`{r['script']}`"]
        for r in _steps()
        if r["scope"] in ("comparison", "model") or r["folder"]
    ]
    return _table(["step", "what", "question", "script"], rows)


def columns_table():
    """Every CSV that a step writes, with its columns: read from the scripts' own constants."""
    rows, seen = [], set()
    for step in _steps():
        script = step["script"]
        if script in seen or step["scope"] in ("data", "family", "unlearn"):
            continue
        seen.add(script)
        names = runpy.run_path(script, run_name="docs")
        for file, constant in re.findall(r"\.csv\(\s*\"([\w.]+)\",\s*(\w+)", Path(script).read_text(encoding="utf-8")):
            folder = f"{step['folder']}/" if step["folder"] else ""
            constant = constant if constant in names else "LAYER_COLUMNS"  # param_stats/per_layer.csv: one may be added
            rows.append([f"`{folder}{file}`", ", ".join(names[constant])])
    rows.append(["`inference/<sha256 of the prompt>.csv`", ", ".join(SWEEP_COLUMNS)])
    return _table(["file", "columns"], rows)


TABLES = {"methods": methods_table, "diagnostics": diagnostics_table, "columns": columns_table}


def render(text):
    """`text` with the block between `<!-- begin NAME -->` and `<!-- end NAME -->` made anew for every table."""
    for name, make in TABLES.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        assert rest and tail, f"README.md lacks the marks of table {name}"
        text = f"{head}{begin}\n{make()}\n{end}{tail}"
    return text


if __name__ == "__main__":
    new = render(README.read_text(encoding="utf-8"))
    changed = new != README.read_text(encoding="utf-8")
    README.write_text(new, encoding="utf-8")
    print("README.md rewritten" if changed else "README.md is current", file=sys.stderr)
