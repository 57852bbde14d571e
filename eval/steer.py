"""Is the forgetting a direction that can be taken out, or a block that can be put back?

    uv run eval/steer.py --model M --outdir outputs/M/steer --model-base outputs/models/mini-base

Ablation (arXiv:2409.18025): the direction between the mean activations on half A's texts and on a
reference (retain questions in the same model; with --model-base also half A in the base) is
projected out, behind one block or behind every one. Patching (with --model-base): the base's
residual stream or one of its blocks in the unlearned model, block by block.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options

COLUMNS = [
    "model",
    "kind",
    "layer_id",
    "site",
    "reference",
    "krs",
    "variant",
    "split",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "n",
    "answer_nll",
]


def rows(one, seed, base):
    """All rows of the ablations and, where there is a base, of the patches."""
    from brittle.attacks import ablate, patching

    extra = ["layer_id", "site", "reference", "kind", "krs"]
    for reference in [None, base] if base is not None else [None]:
        for row in one.rows(ablate.Ablate(seed, base=reference), extra):
            yield row | {"kind": f"ablate, {'base' if reference is not None else 'retain'}"}
    if base is not None:
        for row in one.rows(patching.Patch(seed, base=base), extra):
            yield row | {"kind": f"patch {row['kind']}"}


def plot(table, name, chance):
    """Half B and retain accuracy over blocks: a panel a kind."""
    from brittle.attacks.figures import LOOK
    from brittle.base import figures

    kinds = list(dict.fromkeys(row["kind"] for row in table))
    columns = min(len(kinds), 3)
    figure, axes = figures.figure("Ablation and patching", name, -(-len(kinds) // columns), columns)
    for axis in axes[len(kinds) :]:
        axis.set_visible(False)
    for axis, kind in zip(axes, kinds, strict=False):
        measured = [row for row in table if row["kind"] == kind and row["accuracy"] is not None]
        for split in ("forget_b", "retain"):
            for site in dict.fromkeys(row["site"] for row in measured):
                line = [row for row in measured if row["split"] == split and row["site"] == site]
                colour, marker, words = LOOK[split]
                label = words + {"one": ", behind that block", "all": ", everywhere"}.get(site, "")
                style = "--" if site == "one" else "-"
                x, y = ([row[column] for row in line] for column in ("layer_id", "accuracy"))
                figures.line(axis, x, y, label, color=colour, marker=marker, linestyle=style)
        figures.null(axis, None, chance, "guessing")
        axis.set_ylim(-0.03, 1.05)
        figures.finish(
            axis, "block", "accuracy", zero=False, legend=kind in (kinds[0], kinds[-1]), title=kind
        )
    return figure


def main(
    model: options.Model,
    outdir: options.Outdir,
    data: options.Data = Path("data/mini"),
    base: Annotated[
        str | None, typer.Option("--model-base", help="The model before unlearning.")
    ] = None,
    max_items: Annotated[
        int, typer.Option(min=5, help="Items a split to measure on, but for half B: all of it.")
    ] = 200,
    batch_size: options.BatchSize = 256,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
):
    """Ablate directions, patch from the base, ask the forget and retain questions again."""
    from brittle.attacks import meter, session
    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.models.find import check_pair, model_folder
    from brittle.models.load import load_model

    folder = model_folder(model)
    used = {"model": str(folder)}
    if base:
        used["model_base"] = str(model_folder(base))
        check_pair(used["model_base"], folder)
    one, name = (
        session.AttackSession(folder, data, max_items, batch_size, device, dtype),
        model_name(model),
    )
    with Run(outdir, one.files(), used, seed, {"max_items": max_items}) as run:
        other = load_model(used["model_base"], device, dtype) if base else None
        table = [{**row, "model": name} for row in rows(one, seed, other)]
        run.figure(plot(table, name, one.chance()), "steer.png")
        run.csv("steer.csv", COLUMNS, table)
    for kind in dict.fromkeys(row["kind"] for row in table):
        print(f"{kind}: {meter.outcome([row for row in table if row['kind'] == kind])}")


if __name__ == "__main__":
    command.run(main)
