"""CSV tables: how they are written, how they are read, and what an empty cell means (a value that does not exist)."""

import csv
import math
from pathlib import Path

from brittle.base.errors import UserError


def write_csv(path, columns, rows):
    """Rows (dicts with exactly `columns`) as CSV, floats in full precision, None as an empty field. Returns the row count."""
    count = 0
    with open(path, "w", newline="", encoding="utf-8") as file:
        quoting = (
            csv.QUOTE_MINIMAL,
            csv.QUOTE_ALL,
        )  # before Python 3.13 the first leaves a lone \r bare, which ends the row
        plain, quoted = (
            csv.DictWriter(file, columns, lineterminator="\n", quoting=q) for q in quoting
        )
        plain.writeheader()
        for row in rows:
            missing = set(columns) - set(row)
            assert not missing, f"row without {sorted(missing)}"
            (
                quoted if any(isinstance(v, str) and "\r" in v for v in row.values()) else plain
            ).writerow(row)
            count += 1
    return count


def aligned(rows):
    """Lines of a table whose columns stand below one another; rows of texts, all of one length."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _value(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or math.nan


def read_table(path, columns=()):
    """A CSV as a DataFrame, numbers to the last digit. Raises UserError where one of `columns` is missing or there is no row."""
    import pandas as pd

    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        table = [{key: _value(text) for key, text in row.items()} for row in reader]
    missing = [c for c in columns if c not in (reader.fieldnames or [])]
    if missing or not table:
        raise UserError(
            f"{path} has {'no column ' + missing[0] if missing else 'no row'}. Delete it and run its step again."
        )
    return pd.DataFrame(table, columns=reader.fieldnames)


def ratio(part, whole):
    """part / whole; 0 for 0 / 0 and None (an empty CSV field) for what is undefined."""
    if part is None or whole is None:
        return None
    return part / whole if whole else (0.0 if part == 0 else None)


def root_sum_square(values):
    """sqrt(sum of squares); None where one of the values is not known."""
    return None if any(v is None for v in values) else math.sqrt(math.fsum(v * v for v in values))


def of_seed(table, seed):
    """The rows of one seed, which are those that a figure shows."""
    return [row for row in table if row["seed"] == seed]


def read_csv(path):
    """Rows of a CSV as dicts of text; none where there is no such file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def number(text):
    """The finite number that `text` holds, or None."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def mean(values):
    """Mean of the known values; an empty cell where there is none."""
    known = [v for v in values if v is not None]
    return math.fsum(known) / len(known) if known else ""


def read_rows(path):
    if not Path(path).is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def value(row, column):
    """The number in a cell, or None."""
    try:
        number = float(row[column])
    except (KeyError, TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
