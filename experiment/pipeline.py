"""Run the steps of steps.csv that are missing or out of date; called by pipeline.sh.

One process imports the heavy libraries once and forks a child for each step: a process of its own, without the start-up.
Independent steps run side by side, one thread each on CPU. A failed step is named, what does not need it goes on.
"""

from pathlib import Path
from typing import Annotated, Optional

import typer

from brittle.base import command
from brittle.base.errors import UserError

MaybeText = Optional[str]  # noqa: UP045


def main(
    preset: Annotated[
        str,
        typer.Option(
            help="mini, deep-ignorance, or a .toml file like those in experiment/presets."
        ),
    ] = "mini",
    base: Annotated[
        MaybeText,
        typer.Option(help="Base model: folder or Hugging Face id, instead of the preset's."),
    ] = None,
    filtered: Annotated[
        MaybeText, typer.Option(help="Filtered model, instead of the preset's.")
    ] = None,
    unlearned: Annotated[
        list[str] | None, typer.Option(help="Unlearned model(s), instead of making one.")
    ] = None,
    method: Annotated[
        MaybeText, typer.Option(help="Method of the unlearned model that is made.")
    ] = None,
    data: Annotated[
        MaybeText,
        typer.Option(help="Data folder, instead of the preset's, which is then not made."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run these steps of steps.csv alone (repeatable).")
    ] = None,
    root: Annotated[MaybeText, typer.Option(help="Root of the results.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run every step, also those that are up to date.")
    ] = False,
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
        int | None, typer.Option(min=1, help="Steps side by side (2 on CPU, 1 on GPU).")
    ] = None,
):
    """Run the study: every step that is missing or out of date, then the report."""
    from brittle.pipeline import given, runner, steps

    chosen, own = (
        steps.read_preset(preset),
        {"base": base, "filtered": filtered, "unlearned": unlearned, "method": method},
    )
    notes = given.check(chosen, **own, data=data)
    chosen = steps.override(chosen, **own, data=data, root=root)
    rows = steps.read_steps()
    for step in only or []:
        if step not in {row["step"] for row in rows}:
            raise UserError(
                f"--only {step}: no such step. Steps: {', '.join(row['step'] for row in rows)}."
            )
    wanted = [t for t in steps.tasks(chosen, rows) if not only or t.step in only]
    if not wanted:
        raise UserError(
            f"--only {', '.join(only)}: preset {chosen.name} and the models given leave nothing of it to run."
        )
    for note in notes:
        print(note, flush=True)
    return runner.run(
        wanted,
        Path(chosen.root),
        force=force,
        dry_run=dry_run,
        jobs=jobs,
        accept_older_code=accept_older_code,
    )


if __name__ == "__main__":
    command.run(main)
