"""CSV tables: how they are written, how they are read, and what an empty cell means.

An empty cell is a value that does not exist. Three readers build on one another: `read_cells` gives
the cells as they stand in the file, `read_rows` gives them their types, and `read_table` makes a
DataFrame of those rows.
"""

import csv
import math
import re
from pathlib import Path

from brittle.base.errors import UserError

INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")  # "007" is a name, not the number 7
DECIMAL = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
WORDS = {
    "": None,
    "True": True,
    "False": False,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
}
LONGEST_CELL = 1 << 30  # characters; Python's own limit of 131,072 is too short for a model's texts


def write_csv(path, columns, rows):
    """Write rows (dicts with exactly `columns`) as CSV and return how many there were.

    Floats keep full precision; None is an empty cell.
    """
    count = 0
    with open(path, "w", newline="", encoding="utf-8") as file:
        # Before Python 3.13 QUOTE_MINIMAL leaves a lone \r unquoted, which ends the row.
        plain = csv.DictWriter(file, columns, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
        quoted = csv.DictWriter(file, columns, lineterminator="\n", quoting=csv.QUOTE_ALL)
        plain.writeheader()
        for row in rows:
            missing = set(columns) - set(row)
            assert not missing, f"row without {sorted(missing)}"
            has_return = any(isinstance(v, str) and "\r" in v for v in row.values())
            writer = quoted if has_return else plain
            writer.writerow(row)
            count += 1
    return count


def read_cells(path):
    """Rows of a CSV as dicts of the text in each cell; no rows where there is no such file.

    A byte order mark, which spreadsheets write, is left out. Raises UserError where the file is no
    UTF-8, a quote stays open, or a row has more or fewer cells than the head.
    """
    path = Path(path)
    if not path.is_file():
        return []
    csv.field_size_limit(LONGEST_CELL)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [cells for cells in csv.reader(file, strict=True) if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV table: {error}. Mend it, or make it again.") from None
    if not lines:
        return []
    head, *body = lines
    for number, cells in enumerate(body, 1):
        if len(cells) != len(head):
            raise UserError(
                f"{path}: row {number} has {len(cells)} cells under {len(head)} columns. "
                "Mend it, or make it again."
            )
    return [dict(zip(head, cells, strict=True)) for cells in body]


def parse_cell(text):
    """The value that `write_csv` wrote as `text`: int, float, bool, text, or None for no text."""
    if text in WORDS:
        return WORDS[text]
    if INTEGER.fullmatch(text):
        return int(text)
    if DECIMAL.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


def read_rows(path, text=(), needs=()):
    """Rows of a CSV as dicts of typed cells (`parse_cell`); no rows where there is no such file.

    text: columns that hold names or prose. Their cells stay text where they look like numbers; an
    empty one is None.
    needs: columns that must be there. Raises UserError where one of them is missing, or where there
    is no row.
    """
    rows = read_cells(path)
    if needs:
        check_columns(path, rows, needs)
    typed = []
    for row in rows:
        names = {name: cell or None for name, cell in row.items() if name in text}
        typed.append({name: parse_cell(cell) for name, cell in row.items()} | names)
    return typed


def check_columns(path, rows, needs):
    """Raise UserError where the CSV at `path` has no row, or lacks one of the columns `needs`."""
    missing = [name for name in needs if rows and name not in rows[0]]
    if missing or not rows:
        what = f"no column {missing[0]}" if missing else "no row"
        raise UserError(f"{path} has {what}. Delete it and run its step again.")


def read_table(path, needs=()):
    """A CSV as a DataFrame, floats to the last digit, empty cells as NaN.

    Raises UserError where one of the columns `needs` is missing, or where there is no row.
    """
    import pandas as pd

    rows = read_rows(path, needs=needs)
    check_columns(path, rows, needs)
    known = [{k: math.nan if v is None else v for k, v in row.items()} for row in rows]
    return pd.DataFrame(known, columns=list(rows[0]))


def number(cell):
    """`cell` where it is a finite number, else None. Text, True and False are no numbers."""
    if isinstance(cell, bool) or not isinstance(cell, (int, float)):
        return None
    return cell if math.isfinite(cell) else None


def mean(values):
    """Mean of the values that are known (not None); None where none is."""
    known = [v for v in values if v is not None]
    return math.fsum(known) / len(known) if known else None


def show_interval(low, high, sign=""):
    """An interval as text, `[0.12, 0.34]`; sign: "+" shows the sign of what is above 0, too."""
    if low is None or high is None:
        return "[no interval]"
    return f"[{low:{sign}.2f}, {high:{sign}.2f}]"


def aligned(rows):
    """Lines of a table whose columns stand below one another; rows of texts, all of one length."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def ratio(part, whole):
    """part / whole; 0 for 0 / 0, and None (an empty cell) for what is undefined."""
    if part is None or whole is None:
        return None
    if whole:
        return part / whole
    return 0.0 if part == 0 else None


def root_sum_square(values):
    """sqrt(sum of squares); None where one of the values is not known."""
    if any(v is None for v in values):
        return None
    return math.sqrt(math.fsum(v * v for v in values))


def of_seed(table, seed):
    """The rows of one seed, which are those that a figure shows."""
    return [row for row in table if row["seed"] == seed]
