"""Does rounding the weights bring back what was unlearned?

    uv run eval/quantize.py --model M --outdir outputs/M/quantize --model-base outputs/models/mini-base

Round-to-nearest, symmetric, every attention and MLP matrix, in plain torch (arXiv:2410.16454); then the forget and retain
questions again. 16 bits are the model as it is. With --model-base also the share of weights that get the same whole number
in both models: where all do, the update is gone.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options

COLUMNS = ["model", "bits", "group", "bucket_agreement", "variant", "split", "accuracy", "accuracy_low", "accuracy_high",
           "n", "answer_nll"]  # fmt: skip


def main(
    model: options.Model,
    outdir: options.Outdir,
    data: options.Data = Path("data/mini"),
    bits: Annotated[list[int], typer.Option(help="Bits a weight, 2 to 16 (repeatable).")] = (
        16,
        8,
        6,
        4,
        3,
        2,
    ),
    group: Annotated[
        list[str],
        typer.Option(help="Weights that share a scale: row, tensor, or a number of inputs."),
    ] = ("row",),
    base: Annotated[
        str | None, typer.Option("--model-base", help="Model to compare codes with.")
    ] = None,
    max_items: Annotated[
        int, typer.Option(min=5, help="Items a split to measure on, but for half B: all of it.")
    ] = 200,
    batch_size: options.BatchSize = 256,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
):
    """Forget and retain accuracy at every number of bits."""
    from brittle.attacks import figures, quantize, session
    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.models.find import check_pair, model_folder
    from brittle.models.load import load_model

    for b in bits:
        for g in group:
            quantize.check(b, g)
    folder = model_folder(model)
    used = {"model": str(folder)}
    if base:
        used["model_base"] = str(model_folder(base))
        check_pair(used["model_base"], folder)
    one, name = (
        session.Session(folder, data, max_items, batch_size, device, dtype),
        model_name(model),
    )
    with Run(
        outdir,
        one.files(),
        used,
        seed,
        {"bits": list(bits), "group": list(group), "max_items": max_items},
    ) as run:
        other = load_model(used["model_base"], device, dtype) if base else None
        table = one.rows(
            quantize.Quantize(seed, tuple(bits), tuple(group), other), ["model", *COLUMNS[1:4]]
        )
        table = [{**row, "model": name} for row in table]
        run.figure(
            figures.curves(
                table, "bits", "Rounding to nearest", name, one.chance(), "group", "bits"
            ),
            "quantize.png",
        )
        run.csv("quantize.csv", COLUMNS, table)


if __name__ == "__main__":
    command.run(main)
