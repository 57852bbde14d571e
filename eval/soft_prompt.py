"""Is there a prompt, if not one of words, behind which the model answers again?

    uv run eval/soft_prompt.py --model M --outdir outputs/M/soft_prompt

Vectors in front of every question, trained on the questions and answers of half A with the weights frozen
(arXiv:2402.09063); half B, which they never saw, is asked behind them.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options

COLUMNS = ["model", "vectors", "step", "train_nll", "variant", "split", "accuracy", "accuracy_low", "accuracy_high", "n",
           "answer_nll"]  # fmt: skip


def main(
    model: options.Model,
    outdir: options.Outdir,
    data: options.Data = Path("data/mini"),
    vectors: Annotated[int, typer.Option(min=1, help="Vectors in front of the question.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 120,
    every: Annotated[
        int, typer.Option(min=1, help="Steps between measurements; the last is always measured.")
    ] = 20,
    lr: Annotated[
        float, typer.Option(min=1e-9, help="Length of a step / root mean square of the embeddings.")
    ] = 0.3,
    train_batch: Annotated[int, typer.Option(min=1, help="Questions a training step.")] = 32,
    max_items: Annotated[
        int, typer.Option(min=5, help="Items a split to measure on, but for half B: all of it.")
    ] = 200,
    batch_size: options.BatchSize = 256,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
):
    """Train a soft prompt on half A, ask half B."""
    from brittle.attacks import figures, session, soft_prompt
    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.models.find import model_folder

    folder = model_folder(model)
    one, name = (
        session.Session(folder, data, max_items, batch_size, device, dtype),
        model_name(model),
    )
    settings = {
        "vectors": vectors,
        "steps": steps,
        "lr": lr,
        "train_batch": train_batch,
        "max_items": max_items,
    }
    with Run(outdir, one.files(), {"model": str(folder)}, seed, settings) as run:
        at = tuple(sorted({*range(every, steps + 1, every), steps}))
        table = one.rows(
            soft_prompt.SoftPrompt(seed, vectors, steps, at, lr, train_batch), COLUMNS[:4]
        )
        table = [{**row, "model": name} for row in table]
        run.figure(
            figures.curves(
                table, "step", "A soft prompt", name, one.chance(), label="training step"
            ),
            "soft_prompt.png",
        )
        run.csv("soft_prompt.csv", COLUMNS, table)


if __name__ == "__main__":
    command.run(main)
