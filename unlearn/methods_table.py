"""Which methods forget, what do they cost, and how much comes back under attack?

    uv run unlearn/methods_table.py --model outputs/models/mini-base
    uv run unlearn/methods_table.py --model outputs/models/mini-base --markdown

Writes one row a method to outputs/methods.csv. With --markdown it prints the table of
docs/methods.md instead. Reads the records of unlearn.py, and outputs/methods/recovery.csv
(eval/recovery.py) where it is there. Method, type, knobs, formula and paper of the markdown come
from the code. A method without a model has no row in the CSV.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, layout, options
from brittle.base.errors import UserError
from brittle.base.tables import aligned, read_rows
from brittle.methods import chosen

COLUMNS = [
    "method",
    "forget_accuracy",
    "retain_accuracy",
    "general_accuracy",
    "recovery_over_filtered",
    "recovery_from_chance",
    "steps",
    "seconds",
    "flops",
    "label_share",
    "train_seconds",
    "peak_memory_mb",
]


RECOVERIES = ("recovery_over_filtered", "recovery_from_chance")  # one of them, by the study


def recoveries(path):
    """{model: {column: RECOVERIES}} of a recovery.csv, empty where there is none."""
    return {row["model"]: {name: row.get(name) for name in RECOVERIES} for row in read_rows(path)}


def recovery_file(root):
    """What eval/recovery.py wrote over all methods."""
    return root / "methods" / layout.step("recovery").output


def rows(root, model, names):
    """A row a method whose model is there.

    Accuracies as made, recovery under the attack (from chance where there is no Filtered), steps
    and seconds.
    """
    from brittle.pipeline import methods

    recovered = recoveries(recovery_file(root))
    for name in names:
        row = methods.outcome(root, model, name)
        if row is not None:
            folder = layout.unlearned_dir(root, model, name)
            blank = dict.fromkeys(RECOVERIES)
            yield row | recovered.get(layout.model_name(str(folder)), blank)


def main(
    model: options.Model,
    root: Annotated[Path, typer.Option(help="Root of the results.")] = Path("outputs"),
    methods: Annotated[str | None, typer.Option(help="Methods, with commas (all).")] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of docs/methods.md; write nothing.")
    ] = False,
):
    """Compare the unlearned models of all methods."""
    from brittle.base.record import Run
    from brittle.pipeline.methods import UNTRAINED, how_to_make, records
    from brittle.report import docs_tables

    asked = chosen(methods)
    names = [name for name in asked if name not in UNTRAINED] + list(UNTRAINED)
    table = list(rows(root, model, names))
    if as_markdown:
        print(docs_tables.methods_table(table))
        return
    if not table:
        raise UserError(
            f"no unlearned model of {model} in {root}. "
            f"Make them with: {how_to_make(root, model, asked if methods else [])}"
        )
    wanted = [path for name in names for path in records(root, model, name)]
    wanted.append(recovery_file(root))
    absent = [str(path) for path in wanted if not path.is_file()]
    present = [path for path in wanted if path.is_file()]
    with Run(root, present, settings={"absent": absent}) as run:
        run.csv("methods.csv", COLUMNS, table)
    print("\n".join(aligned([COLUMNS, *([shown(row[c]) for c in COLUMNS] for row in table)])))


def shown(value):
    """A cell as it is printed: a number in three decimals, "-" for no value."""
    if value is None:
        return "-"
    if isinstance(value, int) and value > 10**9:
        return f"{value:.2e}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    command.run(main)
