"""The tables of README.md and docs/, made from the code and from the CSVs of docs/measured/.

    uv run python -m brittle.report.docs_tables            rewrites the files that are not current
    uv run python -m brittle.report.docs_tables --check    names them, exits 1, and writes nothing

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. NAME is a key of TABLES (a
function that returns Markdown) or of CSV_TABLES (a CSV below docs/ and its columns).
No table stands outside such marks. tests/house/test_docs.py holds both.

The CSVs of docs/measured/ are copies of what a run wrote (scoreboard.csv, methods.csv), or numbers
that were read from such runs. docs/measured/sources.csv says for each with which command and on
which hardware it was measured.
"""

import importlib
import re
import runpy
import sys
from pathlib import Path

from brittle import LAYERS
from brittle.base.tables import read_cells, read_rows
from brittle.inference.tables import COLUMNS as SWEEP_COLUMNS
from brittle.report import sequential

DOCS = Path("docs")
MARKS = re.compile(r"<!-- begin ([\w -]+) -->\n(.*?)<!-- end \1 -->", re.S)

# Tables of CSVs below docs/: {NAME: (file, {heading: template})}.
# A template names columns of the CSV.
INTERVAL = "{%s} [{%s_low}, {%s_high}]"


def _with_interval(column):
    return INTERVAL % (column, column, column)


CSV_TABLES = {
    "first result": (
        "measured/first_result.csv",
        {
            "model": "{model}",
            "forget accuracy": "{forget_accuracy}",
            "retain accuracy": "{retain_accuracy}",
            "general accuracy": "{general_accuracy}",
            "comes back": _with_interval("recovery_over_filtered"),
            "size of the change": "{update_relative_norm}",
            "its stable rank": "{update_stable_rank}",
        },
    ),
    "injected": (
        "measured/injected.csv",
        {
            "family": "{family}, {parameters}",
            "model": "{model}",
            "forget": "{forget}",
            "retain": "{retain}",
            "general": "{general}",
            "half B, attacked": "{half_b_attacked}",
            "comes back": _with_interval("recovery_over_filtered"),
            "neutral KL": _with_interval("neutral_kl"),
            "steps": "{steps}",
        },
    ),
    "controls": (
        "measured/controls.csv",
        {
            "measure": "{measure} (step {step})",
            "Filtered": "{filtered}",
            "cb_lat": "{cb_lat}",
            "finetuned": "{finetuned}",
            "added": "{added}",
        },
    ),
    "waiting times": (
        "measured/waiting_times.csv",
        {"step": "{step}", "command": "`{command}`", "time": "{time}"},
    ),
    "data files": (
        "data_files.csv",
        {"file": "`{file}`", "a line": "{line}", "needed for": "{needed for}"},
    ),
    "recoveries": (
        "recoveries.csv",
        {
            "name": "{name}",
            "zero": "{zero}",
            "one": "{one}",
            "column of": "{column of}",
            "written by": "{written by}",
        },
    ),
    "deduction": (
        "measured/deduction.csv",
        {
            "measure": "{measure}",
            "Base": _with_interval("base"),
            "Filtered": _with_interval("filtered"),
            "`cb_lat`": _with_interval("cb_lat"),
        },
    ),
    "filter search": (
        "measured/filter_search.csv",
        {"questions on": "{split}", "accuracy": "{accuracy}", "questions": "{questions}"},
    ),
    "filter overlap": (
        "measured/filter_overlap.csv",
        {
            "overlap of entities": "{overlap}",
            "forget accuracy, 95 %": _with_interval("forget_accuracy"),
            "retain accuracy": "{retain_accuracy}",
            "status": "{status}",
        },
    ),
    "filter components": (
        "measured/filter_components.csv",
        {"components": "{components}", "forget accuracy": "{forget_accuracy}"},
    ),
    "filter anonymisers": (
        "measured/filter_anonymisers.csv",
        {
            "forget texts anonymised by": "{anonymised_by}",
            "network": "{network}",
            "forget accuracy, least": "{forget_accuracy_least}",
            "most": "{forget_accuracy_most}",
        },
    ),
    "filter published": (
        "measured/filter_published.csv",
        {
            "published": "{published}",
            "made from": "{made_from}",
            "AUC, least": "{auc_least}",
            "most": "{auc_most}",
        },
    ),
    "blind": (
        "measured/blind.csv",
        {
            "forget states are taken from": "{forget_states_from}",
            "forget accuracy": "{forget_accuracy}",
        },
    ),
    "guards": (
        "measured/guards.csv",
        {
            "guard": "`{guard}`",
            "forget accuracy": "{forget_accuracy}",
            "retain accuracy": "{retain_accuracy}",
            "note": "{note}",
        },
    ),
    "hours": (
        "measured/hours.csv",
        {
            "what": "{what}",
            "hardware": "{hardware}",
            "GPU memory, GB": "{memory_gb}",
            "time": "{time}",
        },
    ),
    "sources": (
        "measured/sources.csv",
        {
            "file": "`{file}`",
            "what": "{what}",
            "command": "`{command}`",
            "hardware": "{hardware}",
        },
    ),
}


