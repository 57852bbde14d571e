"""The README's tables, made from the code: `uv run python -m brittle.report.readme` rewrites them, a test holds them current."""

import csv
import re
import runpy
import sys
from pathlib import Path

from brittle.inference.sweep import COLUMNS as SWEEP_COLUMNS

README = Path("README.md")
SCOREBOARD = Path("tests/bench/scoreboard.csv")  # likewise a copy of outputs/scoreboard.csv
MEASURED = Path(
    "tests/bench/methods.csv"
)  # a copy of outputs/methods.csv, as last measured on the mini family


def _table(head, rows):
    return "\n".join(["| " + " | ".join(r) + " |" for r in [head, ["---"] * len(head), *rows]])


def _first_sentence(text):
    """The first paragraph of a docstring up to its first full stop or colon-free line end, on one line."""
    paragraph = " ".join((text or "").strip().split("\n\n")[0].split())
    return paragraph.replace("|", "\\|")


def methods_table(measured=None):
    """Every method: type, knobs, formula and paper from its own code, and its row of `measured` (those of MEASURED)."""
    from brittle.base.knobs import flag, knobs, show
    from brittle.methods import METHODS, describe, method_class

    if measured is None:
        with open(MEASURED, newline="", encoding="utf-8") as file:
            measured = list(csv.DictReader(file))
    found = {row["method"]: row for row in measured}
    rows = []
    for name in [*METHODS, *(name for name in found if name not in METHODS)]:
        row, cells = found.get(name, {}), [f"`{name}`", "", "", "", ""]
        if name in METHODS:
            cls, about = method_class(name), describe(name)
            flags = (
                ", ".join(
                    f"`{flag(k)} {show(f.default)}`".replace(" `", "`")
                    for k, f in knobs(cls).items()
                )
                or "none"
            )
            cells[1:] = [
                cls.kind,
                flags,
                f"`{about['formula']}`",
                f"[{about['paper']}]({about['url']})",
            ]
        scores = (
            " / ".join(
                _short(row.get(f"{split}_accuracy")) for split in ("forget", "retain", "general")
            )
            if row
            else ""
        )
        cost = f"{row['steps']} / {float(row['seconds']):.0f}" if row else ""
        cells += [scores, _short(row.get("heldout_recovery")), cost]
        rows.append([cell.replace("|", "\\|") for cell in cells])
    head = [
        "method",
        "type",
        "knobs and defaults",
        "formula",
        "paper",
        "forget / retain / general",
        "comes back",
        "steps / seconds",
    ]
    return _table(head, rows)


def _short(value):
    return f"{float(value):.2f}".replace("0.", ".", 1) if value not in (None, "") else "–"


def scoreboard_table():
    """Held-out recovery of every method under every attack, mean over seeds, and Filtered's accuracy; from SCOREBOARD."""
    with open(SCOREBOARD, newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    attacks = list(dict.fromkeys(row["attack"] for row in found))
    cells = {}
    for row in found:
        cells.setdefault((row["method"], row["attack"]), []).append(row)

    def cell(method, attack):
        column = "heldout_accuracy" if method in ("base", "filtered") else "heldout_recovery"
        known = [float(row[column]) for row in cells.get((method, attack), []) if row[column]]
        return _short(sum(known) / len(known)) if known else "–"

    names = list(dict.fromkeys(row["method"] for row in found))
    ends = [n for n in names if n in ("base", "filtered")]
    rows = [[f"`{m}`", *(cell(m, a) for a in attacks)] for m in names if m not in ends]
    rows += [[f"{m} (accuracy)", *(cell(m, a) for a in attacks)] for m in ends]
    return _table(["method", *(f"`{a}`" for a in attacks)], rows)


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
        for file, constant in re.findall(
            r"\.csv\(\s*\"([\w.]+)\",\s*(\w+)", Path(script).read_text(encoding="utf-8")
        ):
            folder = f"{step['folder']}/" if step["folder"] else ""
            constant = (
                constant if constant in names else "LAYER_COLUMNS"
            )  # param_stats/per_layer.csv: one may be added
            rows.append([f"`{folder}{file}`", ", ".join(names[constant])])
    rows.append(["`inference/<sha256 of the prompt>.csv`", ", ".join(SWEEP_COLUMNS)])
    return _table(["file", "columns"], rows)


def bad_inputs_sentence():
    """How many bad inputs the tests give to how many scripts, rounded down."""
    scripts, cases = runpy.run_path("tests/support/bad_inputs.py")["count"]()
    return (
        f"The tests give every script bad input, made from its own options: more than {cases // 100 * 100:,} cases over "
        f"more than {(scripts - 1) // 10 * 10} scripts."
    )


TABLES = {"bad inputs": bad_inputs_sentence, "methods": methods_table, "diagnostics": diagnostics_table,
          "scoreboard": scoreboard_table, "columns": columns_table}  # fmt: skip


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
