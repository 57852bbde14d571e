"""Does shaking the weights bring back what was unlearned?

    uv run eval/noise.py --model M --outdir outputs/M/noise

Gaussian noise on every attention and MLP matrix, its standard deviation a share of the matrix's root mean square; then the
forget and retain questions again, for several draws. Scale 0 is the model as it is.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError

COLUMNS = [
    "model",
    "noise",
    "draw",
    "variant",
    "split",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "n",
    "answer_nll",
]


def main(
    model: options.Model,
    outdir: options.Outdir,
    data: options.Data = Path("data/mini"),
    scale: Annotated[list[float], typer.Option(help="Noise / root mean square (repeatable).")] = (
        0,
        0.05,
        0.1,
        0.2,
        0.3,
        0.5,
    ),
    draws: Annotated[int, typer.Option(min=1, help="Draws of the noise at every scale.")] = 3,
    max_items: Annotated[
        int, typer.Option(min=5, help="Items a split to measure on, but for half B: all of it.")
    ] = 200,
    batch_size: options.BatchSize = 256,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
):
    """Forget and retain accuracy at every scale of noise."""
    from brittle.attacks import figures, noise, session
    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.models.find import model_folder

    if any(not s >= 0 for s in scale):
        raise UserError(f"--scale {min(scale):g}: 0 or more.")
    folder = model_folder(model)
    one, name = (
        session.Session(folder, data, max_items, batch_size, device, dtype),
        model_name(model),
    )
    settings = {"scale": list(scale), "draws": draws, "max_items": max_items}
    with Run(outdir, one.files(), {"model": str(folder)}, seed, settings) as run:
        table = one.rows(noise.Noise(seed, tuple(scale), draws), COLUMNS[:3])
        table = [{**row, "model": name} for row in table]
        label = "noise / root mean square of a matrix"
        run.figure(
            figures.curves(
                table, "noise", "Noise on the weights", name, one.chance(), "draw", label
            ),
            "noise.png",
        )
        run.csv("noise.csv", COLUMNS, table)


if __name__ == "__main__":
    command.run(main)
