"""Why does a filter forget the retain set instead of the forget set? Measures each known cause, says which applies, and the fix.

    uv run hooks/explain_filter.py --model outputs/models/mini-base
    uv run hooks/explain_filter.py --model M --filter DIR --applied-at pre_norm --strength 0.3

Reads a filter (at its strength, or at --strength) and the texts it was fitted on: energies of both sets in the basis, the lead
that the unfiltered model's answers have, whether the map is a projection, the space, renormalisation, reflection, pooling, and
the slope of the forget loss at strength 0. Writes causes.csv; a cause that cannot be measured has empty cells.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options


def main(
    model: options.Model,
    filter_dir: Annotated[
        Path | None, typer.Option("--filter", help="Its folder (outputs/<model>__filter/filter).")
    ] = None,
    forget: options.ForgetText = Path("data/mini/forget.txt"),
    retain: options.RetainText = Path("data/mini/retain.txt"),
    outdir: Annotated[
        Path | None, typer.Option(help="Folder for causes.csv (beside the filter).")
    ] = None,
    applied_at: Annotated[
        str | None, typer.Option(help="Where the filter is hooked, if not where it was fitted.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(min=0, max=2, help="Another strength than the filter's.")
    ] = None,
    max_samples: options.MaxSamples = 600,
    max_length: options.TextLength = None,
    batch_size: options.BatchSize = 64,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
):
    """Measure why a filter may do the opposite."""
    from brittle.base.record import Run
    from brittle.filters.folder import Data, folder_of
    from brittle.models.find import model_folder

    folder = model_folder(model)
    filter_dir = filter_dir or folder_of("outputs", model)
    outdir = outdir or filter_dir.parent / "causes"
    paths = {"forget": forget, "retain": retain}
    from brittle.filters import causes, search, states
    from brittle.filters.tuning import Tuner
    from brittle.models.filter import FILES, block_of, load

    made = load(filter_dir)
    if strength is not None or made.strength == 0:
        made = made.at(1.0 if strength is None else strength)
    if applied_at:
        block_of(applied_at)
    with Run(outdir, [*paths.values(), filter_dir / FILES[0]], {"model": folder}, seed) as run:
        data = Data.read(folder, paths, max_samples, max_length, device, dtype)
        made.check(data.model.config).to(data.model.device)
        sites = list(dict.fromkeys([made.site, applied_at or made.site]))
        found = states.collect(
            data.model, data.fit["forget"], data.pad_id, [made.site], batch_size
        )[made.site]
        sets = {n: search.part(e, 160, seed) for n, e in data.tune.items()}
        tuner = Tuner(data.model, sets, data.pad_id, sites, batch_size)
        table = list(causes.causes(tuner, made, found, applied_at, data.pad_id, data.fit["forget"]))
        reading = tuner.read(made)
        run.csv("causes.csv", causes.COLUMNS, table)
    opposite = causes.outcome(reading)
    print(
        f"at strength {made.strength:g} the KL from the unfiltered model is {reading['forget_kl']:.3f} on forget and "
        f"{reading['retain_kl']:.3f} nats a token on retain text: {'the opposite of' if opposite else ''} what is wanted"
    )
    for row in table:
        value = (
            "not measured"
            if row["value"] is None
            else f"{row['value']:.3g} (limit {row['limit']:.3g})"
        )
        print(
            f"{'APPLIES ' if row['applies'] else '        '}{row['cause']}: {row['measure']}: {value}"
        )
    applying = [row for row in table if row["applies"]]
    for row in applying:
        print(f"fix for {row['cause']}: {row['fix']}")
    if not applying:
        print(
            "no cause applies"
            + (
                ": the retain set depends on what is removed; use --gate or another site"
                if opposite
                else ""
            )
        )


if __name__ == "__main__":
    command.run(main)
