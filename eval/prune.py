"""Does pruning bring back what was unlearned?

    uv run eval/prune.py --model M --outdir outputs/M/prune

Sets a share of the weights of every attention and MLP matrix to 0: the smallest (magnitude), or in every row those that
matter least to its output on benign texts (WANDA, arXiv:2306.11695); then the forget and retain questions again. Ratio 0 is
the model as it is.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError

COLUMNS = [
    "model",
    "scheme",
    "ratio",
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
    ratio: Annotated[
        list[float], typer.Option(help="Share of the weights to set to 0 (repeatable).")
    ] = (0, 0.1, 0.2, 0.4, 0.6),
    scheme: Annotated[list[str], typer.Option(help="magnitude, wanda (repeatable).")] = (
        "magnitude",
        "wanda",
    ),
    texts: Annotated[int, typer.Option(min=1, help="Benign texts for WANDA.")] = 256,
    max_items: Annotated[
        int, typer.Option(min=5, help="Items a split to measure on, but for half B: all of it.")
    ] = 200,
    batch_size: options.BatchSize = 256,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
):
    """Forget and retain accuracy at every ratio."""
    from brittle.attacks import figures, prune, session
    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.models.find import model_folder

    for name in scheme:
        if name not in prune.SCHEMES:
            raise UserError(f"--scheme {name}: choose {' or '.join(prune.SCHEMES)}.")
    for share in ratio:
        prune.check(share)
    folder = model_folder(model)
    one, name = (
        session.Session(folder, data, max_items, batch_size, device, dtype),
        model_name(model),
    )
    settings = {
        "ratio": list(ratio),
        "scheme": list(scheme),
        "texts": texts,
        "max_items": max_items,
    }
    with Run(outdir, one.files(), {"model": str(folder)}, seed, settings) as run:
        table = one.rows(prune.Prune(seed, tuple(ratio), tuple(scheme), texts), COLUMNS[:3])
        table = [{**row, "model": name} for row in table]
        run.figure(
            figures.curves(
                table, "ratio", "Pruning", name, one.chance(), "scheme", "share set to 0"
            ),
            "prune.png",
        )
        run.csv("prune.csv", COLUMNS, table)


if __name__ == "__main__":
    command.run(main)
