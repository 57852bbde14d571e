"""Make an unlearned model with every method, attack each, and compare them.

    ./unlearn/create_all_unlearning_models.sh
        every method on the mini family -> outputs/methods.csv
    uv run unlearn/create_all.py --base B --filtered F --data DIR --methods ga,npo
        two methods on a model and data of your own
    uv run unlearn/create_all.py --methods ga,npo,rmu --no-attack
        the same, some of them, without the attacks
    uv run unlearn/create_all.py --methods filter --no-attack
        the activation filter: fit, tune, bake and verify

Called by create_all_unlearning_models.sh. The commands are the pipeline's own, so what one has made
the other finds. A failed method is named, and the others go on.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import options
from brittle.base.command import load_env, run
from brittle.base.errors import UserError

MAKING = ("data", "base", "filtered", "unlearn")  # steps, in the order of the work
ATTACK = ("tamper",)


def all_tasks(study, rows, names, *, attack):
    """Every task once: data and family, each method's model, the attacks, and the tables over all.

    The tables take in also what other methods have left in the same root.
    """
    from brittle.pipeline import methods, steps

    order = [*MAKING, *ATTACK] if attack else list(MAKING)
    rows = [row for row in rows if row["step"] in order]
    by_name = {task.name: task for name in names for task in methods.making(study, rows, name)}
    tasks = sorted(by_name.values(), key=lambda task: order.index(task.step))
    if attack:
        tasks.append(_recovery(study, names, [task.name for task in tasks]))
    root = Path(study.root)
    table = steps.Task(
        name="table",
        step="table",
        title="Methods",
        command=["unlearn/methods_table.py", "--model", study.base, "--root", str(root)],
        output=root / "methods.csv",
        needs=[task.name for task in tasks],
        takes_what_there_is=True,
    )
    return [*tasks, table]


def _recovery(study, names, needs):
    """The task that compares all attacked models: those of `names`, and those attacked earlier."""
    from brittle.base import layout
    from brittle.pipeline import methods, steps

    root = Path(study.root)
    command = ["eval/recovery.py", "--base", study.base, "--filtered", study.filtered]
    for name in methods.NAMES:
        model = str(layout.unlearned_dir(root, study.base, name))
        attacked = layout.step("tamper").path(root / layout.model_name(model))
        if name in names or attacked.is_file():
            command += ["--unlearned", model]
    outdir = root / "methods"
    command += ["--root", str(root), "--outdir", str(outdir)]
    output = outdir / layout.step("recovery").output
    return steps.Task("recovery", "recovery", "Recovery over Filtered", command, output, needs)


def main(
    preset: options.Preset = "mini",
    methods: Annotated[str | None, typer.Option(help="Methods, with commas (all).")] = None,
    base: Annotated[str | None, typer.Option(help="Base model, instead of the preset's.")] = None,
    filtered: options.PresetFiltered = None,
    data: options.PresetData = None,
    root: options.PresetRoot = None,
    attack: Annotated[
        bool, typer.Option("--attack/--no-attack", help="Run the relearning attack on every model.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Make everything anew.")] = False,
    dry_run: options.DryRun = False,
    accept_older_code: options.AcceptOlderCode = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side (2 on CPU, 1 on GPU).")
    ] = None,
):
    """Make every unlearned model that is missing, attack each, and end with a table."""
    from brittle.base import places
    from brittle.base.layout import is_same
    from brittle.pipeline import given, runner, steps
    from brittle.pipeline.methods import NAMES

    standing = places.enter_repository(Path(__file__).resolve().parents[1])
    load_env()
    preset, data, root = standing.preset(preset), standing.path(data), standing.path(root)
    base, filtered = standing.model(base), standing.model(filtered)

    names = [name.strip() for name in methods.split(",")] if methods else NAMES
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise UserError(f"--methods {unknown[0]}: no such method. Methods: {', '.join(NAMES)}.")
    study = steps.read_study(preset)
    own_base = base is not None and not is_same(base, study.base)
    if own_base and filtered is None and attack:
        raise UserError(
            f"--base {base} needs --filtered, which the attacks are compared with. "
            "Give it, or --no-attack."
        )
    for note in given.data_notes(study, base, data):
        print(note, flush=True)
    study = steps.override(study, base=base, filtered=filtered, data=data, root=root)
    if "unlearn" not in study.makes:
        study.makes = [*study.makes, "unlearn"]
    # a model of one's own has no twin that could be trained
    rows = [row for row in steps.read_steps() if not (own_base and row["step"] == "filtered")]
    tasks = all_tasks(study, rows, names, attack=attack)
    status = runner.run(
        given.without_left_out(tasks, data),
        Path(study.root),
        force=force,
        dry_run=dry_run,
        jobs=jobs,
        accept_older_code=accept_older_code,
    )
    table = Path(study.root) / "methods.csv"
    if not dry_run and table.is_file():
        print(f"\n{table}\n{shown(table)}")
    return status


def shown(path):
    """A CSV as aligned text."""
    import csv

    from brittle.base.tables import aligned

    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    return "\n".join(aligned([[_short(cell) for cell in row] for row in rows]))


def _short(cell):
    """A cell's text, a number with a point in three decimals."""
    try:
        return f"{float(cell):.3f}" if "." in cell else cell
    except ValueError:
        return cell


HELP_GROUPS = {
    "What runs": ("attack", "force", "dry_run", "accept_older_code", "jobs"),
}


if __name__ == "__main__":
    run(main, HELP_GROUPS)
