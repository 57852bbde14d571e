"""Which attacks bring back what a model was made to forget?

    uv run eval/attack.py --model M --outdir outputs/M/attacks
    uv run eval/attack.py --model M --outdir outputs/M/attacks --attacks relearn,gcg --seeds 0,1

The model is loaded once, and every attack of brittle/attacks/ runs on it with the attack's own
defaults; docs/attacks.md lists them.

An attack has variants (rates, strengths, templates). Half A chooses the one that counts, and half B
of it is the result (brittle/attacks/meter.py). No attack reads half B: the hashes of all that it
read are compared with those of half B's texts. A variant that breaks the model has
empty cells. Cells are kept in <outdir>/cells, so an interrupted run goes on where it stopped.
experiment/scoreboard.py compares models.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.data.examples import DEFAULT, Reading

OF_A_CELL = ("seconds", "cpu_seconds", "texts_read", "read_sha256")
COLUMNS = [
    "attack",
    "seed",
    "variant",
    "chosen",
    "split",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "n",
    "answer_nll",
    "chance",
    *OF_A_CELL,
]
ITEM_COLUMNS = ["attack", "seed", "variant", "fact", "right", "asked"]
NOTE_COLUMNS = ["attack", "seed", "note"]


def rows(cells, chance):
    """A row a variant and split. cells: [(attack, seed, cell)]; chance: of half B."""
    for name, seed, cell in cells:
        about = {"attack": name, "seed": seed, "chance": chance}
        about |= {column: cell[column] for column in OF_A_CELL}
        for row in cell["rows"]:
            whole = about | row | {"chosen": int(row["variant"] == cell["chosen"])}
            yield {column: whole[column] for column in COLUMNS}


def item_rows(cells):
    """A row a fact of half B, under the variant that counts."""
    for name, seed, cell in cells:
        for fact, (right, asked) in cell["facts"].items():
            values = (name, seed, cell["chosen"], fact, right, asked)
            yield dict(zip(ITEM_COLUMNS, values, strict=True))


def note_rows(cells):
    """A row a note: what went wrong."""
    for name, seed, cell in cells:
        for note in cell["notes"]:
            yield {"attack": name, "seed": seed, "note": note}


def board(cells, chance):
    """Lines of a table: of each cell the variant that counts, and its accuracies."""
    from brittle.base.tables import aligned

    splits = ("forget_a", "forget_b", "retain")
    lines = [("attack", "seed", "variant", "half A", "half B", "retain")]
    for name, seed, cell in cells:
        accuracies = {
            row["split"]: row["accuracy"]
            for row in cell["rows"]
            if row["variant"] == cell["chosen"]
        }
        known = [accuracies.get(split) for split in splits]
        numbers = ["-" if accuracy is None else f"{accuracy:.3f}" for accuracy in known]
        lines.append((name, str(seed), str(cell["chosen"] or "failed"), *numbers))
    return [*aligned(lines), f"accuracy by guessing: {chance:.3f}"]


def plot(cells, name, chance):
    """Accuracy under every attack, one panel a split: each variant a dot, the chosen one large."""
    from brittle.base import figures

    attacks = list(dict.fromkeys(attack for attack, _, _ in cells))
    figure, axes = figures.figure(
        "Accuracy under each attack", name, columns=3, height=0.34 * len(attacks) + 1.2
    )
    for axis, split in zip(axes, ("forget_a", "forget_b", "retain"), strict=True):
        for attack, _, cell in cells:
            for row in cell["rows"]:
                if row["split"] == split and row["accuracy"] is not None:
                    best = row["variant"] == cell["chosen"]
                    style = (
                        {"s": 70, "color": figures.CYCLE[0]} if best else {"s": 14, "color": "0.6"}
                    )
                    axis.scatter(row["accuracy"], attacks.index(attack), zorder=2 + best, **style)
        axis.axvline(chance, color=figures.COLOURS["null"], linestyle="--", linewidth=1.4)
        axis.set(
            title=split,
            xlim=(-0.03, 1.03),
            yticks=range(len(attacks)),
            xlabel="accuracy (dashed: guessing)",
        )
        axis.set_yticklabels(attacks if split == "forget_a" else [])
        axis.invert_yaxis()
    return figure


@options.spread
def main(
    model: options.Model,
    outdir: options.Outdir,
    data: options.Data = Path("data/mini"),
    attacks: Annotated[str, typer.Option(help="Attacks, with commas (all).")] = "",
    seeds: Annotated[
        str, typer.Option(help="Seeds, with commas: one cell an attack and seed.")
    ] = "0",
    max_items: Annotated[
        int, typer.Option(min=5, help="Items a split to measure on, but for half B: all of it.")
    ] = 200,
    batch_size: options.BatchSize = 256,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
    reading: Reading = DEFAULT,
    wrapper: options.Wrapper = None,
    wrapper_rules: options.WrapperRules = None,
    force: Annotated[bool, typer.Option("--force", help="Make every cell anew.")] = False,
    revision: options.Revision = None,
):
    """Run every attack on one model."""
    from brittle.attacks import chosen, meter, session
    from brittle.base.layout import model_name
    from brittle.base.record import Run, say
    from brittle.models import guards
    from brittle.models.find import model_folder

    names = chosen(attacks)
    numbers = options.read_seeds(seeds)
    folder = model_folder(model, revision)
    guard = guards.make(wrapper, data, wrapper_rules)
    read = guards.files(wrapper, data, wrapper_rules) if guard else ()
    attacked = session.AttackSession(
        folder, data, max_items, batch_size, device, dtype, guard, read, reading
    )
    meter.eval_sets(data, max_items)  # what is wrong with the data is said before a model is loaded
    settings = {"attacks": names, "seeds": numbers, **reading.about()}
    settings |= guard.about if guard else {}
    with Run(outdir, attacked.files(), {"model": str(folder)}, numbers[0], settings) as run:
        cells = list(session.cells(attacked, names, numbers, outdir / "cells", force=force))
        chance = attacked.chance()
        run.figure(plot(cells, model_name(model), chance), "attacks.png")
        run.csv("attacks_notes.csv", NOTE_COLUMNS, note_rows(cells))
        run.csv("attacks_items.csv", ITEM_COLUMNS, item_rows(cells))
        run.csv("attacks.csv", COLUMNS, rows(cells, chance))
    print("\n".join(board(cells, chance)))
    say(outdir / "attacks.csv", "all variants")


if __name__ == "__main__":
    command.run(main)
