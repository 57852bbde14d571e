"""Make an unlearned model with every method, attack each, and compare them; called by create_all_unlearning_models.sh.

    ./unlearn/create_all_unlearning_models.sh                         every method on the mini family -> outputs/methods.csv
    uv run unlearn/create_all.py --methods ga,npo,rmu --no-attack     the same, some of them, without the attacks

The commands are the pipeline's own, so what one has made the other finds. A failed method is named, the others go on.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Optional

import typer

from brittle import cli
from brittle.errors import UserError
from brittle.methods import METHODS

MAKING, ATTACK = ("data", "base", "filtered", "unlearn"), ("tamper",)


def one_method(preset, rows, method):
    """The pipeline's tasks for one method, with names that tell the methods apart."""
    from brittle import steps

    made = steps.tasks(replace(preset, method=method, unlearned=[], given=set(preset.given)), rows)

    def renamed(name):
        return f"unlearn {method}" if name == "unlearn" else name

    return [replace(t, name=renamed(t.name), needs=[renamed(n) for n in t.needs]) for t in made]


def all_tasks(preset, rows, methods, attack):
    """Every task once: data and family, each method's model, the attacks, and the tables over them."""
    from brittle import results, steps

    rows = [row for row in rows if row["step"] in MAKING + (ATTACK if attack else ())]
    made = {task.name: task for method in methods for task in one_method(preset, rows, method)}
    made = sorted(made.values(), key=lambda t: (MAKING + ATTACK).index(t.step))
    root, last = Path(preset.root), [t.name for t in made]
    models = [str(results.unlearned_dir(root, preset.base, m)) for m in methods]
    if attack:
        command = ["eval/recovery.py", "--base", preset.base, "--filtered", preset.filtered]
        command += [part for model in models for part in ("--unlearned", model)]
        command += ["--root", str(root), "--outdir", str(root / "methods")]
        made.append(steps.Task("recovery", "recovery", "Held-out recovery", command, root / "methods" / "recovery.csv", last))
        last = [*last, "recovery"]
    command = ["unlearn/methods_table.py", "--model", preset.base, "--root", str(root), "--methods", ",".join(methods)]
    table = steps.Task("table", "table", "Methods", command, root / "methods.csv", last, takes_what_there_is=True)
    return [*made, table]


def main(
    preset: Annotated[str, typer.Option(help="mini, deep-ignorance, or a .toml file like those in experiment/presets.")] = "mini",
    methods: Annotated[Optional[str], typer.Option(help="Methods, with commas (all).")] = None,  # noqa: UP045
    base: Annotated[Optional[str], typer.Option(help="Base model, instead of the preset's.")] = None,  # noqa: UP045
    filtered: Annotated[Optional[str], typer.Option(help="Filtered model, instead of the preset's.")] = None,  # noqa: UP045
    root: Annotated[Optional[str], typer.Option(help="Root of the results.")] = None,  # noqa: UP045
    attack: Annotated[bool, typer.Option("--attack/--no-attack", help="Run the relearning attack on every model.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Make everything anew.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and why; run nothing.")] = False,
    jobs: Annotated[Optional[int], typer.Option(min=1, help="Runs side by side (2 on CPU, 1 on GPU).")] = None,  # noqa: UP045
):
    """Make every unlearned model that is missing, attack each, and end with a table."""
    from brittle import runner, steps

    chosen = [m.strip() for m in methods.split(",")] if methods else list(METHODS)
    unknown = [m for m in chosen if m not in METHODS]
    if unknown:
        raise UserError(f"--methods {unknown[0]}: no such method. Methods: {', '.join(METHODS)}.")
    read = steps.override(steps.read_preset(preset), base=base, filtered=filtered, root=root)
    if "unlearn" not in read.makes:
        read.makes = [*read.makes, "unlearn"]
    tasks = all_tasks(read, steps.read_steps(), chosen, attack)
    code = runner.run(tasks, Path(read.root), force=force, dry_run=dry_run, jobs=jobs)
    table = Path(read.root) / "methods.csv"
    if not dry_run and table.is_file():
        print(f"\n{table}\n{shown(table)}")
    return code


def shown(path):
    """A CSV as aligned text."""
    import csv

    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    cells = [[_short(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def _short(cell):
    try:
        return f"{float(cell):.3f}" if "." in cell else cell
    except ValueError:
        return cell


if __name__ == "__main__":
    cli.run(main)