def read(name):
    """The rows of a CSV below docs/, as dicts of text."""
    return read_cells(DOCS / name)


def markdown(head, rows):
    """A Markdown table. A vertical bar in a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    lines = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(value):
    """A cell as it is printed: no 0 before the point, a dash for a missing value."""
    if value in (None, ""):
        return "–"
    return re.sub(r"^(-?)0\.", r"\1.", value)


def two_digits(value):
    """A number of text with two digits behind the point, or a dash."""
    return "–" if value in (None, "") else shown(f"{float(value):.2f}")


def measured_table(name):
    """The table called `name` in CSV_TABLES."""
    file, columns = CSV_TABLES[name]
    rows = []
    for row in read(file):
        cells = {key: shown(value) for key, value in row.items()}
        line = [template.format(**cells) for template in columns.values()]
        rows.append([cell.replace(" [–, –]", "").replace("`–`", "–") for cell in line])
    return markdown(list(columns), rows)


def _first_paragraph(text):
    """The first paragraph of a docstring on one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def folders():
    """[(floor, folder, what is in it, reading order)] of the package, in the order of LAYERS."""
    for floor, names in enumerate(LAYERS):
        for name in names.split():
            text = importlib.import_module(f"brittle.{name}").__doc__
            what = _first_paragraph(text).replace(", in reading order", "")
            yield floor, name, what, reading_order(text)


def reading_order(text):
    """The order in which a package's docstring says that its files are best read; or ''.

    It stands behind `Reading order:`, or as the names in front of an indented list.
    """
    _, said, order = text.partition("Reading order:")
    if said:
        return " ".join(order.split())
    return ", ".join(re.findall(r"^ {4}(\S.*?)(?: {2,}|$)", text, re.M))


def folders_table():
    """The folders of the package, each with the first paragraph of its docstring."""
    rows = [[f"`brittle/{name}/`", what] for _, name, what, _ in folders()]
    return markdown(["folder", "what is in it"], rows)


def layers_table():
    """The folders with their floor and the order in which their files are best read."""
    rows = [[floor, f"`{name}`", what, order or "–"] for floor, name, what, order in folders()]
    return markdown(["floor", "folder", "what is in it", "reading order"], rows)


def methods_table(measured=None):
    """Every method: type, knobs, formula and paper from its own code, and its row of `measured`.

    `measured` are the rows of docs/measured/methods.csv where they are not given.
    """
    from brittle.methods import METHODS

    rows = read("measured/methods.csv") if measured is None else measured
    by_name = {row["method"]: row for row in rows}
    names = [*METHODS, *(name for name in by_name if name not in METHODS)]
    head = [
        "method",
        "type",
        "knobs and defaults",
        "formula",
        "paper",
        "forget / retain / general",
        "comes back",
        "steps / seconds",
        "FLOPs / labels",
    ]
    return markdown(head, [_method_row(name, by_name.get(name)) for name in names])


def _method_row(name, measured):
    """The cells of one method; `measured` is None where it was not measured."""
    return [f"`{name}`", *_method_code(name), *_method_scores(measured)]


