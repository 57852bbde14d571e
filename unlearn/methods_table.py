"""Which methods forget, what do they cost, and how much comes back under attack? One row a method -> outputs/methods.csv.

    uv run unlearn/methods_table.py --model outputs/models/mini-base
    uv run unlearn/methods_table.py --model outputs/models/mini-base --markdown     the table of docs/methods.md, to stdout

Reads the records of unlearn.py, and outputs/methods/recovery.csv (eval/recovery.py) where it is there. Method, type, knobs,
formula and paper of the markdown come from the code. A method without a model has no row in the CSV.
"""

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.base.tables import read_rows
from brittle.methods import METHODS

COLUMNS = [
    "method",
    "forget_accuracy",
    "retain_accuracy",
    "general_accuracy",
    "recovery_over_filtered",
    "steps",
    "seconds",
]


def recoveries(path):
    """{model: recovery_over_filtered} of a recovery.csv, empty where there is none."""
    return {row["model"]: row.get("recovery_over_filtered") for row in read_rows(path)}


def rows(root, model, methods):
    """A row a method whose model is there: accuracies as made, recovery over Filtered under the attack, steps and seconds."""
    from brittle.base import layout
    from brittle.base.layout import model_name, unlearned_dir
    from brittle.filters.folder import table_row

    recovered = recoveries(root / "methods" / layout.step("recovery").output)
    for method in methods:
        folder = unlearned_dir(root, model, method)
        record = folder / "training_history.run.json"
        if not record.is_file():
            continue
        made = json.loads(record.read_text(encoding="utf-8"))
        after = made["settings"]["accuracy"]["after"]
        yield {
            "method": method,
            **{f"{split}_accuracy": after.get(split) for split in ("forget", "retain", "general")},
            "recovery_over_filtered": recovered.get(model_name(str(folder))),
            "steps": made["rows"]["training_history.csv"],
            "seconds": made["seconds"],
        }
    if (row := table_row(root, model)) is not None:  # no method: hooks/ makes it
        yield {**row, "recovery_over_filtered": recovered.get(f"{model_name(model)}__{layout.FILTER}")}


def main(
    model: options.Model,
    root: Annotated[Path, typer.Option(help="Root of the results.")] = Path("outputs"),
    methods: Annotated[Optional[str], typer.Option(help="Methods, with commas (all).")] = None,  # noqa: UP045
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of docs/methods.md; write nothing.")
    ] = False,
):
    """Compare the unlearned models of all methods."""
    from brittle.base import layout
    from brittle.base.record import Run
    from brittle.filters.folder import table_files
    from brittle.report import docs_tables

    chosen = [m.strip() for m in methods.split(",")] if methods else list(METHODS)
    table = list(rows(root, model, chosen))
    if as_markdown:
        print(docs_tables.methods_table(table))
        return
    if not table:
        raise UserError(
            f"no unlearned model of {model} in {root}. Make them: ./unlearn/create_all_unlearning_models.sh"
        )
    homes = {method: layout.unlearned_dir(root, model, method) for method in chosen}
    wanted = [home / "training_history.run.json" for home in homes.values()]
    wanted += [root / "methods" / layout.step("recovery").output, *table_files(root, model)]
    absent = [str(path) for path in wanted if not path.is_file()]
    with Run(root, [p for p in wanted if p.is_file()], settings={"absent": absent}) as run:
        run.csv("methods.csv", COLUMNS, table)


if __name__ == "__main__":
    command.run(main)
