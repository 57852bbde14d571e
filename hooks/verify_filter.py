"""Is the saved model the hooked one, logit for logit, and if not, where do they part?

    uv run hooks/verify_filter.py --model outputs/models/mini-base

Loads the model with the filter hooked in, and the baked folder as anybody would. Compares logits of
a left-padded batch (float32: within 1e-5 of the largest logit; bfloat16: 2 units in its last place)
and 32 greedily generated tokens with a cache. Where they are not equal, the exit status is 1, and
the first module, in the order of computation, whose output differs is named. With --data also the
multiple-choice accuracies of the baked model: the `filter` row of the methods table. Writes
verify.csv beside the baked folder.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.data.examples import DEFAULT, Reading

SPLITS = ("forget", "retain", "general")
COLUMNS = [
    "mode",
    "dtype",
    "difference",
    "relative",
    "ulp",
    "argmax",
    "generation",
    "exact",
    "first_difference",
    *(f"{split}_accuracy" for split in SPLITS),
]


def question_files(data, config):
    """{split: file of questions} of --data; the mini family has a folder without being asked."""
    if data is None and config.get("family") == "mini":
        data = Path("data/mini")
    if data is None:
        return {}
    files = {split: data / f"mcq_{split}.jsonl" for split in SPLITS}
    return {split: path for split, path in files.items() if path.is_file()}


def show(row):
    """Print what verify.csv says."""
    print(
        f"{row['mode']}: largest difference of logits {row['difference']:.2g} "
        f"({row['relative']:.2g} of the largest logit, {row['ulp']:.2g} ulp), "
        f"same argmax {row['argmax']:.4f}, same greedy tokens {row['generation']:.4f}"
    )
    for split in SPLITS:
        accuracy = row[f"{split}_accuracy"]
        if accuracy is not None:
            print(f"  {split} accuracy {accuracy:.3f}")


@options.spread
def main(
    model: options.Model,
    filter_dir: options.FilterFolder = None,
    baked: Annotated[
        Path | None, typer.Option(help="The baked model (outputs/<model>__filter/unlearned_model).")
    ] = None,
    outdir: Annotated[
        Path | None, typer.Option(help="Folder for verify.csv (beside the baked folder).")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with mcq_*.jsonl (data/mini where it is there).")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="The strength it was baked at, where it is not the filter's."),
    ] = None,
    reading: Reading = DEFAULT,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
):
    """Compare a baked model with the hooked one."""
    from brittle.base.record import Run
    from brittle.data.items import read_items
    from brittle.filters.folder import baked_of, folder_of
    from brittle.filters.verify import compare
    from brittle.metrics import mcq
    from brittle.models.filter import FILES, load
    from brittle.models.filtered import RECORD, baking_mode
    from brittle.models.find import model_folder, read_config
    from brittle.models.load import load_model, load_tokenizer

    folder = model_folder(model)
    filter_dir = filter_dir or folder_of("outputs", model)
    baked = model_folder(baked or baked_of("outputs", model))
    outdir, mode = outdir or Path(baked).parent / "verify", baking_mode(baked)
    if mode is None:
        raise UserError(
            f"{baked} has no record of baking ({RECORD}). Make it with hooks/bake_filter.py."
        )
    questions = question_files(data, read_config(folder))
    chosen = load(filter_dir)
    if strength is not None:
        chosen = chosen.at(strength)
    inputs = [*questions.values(), *(filter_dir / name for name in FILES)]
    with Run(outdir, inputs, {"model": folder, "baked": baked}) as run:
        base = load_model(folder, device, dtype)
        chosen.check(base.config).to(base.device)
        saved = load_model(baked, device, dtype)
        row = {
            **dict.fromkeys(COLUMNS),
            **compare(base, chosen, saved)._asdict(),
            "mode": mode,
            "dtype": str(base.dtype).removeprefix("torch."),
        }
        tokenizer = load_tokenizer(folder) if questions else None
        for split, path in questions.items():
            row[f"{split}_accuracy"] = mcq.accuracy(saved, tokenizer, read_items(path), reading)
        run.csv("verify.csv", COLUMNS, [row])
    show(row)
    if not row["exact"]:
        first = row["first_difference"] or "none, only the cache"
        raise UserError(
            f"{baked} is not the hooked model; first module that differs: {first}. "
            "Bake it again from this model and this filter."
        )
    print("equal", file=sys.stdout)


if __name__ == "__main__":
    command.run(main)
