"""Does pruning bring back what was unlearned?

    uv run eval/prune.py --model M --outdir outputs/M/prune

Sets a share of the weights of every attention and MLP matrix to 0: the smallest (magnitude), or in every row those that
matter least to its output on benign texts (WANDA, arXiv:2306.11695); then the forget and retain questions again. Ratio 0 is
the model as it is.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle import cli
from brittle.errors import UserError

COLUMNS = ["model", "scheme", "ratio", "variant", "split", "accuracy", "accuracy_low", "accuracy_high", "n", "answer_nll"]


def main(
    model: cli.Model,
    outdir: cli.Outdir,
    data: cli.Data = Path("data/mini"),
    ratio: Annotated[list[float], typer.Option(help="Share of the weights to set to 0 (repeatable).")] = (0, 0.1, 0.2, 0.4, 0.6),
    scheme: Annotated[list[str], typer.Option(help="magnitude, wanda (repeatable).")] = ("magnitude", "wanda"),
    texts: Annotated[int, typer.Option(min=1, help="Benign texts for WANDA.")] = 256,
    max_items: Annotated[int, typer.Option(min=5, help="Items a split to measure on, but for half B: all of it.")] = 200,
    batch_size: cli.BatchSize = 256,
    seed: cli.Seed = 0,
    device: cli.Device = "auto",
    dtype: cli.Dtype = "float32",
):
    """Forget and retain accuracy at every ratio."""
    from brittle import models, results
    from brittle.attacks import figures, prune, session

    for name in scheme:
        if name not in prune.SCHEMES:
            raise UserError(f"--scheme {name}: choose {' or '.join(prune.SCHEMES)}.")
    for share in ratio:
        prune.check(share)
    folder = models.model_folder(model)
    one, name = session.Session(folder, data, max_items, batch_size, device, dtype), results.model_name(model)
    settings = {"ratio": list(ratio), "scheme": list(scheme), "texts": texts, "max_items": max_items}
    with results.Run(outdir, one.files(), {"model": str(folder)}, seed, settings) as run:
        table = one.rows(prune.Prune(seed, tuple(ratio), tuple(scheme), texts), COLUMNS[:3])
        table = [{**row, "model": name} for row in table]
        run.figure(figures.curves(table, "ratio", "Pruning", name, one.chance(), "scheme", "share set to 0"), "prune.png")
        run.csv("prune.csv", COLUMNS, table)


if __name__ == "__main__":
    cli.run(main)
