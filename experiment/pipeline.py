"""Run the steps of steps.csv that are missing or out of date; called by pipeline.sh.

One process imports the heavy libraries once and forks a child for each step: a process of its own,
without the start-up. Independent steps run side by side, one thread each on CPU. A failed step is
named, what does not need it goes on.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.data.examples import DEFAULT, Reading

MaybeText = str | None


@options.spread
def main(
    preset: options.Preset = "mini",
    base: Annotated[
        MaybeText,
        typer.Option(help="Base model: folder or Hugging Face id, instead of the preset's."),
    ] = None,
    source: Annotated[
        MaybeText,
        typer.Option(
            "--from", help="Teach this model the facts and study its family (preset injected)."
        ),
    ] = None,
    filtered: options.PresetFiltered = None,
    unlearned: Annotated[
        list[str] | None, typer.Option(help="Unlearned model(s), instead of making one.")
    ] = None,
    method: Annotated[
        MaybeText, typer.Option(help="Method of the unlearned model that is made.")
    ] = None,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls",
            help="Compare Base with two fine-tunes of the unlearned model's size as well.",
        ),
    ] = False,
    data: options.PresetData = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run these steps of steps.csv alone (repeatable).")
    ] = None,
    root: options.PresetRoot = None,
    reading: Reading = DEFAULT,
    force: Annotated[
        bool, typer.Option("--force", help="Run every step, also those that are up to date.")
    ] = False,
    dry_run: options.DryRun = False,
    accept_older_code: options.AcceptOlderCode = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Steps side by side (2 on CPU, 1 on GPU).")
    ] = None,
):
    """Run the study: every step that is missing or out of date, then the report."""
    from brittle.base import places
    from brittle.pipeline import given, runner, steps

    standing = places.enter_repository(Path(__file__).resolve().parents[1])
    command.load_env()
    preset, data, root = standing.preset(preset), standing.path(data), standing.path(root)
    base, filtered = standing.model(base), standing.model(filtered)
    method = standing.method(method)
    source = standing.model(source)
    unlearned = [standing.model(model) for model in unlearned or []] or None
    if source is not None:
        given.check_source(source, base, filtered)
        preset = "injected" if preset == "mini" else preset
    study = steps.start_from(steps.read_study(preset), source)
    filtered, data = given.complete(study, base, filtered, unlearned, data)
    own = {"base": base, "filtered": filtered, "unlearned": unlearned, "method": method}
    own["data"] = data
    notes = given.check_given(study, **own)
    study = steps.override(study, **own, root=root)
    study.reading = reading.arguments()
    rows = steps.read_steps()
    if controls:
        study.makes = (*study.makes, "control")
        rows, lacking = given.with_controls(rows, data)
        notes += lacking
    names = [row["step"] for row in rows]
    for step in only or []:
        if step not in names:
            raise UserError(f"--only {step}: no such step. Steps: {', '.join(names)}.")
    wanted = [task for task in steps.tasks(study, rows) if not only or task.step in only]
    if not wanted:
        raise UserError(
            f"--only {', '.join(only)}: preset {study.name} and the models given leave nothing "
            "of it to run."
        )
    for note in notes:
        print(note, flush=True)
    wanted = given.without_left_out(wanted, data)
    if not wanted:
        return 0
    return runner.run(
        wanted,
        Path(study.root),
        force=force,
        dry_run=dry_run,
        jobs=jobs,
        accept_older_code=accept_older_code,
    )


HELP_GROUPS = {
    "What runs": ("only", "force", "dry_run", "accept_older_code", "jobs"),
}


if __name__ == "__main__":
    command.run(main, HELP_GROUPS)
