"""Why does a filter forget the retain set instead of the forget set?

    uv run hooks/explain_filter.py --model outputs/models/mini-base
    uv run hooks/explain_filter.py --model M --filter DIR --applied-at pre_norm --strength 0.3

Measures each known cause, says which applies, and the fix. Reads a filter (at its strength, or at
--strength) and the texts it was fitted on: energies of both sets in the basis, the lead that the
unfiltered model's answers have, whether the map is a projection, the space, renormalisation,
reflection, pooling, and the slope of the forget loss at strength 0. Writes causes.csv; a cause that
cannot be measured has empty cells.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.data.examples import DEFAULT, Reading

TUNE_SAMPLES = 160  # texts a set that the filter is read on


def show(strength, reading, table, *, opposite):
    """Print what the filter does, each cause, and the fix of those that apply."""
    verdict = "the opposite of" if opposite else ""
    print(
        f"at strength {strength:g} the KL from the unfiltered model is "
        f"{reading['forget_kl']:.3f} on forget and {reading['retain_kl']:.3f} nats a token on "
        f"retain text: {verdict} what is wanted"
    )
    for row in table:
        value = "not measured"
        if row["value"] is not None:
            value = f"{row['value']:.3g} (limit {row['limit']:.3g})"
        mark = "APPLIES " if row["applies"] else "        "
        print(f"{mark}{row['cause']}: {row['measure']}: {value}")
    applying = [row for row in table if row["applies"]]
    for row in applying:
        print(f"fix for {row['cause']}: {row['fix']}")
    if not applying and opposite:
        print(
            "no cause applies: the retain set depends on what is removed; "
            "use --gate or another site"
        )
    elif not applying:
        print("no cause applies")


@options.spread
def main(
    model: options.Model,
    filter_dir: options.FilterFolder = None,
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
    reading: Reading = DEFAULT,
    batch_size: options.BatchSize = 64,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
):
    """Measure why a filter may do the opposite."""
    from brittle.base.record import Run
    from brittle.data.items import text_files
    from brittle.filters import causes, search, states
    from brittle.filters.data import FilterData
    from brittle.filters.folder import folder_of
    from brittle.filters.tuning import Tuner
    from brittle.models.filter import FILES, block_of, load
    from brittle.models.find import model_folder

    folder = model_folder(model)
    filter_dir = filter_dir or folder_of("outputs", model)
    outdir = outdir or filter_dir.parent / "causes"
    paths = {"forget": forget, "retain": retain}
    chosen = load(filter_dir)
    if strength is not None:
        chosen = chosen.at(strength)
    elif chosen.strength == 0:
        chosen = chosen.at(1.0)
    if applied_at:
        block_of(applied_at)
    inputs = [*text_files(*paths.values()), filter_dir / FILES[0]]
    with Run(outdir, inputs, {"model": folder}, seed) as run:
        texts = FilterData.read(folder, paths, max_samples, max_length, device, dtype, reading)
        chosen.check(texts.model.config).to(texts.model.device)
        site, asked = chosen.site, texts.fit["forget"]
        forget_moments = states.collect(texts.model, asked, texts.pad_id, [site], batch_size)[site]
        sets = {name: search.sample(e, TUNE_SAMPLES, seed) for name, e in texts.tune.items()}
        sites = list(dict.fromkeys([site, applied_at or site]))
        tuner = Tuner(texts.model, sets, texts.pad_id, sites, batch_size)
        rows = causes.causes(tuner, chosen, forget_moments, applied_at, texts.pad_id, asked)
        table = list(rows)
        reading = tuner.read(chosen)
        run.csv("causes.csv", causes.COLUMNS, table)
    show(chosen.strength, reading, table, opposite=causes.is_opposite(reading))


if __name__ == "__main__":
    command.run(main)
