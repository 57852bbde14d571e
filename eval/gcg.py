"""Is there a suffix of real tokens behind which the model answers again?

    uv run eval/gcg.py --model M --outdir outputs/M/gcg

GCG (arXiv:2307.15043): one universal suffix behind every question, searched by gradient on questions of half A; half B is
asked with the same suffix. The loss on the questions searched with never rises; `suffix` is the text found.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options

COLUMNS = ["model", "step", "loss", "suffix", "variant", "split", "accuracy", "accuracy_low", "accuracy_high", "n",
           "answer_nll"]  # fmt: skip


def main(
    model: options.Model,
    outdir: options.Outdir,
    data: options.Data = Path("data/mini"),
    length: Annotated[int, typer.Option(min=1, help="Tokens of the suffix.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the search, one swap each.")] = 40,
    every: Annotated[
        int, typer.Option(min=1, help="Steps between measurements; the last is always measured.")
    ] = 10,
    candidates: Annotated[int, typer.Option(min=1, help="Swaps tried a step.")] = 32,
    top: Annotated[int, typer.Option(min=1, help="Most promising tokens a position.")] = 64,
    items: Annotated[int, typer.Option(min=1, help="Questions of half A to search with.")] = 12,
    max_items: Annotated[
        int, typer.Option(min=5, help="Items a split to measure on, but for half B: all of it.")
    ] = 200,
    batch_size: options.BatchSize = 256,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
):
    """Search a suffix on half A, ask half B."""
    from brittle.attacks import figures, gcg, session
    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.models.find import model_folder

    folder = model_folder(model)
    one, name = (
        session.Session(folder, data, max_items, batch_size, device, dtype),
        model_name(model),
    )
    settings = {
        "length": length,
        "steps": steps,
        "candidates": candidates,
        "top": top,
        "items": items,
        "max_items": max_items,
    }
    with Run(outdir, one.files(), {"model": str(folder)}, seed, settings) as run:
        at = tuple(sorted({0, *range(every, steps + 1, every), steps}))
        table = one.rows(gcg.GCG(seed, length, steps, candidates, top, items, at), COLUMNS[:4])
        table = [{**row, "model": name} for row in table]
        run.figure(
            figures.curves(
                table, "step", "A suffix (GCG)", name, one.chance(), label="step of the search"
            ),
            "gcg.png",
        )
        run.csv("gcg.csv", COLUMNS, table)


if __name__ == "__main__":
    command.run(main)
