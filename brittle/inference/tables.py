"""The tables of a sweep: one CSV a prompt, to which models are added."""

import fcntl
import hashlib
import json
import os
from contextlib import contextmanager

from brittle.base.errors import UserError
from brittle.base.record import record_path
from brittle.base.tables import read_cells

COLUMNS = ["prompt", "model", "model_path", "output"]


def prompt_file(prompt):
    """The CSV's name: the sha256 of the prompt. The same prompt is always the same file, and none
    leaves the folder.
    """
    return hashlib.sha256(prompt.encode("utf-8")).hexdigest() + ".csv"


def read_table(path):
    """(rows, how) of a prompt's CSV and its record; both are empty where the file is not there.

    `how` says how each answer was made: {path of a model, with its adapter, filter and bits:
    settings}. Raises UserError where the file is no such table.
    """
    if not path.is_file():
        return [], {}
    try:
        rows = read_cells(path)
    except UserError:
        rows = []
    if not rows or list(rows[0]) != COLUMNS:
        wrong = f"{path} is not a table of {', '.join(COLUMNS)}"
        raise UserError(f"{wrong}. Move it away, or choose another --outdir.")
    try:
        record = json.loads(record_path(path).read_text(encoding="utf-8"))
        return rows, record["settings"]["answers"]
    except (OSError, ValueError, KeyError, TypeError):
        return rows, {}


def merged(rows, row):
    """`rows` with `row` in the place of its model's earlier one, or behind them."""
    key = (row["model"], row["model_path"])
    table, placed = [], False
    for earlier in rows:
        if (earlier["model"], earlier["model_path"]) != key:
            table.append(earlier)
        elif not placed:
            table.append(row)
            placed = True
    return table if placed else [*table, row]


@contextmanager
def locked(folder):
    """Hold the folder's lock: two sweeps that add to the same tables do so one after the other."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
