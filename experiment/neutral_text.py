"""Did the intervention damage the language itself: how far did predictions on neutral text move?

    uv run experiment/neutral_text.py --model-a A --model-b B --data data/mini \
        --outdir outputs/A__to__B/neutral_text

Neutral texts (neutral.txt of --data) stand in neither set, so nothing trains on them. Where the
folder has none, the retain texts are read in their place, and `texts` says so. Means over all
predicted tokens, in nats: `kl` is KL(p_a || p_b), `nll_a` and `nll_b` are the models' negative
log-likelihoods, `nll_change` is nll_b - nll_a. A text counts with its first 64 tokens. _low and
_high are 95 % bootstrap intervals over entities where the data name them, else over texts.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.data.examples import DEFAULT, Reading
from brittle.metrics.neutral import FILE, LENGTH, measure, neutral_file, sums

COLUMNS = [
    "texts",
    "n_texts",
    "n_tokens",
    "nll_a",
    "nll_b",
    "nll_change",
    "nll_change_low",
    "nll_change_high",
    "kl",
    "kl_low",
    "kl_high",
    "seed",
]


def text_file(data):
    """The neutral texts of the folder `data`, else its retain texts.

    Raises UserError where it has neither.
    """
    folder = Path(data)
    for path in (neutral_file(folder), folder / "retain.txt", folder / "retain.jsonl"):
        if path and path.is_file():
            return path
    raise UserError(f"--data {data} has no {FILE} and no retain texts to read. See docs/data.md.")


@options.spread
def main(
    model_a: options.ModelA,
    model_b: options.ModelB,
    outdir: options.Outdir,
    data: Annotated[
        Path, typer.Option("--data", help="Folder with neutral.txt, else with retain texts.")
    ] = Path("data/mini"),
    max_samples: Annotated[int, typer.Option(min=2, help="Texts to read, drawn by --seed.")] = 256,
    reading: Reading = DEFAULT,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    seed: options.Seed = 0,
):
    """Predictions of two models on neutral text, in nats a token."""
    from brittle.base.record import Run, say
    from brittle.data.batches import encode
    from brittle.data.items import text_files
    from brittle.diagnostics.common import draw_splits
    from brittle.models.find import check_pair, model_folder
    from brittle.models.load import load_changed, load_tokenizer

    folders = {"model_a": model_folder(model_a), "model_b": model_folder(model_b, adapters=True)}
    path = text_file(data)
    settings = {"length": LENGTH, **reading.about()}
    with Run(outdir, text_files(path), folders, seed=seed, settings=settings) as run:
        check_pair(*folders.values())
        tokenizer = load_tokenizer(folders["model_a"])
        drawn = draw_splits(run, {path.stem: path}, max_samples, seed)[path.stem]
        ids = encode(tokenizer, drawn.rows, LENGTH, f"texts of {path}", reading)
        # a text of one token predicts nothing
        read = [number for number, tokens in enumerate(ids) if len(tokens) > 1]
        entities = drawn.entities
        units = [entities[number] for number in read] if entities else len(read)
        a, b = (load_changed(f, folders["model_a"], device, dtype) for f in folders.values())
        totals = sums(a, b, [ids[number] for number in read], tokenizer.pad_token_id)
        row = measure(totals, units, seed) | {"texts": path.stem, "seed": seed}
        run.csv("neutral.csv", COLUMNS, [row])
    say(
        outdir / "neutral.csv",
        f"KL {row['kl']:.3f} nats a token on {row['n_texts']} {path.stem} "
        f"texts, NLL {row['nll_a']:.3f} -> {row['nll_b']:.3f}",
    )


if __name__ == "__main__":
    command.run(main)
