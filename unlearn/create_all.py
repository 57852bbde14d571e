"""Make an unlearned model with every method, attack each, and compare them.

    ./unlearn/create_all_unlearning_models.sh
        every method on the mini family -> outputs/methods.csv
    uv run unlearn/create_all.py --base B --filtered F --data DIR --methods ga,npo
        two methods on a model and data of your own
    uv run unlearn/create_all.py --base B --data DIR --methods ga,npo
        the same without a model that never saw the texts: recovery is then measured from chance
    uv run unlearn/create_all.py --methods ga,npo,rmu --no-attack
        some of them, without the attacks; weights that were removed are made again
    uv run unlearn/create_all.py --methods filter --no-attack
        the activation filter: fit, tune, bake and verify

Called by create_all_unlearning_models.sh. The commands are the pipeline's own, so what one has made
the other finds. A failed method is named, and the others go on.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import layout, options
from brittle.base.command import load_env, run
from brittle.base.disk import check_keep
from brittle.base.errors import UserError
from brittle.base.knobs import listed
from brittle.base.layout import is_method_file
from brittle.data.examples import DEFAULT, Reading

MAKING = ("data", "base", "filtered", "unlearn")  # steps, in the order of the work
ATTACK = ("tamper",)


def all_tasks(study, rows, names, *, attack, by_method=False):
    """Every task once: data and family, each method's model, the attacks, and the tables over all.

    The tables take in also what other methods have left in the same root. by_method: one method
    after the other, so that few models lie on the disk at a time.
    """
    from brittle.pipeline import methods, steps

    order = [*MAKING, *ATTACK] if attack else list(MAKING)
    rows = [row for row in rows if row["step"] in order]
    by_name = {task.name: task for name in names for task in methods.making(study, rows, name)}
    tasks = list(by_name.values())
    if not by_method:
        tasks.sort(key=lambda task: order.index(task.step))
    if attack:
        tasks.append(_recovery(study, names, [task.name for task in tasks]))
    root = Path(study.root)
    command = ["unlearn/methods_table.py", "--model", study.base, "--root", str(root)]
    if any(is_method_file(name) for name in names):
        command += ["--methods", ",".join(dict.fromkeys([*methods.NAMES, *names]))]
    table = steps.Task(
        name="table",
        step="table",
        title="Methods",
        command=command,
        output=root / "methods.csv",
        needs=[task.name for task in tasks],
        takes_what_there_is=True,
    )
    return [*tasks, table]


def _recovery(study, names, needs):
    """The task that compares all attacked models: those of `names`, and those attacked earlier."""
    from brittle.pipeline import methods, steps

    root = Path(study.root)
    command = ["eval/recovery.py", "--base", study.base]
    if study.filtered:
        command += ["--filtered", study.filtered]
    for name in dict.fromkeys([*methods.NAMES, *names]):
        model = str(layout.unlearned_dir(root, study.base, name))
        attacked = layout.step("tamper").path(root / layout.model_name(model))
        if name in names or attacked.is_file():
            command += ["--unlearned", model]
    outdir = root / "methods"
    command += ["--root", str(root), "--outdir", str(outdir)]
    output = outdir / layout.step("recovery").output
    return steps.Task("recovery", "recovery", "Recovery", command, output, needs)


@options.spread
def main(
    preset: options.Preset = "mini",
    methods: Annotated[str | None, typer.Option(help="Methods, with commas (all).")] = None,
    base: Annotated[str | None, typer.Option(help="Base model, instead of the preset's.")] = None,
    filtered: options.PresetFiltered = None,
    data: options.PresetData = None,
    root: options.PresetRoot = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="TOML file with a table a method, such as unlearn/search.py's best.toml."
        ),
    ] = None,
    attack: Annotated[
        bool, typer.Option("--attack/--no-attack", help="Run the relearning attack on every model.")
    ] = True,
    reading: Reading = DEFAULT,
    keep_weights: options.KeepWeights = "yes",
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
    from brittle.methods import chosen
    from brittle.models.twin import check_twin
    from brittle.pipeline import given, runner, steps
    from brittle.pipeline.methods import NAMES, check_config, with_config

    standing = places.enter_repository(Path(__file__).resolve().parents[1])
    load_env()
    preset, data, root = standing.preset(preset), standing.path(data), standing.path(root)
    base, filtered = standing.model(base), standing.model(filtered)
    config = standing.path(config)

    keep = check_keep(keep_weights)
    names = chosen(",".join(map(standing.method, listed(methods))), NAMES)
    unknown = [name for name in names if name not in NAMES and not is_method_file(name)]
    if unknown:
        raise UserError(
            f"--methods {unknown[0]}: no such method. Methods: {', '.join(NAMES)}, or "
            "path/to/mine.py:Mine."
        )
    study = steps.read_study(preset)
    own_base = base is not None and not is_same(base, study.base)
    for note in given.data_notes(study, base, data):
        print(note, flush=True)
    check_twin(base or study.base, filtered, [])
    if own_base and not filtered:  # it has no twin that could be trained
        filtered = ""
        if attack:
            print(given.NO_TWIN, flush=True)
    study = steps.override(study, base=base, filtered=filtered, data=data, root=root)
    if "unlearn" not in study.makes:
        study.makes = [*study.makes, "unlearn"]
    study.reading = reading.arguments()
    if config:
        check_config(config, names)
        study = with_config(study, config)
    tasks = all_tasks(study, steps.read_steps(), names, attack=attack, by_method=not keep)
    tasks = given.without_left_out(tasks, data)
    note = disk_note(study, tasks, keep=keep, refuse=not dry_run)
    if note:
        print(note, flush=True)
    status = runner.run(
        tasks,
        Path(study.root),
        force=force,
        dry_run=dry_run,
        jobs=jobs,
        accept_older_code=accept_older_code,
        on_end=None if keep else remover(tasks),
        whole=keep and not attack,
    )
    table = Path(study.root) / "methods.csv"
    if not dry_run and table.is_file():
        print(f"\n{table}\n{shown(table)}")
    return status


def making_models(tasks):
    """The tasks that leave an unlearned model; the chain of the filter has others too."""
    return [
        task for task in tasks if task.step == "unlearn" and task.output.parent.name == layout.INNER
    ]


def disk_note(study, tasks, *, keep, refuse):
    """A line on the weights that will be written; None where that is not known or nothing is.

    Raises UserError where the disk cannot hold them and `refuse` says so.
    """
    from brittle.base import disk

    size = disk.weights_size(study.base) if Path(study.base).is_dir() else 0
    due = [task for task in making_models(tasks) if task.why()]
    if not size or not due:
        return None
    # without keeping them there are two at a time: one is made while another is measured
    at_once = len(due) if keep else min(2, len(due))
    what = f"weights of {at_once} of {len(due)} models at a time"
    try:
        return disk.space_line(what, at_once * size, study.root)
    except UserError:
        if refuse:
            raise
        return f"note: {what} do not fit: {disk.shown(at_once * size)}."


def remover(tasks):
    """For the runner: deletes a model's weights once all that was asked for has been measured."""
    from brittle.base import disk
    from brittle.pipeline import runner

    makers = {str(task.output.parent): task for task in making_models(tasks)}
    readers = runner.readers_of(tasks)

    def remove(results):
        for folder, maker in makers.items():
            names = [maker.name, *(task.name for task in readers.get(folder, []))]
            ended = [results.get(name) for name in names]
            if not all(ended) or any(result.is_bad for result in ended):
                continue
            size = disk.remove_weights(folder)
            if size:
                print(f"  weights of {maker.name} removed: {disk.shown(size)}", flush=True)

    return remove


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
    "What runs": ("attack", "keep_weights", "force", "dry_run", "accept_older_code", "jobs"),
}


if __name__ == "__main__":
    run(main, HELP_GROUPS)
