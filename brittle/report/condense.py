"""What the report reads: CSVs condensed to a few lines, the question in a script's docstring, the
records of all runs.
"""

import ast
import json
import math
from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.record import record_path
from brittle.base.tables import mean, number, read_rows

# Numbers that name a row: a mean over them says nothing.
KEYS = {"layer", "lr", "step", "item", "seed", "early_step"}
SMALL = 12  # rows of a CSV that is shown whole


def condense(units, output):
    """(columns, rows, how many CSV rows) of one CSV over all units {label: folder}, the label first
    where there is one.

    A small CSV is shown as it is. Of a larger one, the means of its numbers over all rows that
    share their words; words with more than six values (names of matrices, facts) and KEYS are
    averaged over.
    """
    every = [(label, row) for label, folder in units.items() for row in read_rows(folder / output)]
    if not every:
        return [], [], 0
    columns = {c: [row[c] for _, row in every] for c in every[0][1]}
    first = 0 if any(units) else 1  # one unit without a label needs no column for it
    if len(every) <= SMALL:
        return (
            ["", *columns][first:],
            [[label, *row.values()][first:] for label, row in every],
            len(every),
        )
    values = {c: v for c, v in columns.items() if c not in KEYS}
    numbers = [
        c
        for c, cells in values.items()
        if set(cells) != {None} and all(x is None or number(x) is not None for x in cells)
    ]
    varied = [
        c
        for c in values
        if any(len({row[c] for unit, row in every if unit == label}) > 1 for label in units)
    ]
    # A word that is the same in all rows of a unit is said by the unit's label.
    words = [c for c in varied if c not in numbers and len(set(values[c])) <= 6]
    groups = {}
    for label, row in every:
        groups.setdefault((label, *(row[w] for w in words)), []).append(
            [number(row[c]) for c in numbers]
        )
    rows = [
        [*group, *(mean(column) for column in zip(*members, strict=True))]
        for group, members in groups.items()
    ]
    return ["", *words, *numbers][first:], [row[first:] for row in rows], len(every)


def update_size(table):
    """(|dW| / |W| over all matrices, mean stable rank weighted by |dW|^2); None where a matrix
    lacks its numbers.
    """
    columns = ("dW_fro", "W_fro", "dW_stable_rank")
    matrices = [[number(row.get(c)) for c in columns] for row in table]
    if not matrices or any(d is None or w is None for d, w, _ in matrices):
        return None, None
    energy = math.fsum(d * d for d, _, _ in matrices)
    whole = math.fsum(w * w for _, w, _ in matrices)
    size = math.sqrt(energy / whole) if whole else None
    moved = [(d * d, rank) for d, _, rank in matrices if d > 0]
    if not moved or any(rank is None for _, rank in moved):
        return size, None
    return size, math.fsum(e * rank for e, rank in moved) / energy


def question(script):
    """The first paragraph of a script's docstring, in one line; the script is not run."""
    path = Path(script)
    text = (
        ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.is_file() else None
    )
    return " ".join(text.split("\n\n")[0].split()) if text else ""


def records(tasks, models):
    """{path: record} of all runs: those beside the tasks' outputs, in the models' folders, and
    beside the data they read.
    """
    paths = [record_path(task.output) for task in tasks]
    paths += [path for model in models for path in sorted(Path(model).glob("*.run.json"))]
    read = {}
    for path in paths:
        if path.is_file() and path not in read:
            try:
                read[path] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                raise UserError(f"{path} is not JSON. Delete it and run its step again.") from None
    data = {Path(name).parent for record in read.values() for name in record["inputs"]}
    extra = sorted(
        path for folder in data for path in folder.glob("*.run.json") if path not in read
    )
    return {path: json.loads(path.read_text(encoding="utf-8")) for path in extra} | read