def _method_code(name):
    """What the code says of a method: type, knobs, formula, paper. A filter has empty cells."""
    from brittle.base.knobs import flag, knobs, show
    from brittle.methods import METHODS, describe, method_class

    if name not in METHODS:
        return ["", "", "", ""]
    method, about = method_class(name), describe(name)
    flags = [
        f"{flag(knob)} {show(field.default)}".rstrip() for knob, field in knobs(method).items()
    ]
    return [
        method.kind,
        ", ".join(f"`{text}`" for text in flags) or "none",
        f"`{about.formula}`" if about.formula else "",
        f"[{about.paper}]({about.url})" if about.paper else "",
    ]


def _method_scores(row):
    """What was measured of a method: accuracies, recovery, cost. Empty cells where nothing was."""
    if row is None:
        return ["", "–", "", "–"]
    splits = ("forget", "retain", "general")
    return [
        " / ".join(two_digits(row.get(f"{split}_accuracy")) for split in splits),
        two_digits(row.get("recovery_over_filtered")),
        f"{row['steps']} / {float(row['seconds']):.0f}",
        cost_words(row),
    ]


def cost_words(row):
    """The operations of a training, and the share of its texts that were marked forget; a dash
    where the record did not say it.
    """
    if row.get("flops") in (None, ""):
        return "–"
    share = row.get("label_share")
    return f"{float(row['flops']):.1e} / {two_digits(share)}"


def scoreboard_table():
    """Held-out recovery of every method under every attack, and two rows of accuracies."""
    rows = read("measured/scoreboard.csv")
    attacks = list(dict.fromkeys(row["attack"] for row in rows))
    names = list(dict.fromkeys(row["method"] for row in rows))
    ends = [name for name in names if name in ("base", "filtered")]
    lines = [
        [f"`{name}`", *(_mean_of(rows, name, attack, "heldout_recovery") for attack in attacks)]
        for name in names
        if name not in ends
    ]
    lines += [
        [
            f"{name} (accuracy)",
            *(_mean_of(rows, name, attack, "heldout_accuracy") for attack in attacks),
        ]
        for name in ends
    ]
    return markdown(["method", *(f"`{attack}`" for attack in attacks)], lines)


def _mean_of(rows, method, attack, column):
    """The mean of a column over the seeds of one method under one attack, as text."""
    values = [
        float(row[column])
        for row in rows
        if row["method"] == method and row["attack"] == attack and row[column]
    ]
    return two_digits(sum(values) / len(values)) if values else "–"


def attacks_table():
    """Every attack with the first paragraph of its module's docstring.

    Where a module holds several attacks, it is that of the class's docstring.
    """
    from brittle.attacks import ATTACKS

    return _table_of_attacks(ATTACKS)


def ladder_table():
    """Every rung of the strength ladder, as `attacks_table`."""
    from brittle.attacks import LADDER

    return _table_of_attacks(LADDER)


def _table_of_attacks(places):
    """places: {name: module:class}."""
    from brittle.attacks import attack_class

    modules = [place.partition(":")[0] for place in places.values()]
    rows = []
    for name, place in places.items():
        module = place.partition(":")[0]
        attack = attack_class(name)
        alone = modules.count(module) == 1 and module != "base"
        text = sys.modules[attack.__module__].__doc__ if alone else attack.__doc__
        rows.append([f"`{name}`", _first_paragraph(text)])
    return markdown(["attack", "what it does"], rows)


def bases_table():
    """Every basis of the activation filter with the first paragraph of its function's docstring."""
    from brittle.filters.basis import MAKE

    rows = [[f"`{name}`", _first_paragraph(make.__doc__)] for name, make in MAKE.items()]
    return markdown(["basis", "the directions that it removes"], rows)


def sequential_log_table():
    """Every row of the published log of sequential unlearning, beside what was measured here."""
    rows = sequential.lines(read_rows(DOCS / "measured/sequential_log.csv"))
    return markdown(sequential.HEAD, rows)


def sequential_findings_table():
    """What the repeated runs say of the log's findings."""
    rows = sequential.finding_lines(read_rows(DOCS / "measured/sequential_findings.csv"))
    return markdown(sequential.FINDING_HEAD, rows)


def _steps():
    return read_cells("experiment/steps.csv")


