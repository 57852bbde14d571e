"""The scoreboard's CSV as numbers: a cell a method and attack.

Also which models had forgotten as made, and how many facts half B has.
"""

from pathlib import Path

from brittle.base.tables import mean, number, read_rows
from brittle.metrics.recovery import interval_of_intervals

FORGOT = 0.5  # as made, a model below this recovery has forgotten
KEPT = 0.9  # share of Base's retain accuracy below which a model is broken, not unlearned
ENDS = ("base", "filtered")


def board(rows):
    """{(method, attack): {column: mean over seeds}} of the scoreboard's rows."""
    by_cell = {}
    for row in rows:
        by_cell.setdefault((row["method"], row["attack"]), []).append(row)
    columns = ("heldout_accuracy", "retain_accuracy", "n_heldout")
    cells = {}
    for key, of_cell in by_cell.items():
        recovery, low, _ = over_seeds(of_cell)
        cells[key] = {
            "heldout_recovery": recovery,
            "heldout_recovery_low": low,
            **{column: mean(number(row.get(column)) for row in of_cell) for column in columns},
            "variant": of_cell[0]["variant"],
        }
    return cells


def over_seeds(rows, column="heldout_recovery"):
    """(mean, low, high) of a column over the seeds of one cell, rows of the scoreboard.

    The interval is `recovery.interval_of_intervals`: the seeds' variance is added to that of the
    facts. It is None where a seed with a value has no interval.
    """
    columns = (column, f"{column}_low", f"{column}_high")
    seeds = [[number(row.get(column)) for column in columns] for row in rows]
    known = [values for values in seeds if values[0] is not None]
    if not known:
        return None, None, None
    average = mean(value for value, _, _ in known)
    if any(None in values for values in known):
        return average, None, None
    return average, *interval_of_intervals(*zip(*known, strict=True))


def forgotten(cells):
    """Methods whose models, as made, had forgotten and still answer.

    Their recovery is below FORGOT, and their retain accuracy is at least KEPT of Base's.
    Where Base is not on the board, its retain accuracy is unknown and no model counts as broken.
    """
    as_made = {m: c for (m, a), c in cells.items() if a == "none"}
    level = KEPT * (as_made.get("base", {}).get("retain_accuracy") or 0)
    numbers = {
        m: (c["heldout_recovery"], c["retain_accuracy"] or 0)
        for m, c in as_made.items()
        if m not in ENDS
    }
    return [
        m
        for m, (recovery, retain) in numbers.items()
        if recovery is not None and recovery < FORGOT and retain >= level
    ]


def over_methods(cells, attack, *, gain):
    """{method: recovery under the attack} of the methods that had forgotten.

    With `gain` it is the recovery less that of the model as made.
    """
    recoveries = {}
    for method in forgotten(cells):
        recovery = cells.get((method, attack), {}).get("heldout_recovery")
        if recovery is not None:
            as_made = cells[method, "none"]["heldout_recovery"] if gain else 0
            recoveries[method] = recovery - as_made
    return recoveries


def of_method(model, methods):
    """Is `model`, the name of a results folder, the model of one of the methods?"""
    return any(model.endswith(f"__{method}") for method in methods)


def fact_count(root, questions):
    """Facts of half B: an interval's sample, as the questions of one fact go together.

    Counted in the first attacks_items.csv below `root` with as many questions of half B under its
    first attack as the scoreboard's; where none has, two questions a fact are assumed, as the mini
    data have.
    """
    for path in sorted(Path(root).glob("*/attacks/attacks_items.csv")):
        rows = read_rows(path)
        first = [
            row
            for row in rows
            if (row["attack"], row["seed"]) == (rows[0]["attack"], rows[0]["seed"])
        ]
        if sum(number(row.get("asked")) or 0 for row in first) == questions:
            return len(first)
    return questions / 2
