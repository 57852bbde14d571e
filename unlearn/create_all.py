"""Make an unlearned model with every method, attack each, and compare them; called by create_all_unlearning_models.sh.

    ./unlearn/create_all_unlearning_models.sh                         every method on the mini family -> outputs/methods.csv
    uv run unlearn/create_all.py --methods ga,npo,rmu --no-attack     the same, some of them, without the attacks
    uv run unlearn/create_all.py --methods filter --no-attack         the activation filter: fit, tune, bake and verify

The commands are the pipeline's own, so what one has made the other finds. A failed method is named, the others go on.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Optional

import typer

from brittle.base.command import run
from brittle.base.errors import UserError
from brittle.base.layout import FILTER
from brittle.methods import METHODS

KNOWN = (*METHODS, FILTER)
MAKING, ATTACK = ("data", "base", "filtered", "unlearn"), ("tamper",)


def one_method(preset, rows, method):
    """The pipeline's tasks for one method, with names that tell the methods apart."""
    from brittle.pipeline import steps

    made = steps.tasks(replace(preset, method=method, unlearned=[], given=set(preset.given)), rows)

    def renamed(name):
        return f"unlearn {method}" if name == "unlearn" else name

    made = [replace(t, name=renamed(t.name), needs=[renamed(n) for n in t.needs]) for t in made]
    if method == FILTER:
        made = [
            part for t in made for part in (filter_chain(preset, t) if t.step == "unlearn" else [t])
        ]
    return made


def filter_chain(preset, task):
    """Fit, tune, bake and verify in place of the task `unlearn filter`, whose name the baking takes."""
    from brittle.filters.folder import folder_of
    from brittle.pipeline.steps import Task

    home = folder_of(preset.root, preset.base).parent
    filter_dir, baked = str(home / "filter"), task.output.parent
    texts = ["--forget", f"{preset.data}/forget.txt", "--retain", f"{preset.data}/retain.txt"]
    base, of = ["--model", preset.base], ["--filter", filter_dir]
    chain = [
        ("fit filter", "hooks/fit_filter.py", [*texts, "--out", filter_dir], home / "filter" / "spectrum.csv"),
        ("tune filter", "hooks/tune_strength.py", [*of, *texts], home / "filter" / "strength.csv"),
        (task.name, "hooks/bake_filter.py", [*of, "--out", str(baked)], baked / "bake.csv"),
        ("verify filter", "hooks/verify_filter.py", [*of, "--baked", str(baked), "--outdir", str(home / "verify"), "--data",
                                                     preset.data], home / "verify" / "verify.csv"),
    ]  # fmt: skip
    before = [task.needs, *([name] for name, *_ in chain)]
    return [
        Task(name, task.step, "Filter", [script, *base, *rest], output, needs)
        for (name, script, rest, output), needs in zip(chain, before, strict=False)
    ]


def all_tasks(preset, rows, methods, attack):
    """Every task once: data and family, each method's model, the attacks, and the tables over these and over what other
    methods have left in the same root."""
    from brittle.base import layout
    from brittle.base.layout import model_name, unlearned_dir
    from brittle.pipeline import steps

    rows = [row for row in rows if row["step"] in MAKING + (ATTACK if attack else ())]
    made = {task.name: task for method in methods for task in one_method(preset, rows, method)}
    made = sorted(made.values(), key=lambda t: (MAKING + ATTACK).index(t.step))
    root, last = Path(preset.root), [t.name for t in made]
    models = {m: str(unlearned_dir(root, preset.base, m)) for m in KNOWN}
    attacked = [
        model
        for m, model in models.items()
        if m in methods or layout.step("tamper").path(root / model_name(model)).is_file()
    ]
    if attack:
        command = ["eval/recovery.py", "--base", preset.base, "--filtered", preset.filtered]
        command += [part for model in attacked for part in ("--unlearned", model)]
        command += ["--root", str(root), "--outdir", str(root / "methods")]
        made.append(
            steps.Task(
                "recovery",
                "recovery",
                "Recovery over Filtered",
                command,
                root / "methods" / layout.step("recovery").output,
                last,
            )
        )
        last = [*last, "recovery"]
    command = ["unlearn/methods_table.py", "--model", preset.base, "--root", str(root)]
    table = steps.Task(
        "table", "table", "Methods", command, root / "methods.csv", last, takes_what_there_is=True
    )
    return [*made, table]


def main(
    preset: Annotated[
        str,
        typer.Option(
            help="mini, deep-ignorance, or a .toml file like those in experiment/presets."
        ),
    ] = "mini",
    methods: Annotated[Optional[str], typer.Option(help="Methods, with commas (all).")] = None,  # noqa: UP045
    base: Annotated[
        str | None, typer.Option(help="Base model, instead of the preset's.")
    ] = None,
    filtered: Annotated[
        str | None, typer.Option(help="Filtered model, instead of the preset's.")
    ] = None,
    root: Annotated[Optional[str], typer.Option(help="Root of the results.")] = None,  # noqa: UP045
    attack: Annotated[
        bool, typer.Option("--attack/--no-attack", help="Run the relearning attack on every model.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Make everything anew.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run and why; run nothing.")
    ] = False,
    accept_older_code: Annotated[
        bool,
        typer.Option(
            "--accept-older-code",
            help="Keep what was made by older code of brittle/; the report marks it.",
        ),
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side (2 on CPU, 1 on GPU).")
    ] = None,
):
    """Make every unlearned model that is missing, attack each, and end with a table."""
    from brittle.pipeline import runner, steps

    chosen = [m.strip() for m in methods.split(",")] if methods else KNOWN
    unknown = [m for m in chosen if m not in KNOWN]
    if unknown:
        raise UserError(f"--methods {unknown[0]}: no such method. Methods: {', '.join(KNOWN)}.")
    read = steps.override(steps.read_preset(preset), base=base, filtered=filtered, root=root)
    if "unlearn" not in read.makes:
        read.makes = [*read.makes, "unlearn"]
    tasks = all_tasks(read, steps.read_steps(), chosen, attack)
    code = runner.run(
        tasks,
        Path(read.root),
        force=force,
        dry_run=dry_run,
        jobs=jobs,
        accept_older_code=accept_older_code,
    )
    table = Path(read.root) / "methods.csv"
    if not dry_run and table.is_file():
        print(f"\n{table}\n{shown(table)}")
    return code


def shown(path):
    """A CSV as aligned text."""
    import csv

    from brittle.base.tables import aligned

    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    return "\n".join(aligned([[_short(cell) for cell in row] for row in rows]))


def _short(cell):
    try:
        return f"{float(cell):.3f}" if "." in cell else cell
    except ValueError:
        return cell


if __name__ == "__main__":
    run(main)