def diagnostics_table():
    """Every step of steps.csv that studies models: its number, question, script and folder."""
    rows = []
    for step in _steps():
        if step["scope"] in ("comparison", "model") or step["folder"]:
            question = _first_paragraph(runpy.run_path(step["script"], run_name="docs")["__doc__"])
            rows.append([step["step"], step["title"], question, f"`{step['script']}`"])
    return markdown(["step", "what", "question", "script"], rows)


def columns_table():
    """Every CSV that a step writes, with its columns: read from the scripts' own constants."""
    rows, seen = [], set()
    for step in _steps():
        script = step["script"]
        if script in seen or step["scope"] in ("data", "family", "unlearn", "control"):
            continue
        seen.add(script)
        names = runpy.run_path(script, run_name="docs")
        source = Path(script).read_text(encoding="utf-8")
        folder = f"{step['folder']}/" if step["folder"] else ""
        for file, constant in re.findall(r"\.csv\(\s*\"([\w.]+)\",\s*(\w+)", source):
            # a script that may add a column copies its list into a variable of the same name
            columns = names[constant.upper()]
            rows.append([f"`{folder}{file}`", ", ".join(columns)])
        if "SCRIPT" in names:  # a SingleAttack writes one CSV, named like it
            columns = names["SCRIPT"].csv_columns()
            rows.append([f"`{folder}{names['SCRIPT'].name}.csv`", ", ".join(columns)])
    rows.append(["`inference/<sha256 of the prompt>.csv`", ", ".join(SWEEP_COLUMNS)])
    return markdown(["file", "columns"], rows)


def families_table():
    """Which families go through which commands; families of one outcome share a row."""
    rows = {}
    for row in read("measured/architectures.csv"):
        family, why = row.pop("family"), row.pop("why")
        why = re.sub(rf"\b{re.escape(family)}\b", "the family", why).replace(" (the family)", "")
        failing = [command for command, answer in row.items() if answer != "yes"]
        works = "all" if not failing else f"all but {', '.join(failing)}"
        if len(failing) == len(row):
            works = "none"
        rows.setdefault((works, why), []).append(f"`{family}`")
    lines = [[", ".join(names), works, why or "–"] for (works, why), names in rows.items()]
    return markdown(["families", "commands that work", "why not"], lines)


def bad_inputs_sentence():
    """How many bad inputs the tests give to how many scripts, rounded down."""
    scripts, cases = runpy.run_path("tests/support/bad_inputs.py")["count"]()
    return (
        f"The tests give every script bad input, made from its own options: more than "
        f"{cases // 100 * 100:,} cases over more than {(scripts - 1) // 10 * 10} scripts."
    )


TABLES = {
    "folders": folders_table,
    "layers": layers_table,
    "methods": methods_table,
    "scoreboard": scoreboard_table,
    "attacks": attacks_table,
    "ladder": ladder_table,
    "bases": bases_table,
    "sequential log": sequential_log_table,
    "sequential findings": sequential_findings_table,
    "diagnostics": diagnostics_table,
    "columns": columns_table,
    "families": families_table,
    "bad inputs": bad_inputs_sentence,
}


def table(name):
    """The Markdown of the table called `name`. Raises KeyError for an unknown one."""
    if name in CSV_TABLES:
        return measured_table(name)
    return TABLES[name]()


def render(text):
    """`text` with every block between marks made anew."""
    return MARKS.sub(lambda mark: _block(mark[1]), text)


def _block(name):
    return f"<!-- begin {name} -->\n{table(name)}\n<!-- end {name} -->"


def documents(root="."):
    """README.md, the pages of docs/ and what else of Markdown lies in the root."""
    root = Path(root)
    return [*sorted(root.glob("*.md")), *sorted(root.glob("docs/**/*.md"))]


def main(check):
    """Rewrite what is not current; with `check` only name it. Returns the exit status."""
    old = []
    for path in documents():
        text = path.read_text(encoding="utf-8")
        new = render(text)
        if new == text:
            continue
        old.append(path)
        if not check:
            path.write_text(new, encoding="utf-8")
    for path in old:
        print(f"{path}: {'not current' if check else 'rewritten'}", file=sys.stderr)
    if not old:
        print("every table is current", file=sys.stderr)
    return 1 if check and old else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
