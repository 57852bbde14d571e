"""Is the saved model the hooked one, logit for logit, and if not, where do they part?

    uv run hooks/verify_filter.py --model outputs/models/mini-base

Loads the model with the filter hooked in, and the baked folder as anybody would, and compares logits of a left-padded batch
(float32: within 1e-5 of the largest logit; bfloat16: 2 units in its last place) and 32 greedily generated tokens with a cache.
Not equal: exit status 1, and the first module, in the order of computation, whose output differs. With --data also the
multiple-choice accuracies of the baked model: the `filter` row of the methods table. Writes verify.csv beside the baked folder.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError

COLUMNS = ["mode", "dtype", "difference", "relative", "ulp", "argmax", "generation", "exact", "first_difference",
           "forget_accuracy", "retain_accuracy", "general_accuracy"]  # fmt: skip


def mode_of(baked):
    """The mode that a baked folder says it was made in."""
    try:
        return json.loads((Path(baked) / "bake.run.json").read_text(encoding="utf-8"))["settings"][
            "mode"
        ]
    except (OSError, ValueError, KeyError):
        raise UserError(
            f"{baked} has no record of baking (bake.run.json). Make it with hooks/bake_filter.py."
        ) from None


def main(
    model: options.Model,
    filter_dir: Annotated[
        Path | None, typer.Option("--filter", help="Its folder (outputs/<model>__filter/filter).")
    ] = None,
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
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
):
    """Compare a baked model with the hooked one."""
    from brittle.base.record import Run
    from brittle.filters.folder import folder_of
    from brittle.models.find import model_folder, read_config
    from brittle.models.load import load_model, load_tokenizer

    folder = model_folder(model)
    filter_dir = filter_dir or folder_of("outputs", model)
    baked = model_folder(baked or folder_of("outputs", model).with_name("unlearned_model"))
    outdir, mode = outdir or Path(baked).parent / "verify", mode_of(baked)
    data = data or (Path("data/mini") if read_config(folder).get("family") == "mini" else None)
    items = [
        f
        for s in ("forget", "retain", "general")
        if data and (f := data / f"mcq_{s}.jsonl").is_file()
    ]
    from brittle.data.items import read_items
    from brittle.filters import verify
    from brittle.metrics import mcq
    from brittle.models.filter import FILES, load

    made = load(filter_dir)
    made = made if strength is None else made.at(strength)
    with Run(
        outdir, [*items, *(filter_dir / n for n in FILES)], {"model": folder, "baked": baked}
    ) as run:
        base = load_model(folder, device, dtype)
        made.check(base.config).to(base.device)
        saved = load_model(baked, device, dtype, greedy=True)
        found = verify.compare(base, made, saved, mode)
        row = {
            **dict.fromkeys(COLUMNS),
            **found,
            "mode": mode,
            "dtype": str(base.dtype).removeprefix("torch."),
        }
        if mode != "greedy-only" and items:
            tokenizer = load_tokenizer(folder)
            for path in items:
                split = path.stem.removeprefix("mcq_")
                row[f"{split}_accuracy"] = mcq.accuracy(saved, tokenizer, read_items(path))
        run.csv("verify.csv", COLUMNS, [row])
    print(f"{mode}: largest difference of logits {row['difference']:.2g} ({row['relative']:.2g} of the largest logit, "
          f"{row['ulp']:.2g} ulp), same argmax {row['argmax']:.4f}, same greedy tokens {row['generation']:.4f}")  # fmt: skip
    for split in ("forget", "retain", "general"):
        if row[f"{split}_accuracy"] is not None:
            print(f"  {split} accuracy {row[f'{split}_accuracy']:.3f}")
    if not row["exact"]:
        raise UserError(
            f"{baked} is not the hooked model; first module that differs: {row['first_difference'] or 'none, only the cache'}. "
            "Bake it again from this model and this filter."
        )
    print("equal", file=sys.stdout)


if __name__ == "__main__":
    command.run(main)
