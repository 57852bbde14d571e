"""What the report reads: CSVs condensed to a few lines, the question in a script's docstring, the
records of all runs.
"""

import ast
import json
import math
from pathlib import Path
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.base.record import record_path
from brittle.base.tables import mean, number, read_rows

SMALL = 60  # rows of a CSV that is shown whole
FEW = 6  # values of a column by which rows are told apart
# Numbers that say where a row was measured: a mean of them says nothing.
PLACES = ("layer", "lr", "step", "alpha", "level", "k", "eps")
# What is drawn again and again: a mean over it is a quantity, a mean of it is none.
REPEATS = ("seed", "item")
# Numbers that describe a row: shown where all rows of a line agree.
DESCRIBES = (
    *PLACES,
    *("dimension", "rank", "shape0", "shape1", "folds", "early_step", "below_ulp", "n", "n_null"),
    *("n_texts", "n_tokens", "n_forget", "n_retain", "n_questions", "n_items"),
    *("n_perturbations", "n_iterations"),
)
ENDS = ("_low", "_high", "stderr", "_sd", "_std")  # a mean of such ends is no interval


class Condensed(NamedTuple):
    """A table that says in a few lines what a CSV says in many.

    rows: of numbers and text under `columns`. count: how many rows the CSV has. note: what the
    lines are, in words; empty where they are the CSV's rows.
    """

    columns: list
    rows: list
    count: int
    note: str


def condense(units, output):
    """The `Condensed` CSV `output` of all units {label: folder}, the label first where there is
    one.

    A CSV of at most SMALL rows is shown as it is. Of a larger one, a line stands for the rows that
    share their words and their PLACES. Words with more than FEW values (names of matrices, facts)
    and REPEATS are averaged over. Of a place with more than FEW values (layers, steps), or with the
    most where there would be more than SMALL lines, the largest alone is shown: a mean over layers
    or over the steps of an attack would be no quantity.
    """
    every = [(label, row) for label, folder in units.items() for row in read_rows(folder / output)]
    if not every:
        return Condensed([], [], 0, "")
    columns = list(every[0][1])
    first = 0 if any(units) else 1  # one unit without a label needs no column for it
    if len(every) <= SMALL:
        rows = [[label, *row.values()][first:] for label, row in every]
        return Condensed(["", *columns][first:], rows, len(every), "")
    kinds = _kinds(units, every, columns)
    groups = _groups(every, kinds)
    while len(groups) > SMALL and any(word in PLACES for word in kinds.words):
        places = [word for word in kinds.words if word in PLACES]
        most = max(places, key=lambda place: len({row[place] for _, row in every}))
        kinds = _kinds(units, every, columns, [*kinds.largest, most])
        groups = _groups(every, kinds)
    whole = all(len(rows) == 1 for rows in groups.values())
    shown = [c for c in kinds.numbers if whole or not c.endswith(ENDS)]
    lines = [
        [*group, *(_of_rows(column, rows) for column in shown)] for group, rows in groups.items()
    ]
    return Condensed(
        ["", *kinds.words, *shown][first:],
        [line[first:] for line in lines],
        len(every),
        _note(kinds, whole=whole),
    )


class Kinds(NamedTuple):
    """The columns of a CSV, by what a condensed table does with them."""

    words: list  # tell lines apart
    largest: list  # places with many values, of which the largest is shown
    averaged: list  # are averaged over
    numbers: list  # are shown


def _kinds(units, every, columns, largest=()):
    """The `Kinds` of the columns.

    every: [(label, row)]; largest: places of which the largest is shown in any case.
    """
    values = {c: {row[c] for _, row in every} for c in columns}
    numeric = [
        c
        for c in columns
        if values[c] != {None} and all(x is None or number(x) is not None for x in values[c])
    ]
    # A word that is the same in all rows of a unit is said by the unit's label.
    varied = [
        c
        for c in columns
        if any(len({row[c] for unit, row in every if unit == label}) > 1 for label in units)
    ]
    told_apart = [c for c in varied if c in PLACES or c not in numeric]
    words = [c for c in told_apart if len(values[c]) <= FEW and c not in largest]
    largest = [c for c in told_apart if c in PLACES and c not in words]
    averaged = [c for c in varied if c in REPEATS or (c in told_apart and c not in words + largest)]
    numbers = [c for c in numeric if c not in words and c not in REPEATS]
    return Kinds(words, largest, averaged, numbers)


def _groups(every, kinds):
    """{(label, *words): rows}, only those with the largest of the places that have many values."""
    groups = {}
    for label, row in every:
        groups.setdefault((label, *(row[w] for w in kinds.words)), []).append(row)
    for column in kinds.largest:
        for group, rows in groups.items():
            top = max((number(row[column]) for row in rows), default=None)
            groups[group] = [row for row in rows if number(row[column]) == top]
    return groups


def _of_rows(column, rows):
    """What a line shows of a column: the mean, or of what describes rows the value they share."""
    if column in DESCRIBES:
        shared = {row[column] for row in rows}
        return number(shared.pop()) if len(shared) == 1 else None
    return mean(number(row[column]) for row in rows)


def _note(kinds, *, whole):
    """What the lines of a condensed table are, in words."""
    says = []
    if kinds.averaged and not whole:
        says.append(f"means over {', '.join(kinds.averaged)}")
    if kinds.largest:
        says.append(f"at the largest {', '.join(kinds.largest)} alone")
    return "; ".join(says)


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
