"""Does relearning half of the forget facts bring back the other half?

    uv run eval/tamper.py --model outputs/models/mini-base --outdir outputs/mini-base/tamper
    uv run eval/tamper.py --model M --outdir outputs/M/tamper_benign --on benign
    uv run eval/tamper.py --model M --outdir outputs/M/tamper_lora --lora-rank 8 --lr 3e-3 --lr 1e-2

The relearning attack fine-tunes the model (AdamW, float32 weights, constant rate; all weights, or
adapters with --lora-rank) at several learning rates. It measures half A, half B, retain and general
accuracy every few steps. --on says what it trains on:
    half-a    the questions and answers of half A; half B is held out. Facts are independent, so
              what comes back on B was hidden, not removed (arXiv:2410.08827)
    half-b    those of half B itself: how fast is it learned when it is shown? Half A is held out
    benign    the retain set's texts and neutral ones: not a word on the forget set
`answer_nll` is the mean over a split's questions of the answer's summed NLL in nats.
eval/recovery.py chooses rate and step by half A and compares models, with steps to half recovery
and the area under the curve. A rate at which the attack breaks the model (NaN) has empty cells from
there on, never chance. Rates and steps are this script's own: its curves go on to step 100, where
the scoreboard's attack ends after 50.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError

COLUMNS = ["model", "lr", "step", "split", "accuracy", "n", "answer_nll"]
ITEM_COLUMNS = ["model", "lr", "step", "fact", "template", "correct"]
SPLITS = ("forget_a", "forget_b", "retain", "general")
TRAINED = ("half-a", "half-b", "benign")
BATCH_SIZE = 128  # texts a batch of questions


def eval_sets(data, max_items, seed):
    """{split: items} to measure: all of half B, at most `max_items` of the others.

    General questions are among them where the folder has some.
    """
    from brittle.attacks import meter
    from brittle.data.items import read_items, subset

    sets, general = meter.eval_sets(data, max_items, seed), data / "mcq_general.jsonl"
    if not general.is_file():
        return sets
    return sets | {"general": subset(read_items(general), max_items, seed)}


def read_steps(text, steps):
    """The steps to measure behind, the last of `steps` among them. Raises UserError where `text`
    holds no numbers.
    """
    try:
        asked = {int(number) for number in text.split(",") if number.strip()}
    except ValueError:
        raise UserError(f"--eval-at {text}: step numbers with commas, such as 5,10,20.") from None
    return tuple(sorted({step for step in asked if 0 < step < steps} | {steps}))


def attack_texts(data, on):
    """The texts that the attack trains on. Raises UserError where those of half-a or benign tell a
    fact of half B.
    """
    from brittle.attacks import base, material

    if on == "half-b":
        return base.right_answers(material.halves(data)[1])
    known = material.Material(data)
    texts = base.right_answers(known.forget()) if on == "half-a" else known.benign()
    known.check(material.forbidden(data))
    return texts


def attack(model, tokenizer, ids, sets, relearning, rates):
    """[(lr, Meter)]: what every rate of a `Relearn` makes of the model.

    The rows of step 0 are measured once: they are the same at every rate.
    """
    from brittle.attacks.meter import Meter

    start = Meter(model, tokenizer, sets, BATCH_SIZE, everything=True)
    start("as made", step=0)
    if start.notes:
        raise UserError(start.notes[0])
    meters = []
    for lr in rates:
        meter = Meter(model, tokenizer, sets, BATCH_SIZE, everything=True)
        meter.rows += start.rows
        meter.rights |= start.rights
        error = relearning.attack(model, tokenizer, ids, lr, meter, label=f"lr {lr:g}")
        if error:
            print(f"note: lr {lr:g} broke the model: {error}")
        meters.append((lr, meter))
    return meters


def rows(name, meters):
    """A row a rate, step and split. meters: [(lr, Meter)]."""
    for lr, meter in meters:
        for row in meter.rows:
            yield {column: (row | {"model": name, "lr": lr})[column] for column in COLUMNS}


def item_rows(name, meters):
    """A row a rate, step and item of half B: was it answered rightly?"""
    for lr, meter in meters:
        steps = {row["variant"]: row["step"] for row in meter.rows}
        for variant, rights in meter.rights.items():
            answered = zip(meter.sets["forget_b"], rights["forget_b"], strict=True)
            for number, (item, right) in enumerate(answered):
                yield {
                    "model": name,
                    "lr": lr,
                    "step": steps[variant],
                    "fact": item.get("fact", number),
                    "template": item.get("template", 0),
                    "correct": right,
                }


def plot(table, name, on):
    """Accuracy against attack step: one panel a split, one line a learning rate."""
    import pandas as pd

    from brittle.base import figures

    frame = pd.DataFrame(table)
    figure, axes = figures.figure(f"Relearning attack, trained on {on}", name, rows=2, columns=2)
    for axis, split in zip(axes, SPLITS, strict=True):
        for lr, curve in frame[frame["split"] == split].groupby("lr"):
            axis.plot(curve["step"], curve["accuracy"], marker="o", label=f"lr {lr:g}")
        axis.set(title=split, xlabel="step", ylabel="accuracy", ylim=(0, 1.05))
        axis.axhline(0.25, color="0.6", linestyle=":", linewidth=1)
    axes[0].legend()
    return figure


def main(
    model: options.Model,
    outdir: options.Outdir,
    data: options.Data = Path("data/mini"),
    lr: Annotated[list[float] | None, typer.Option(help="Learning rates, one attack each.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of an attack.")] = 100,
    eval_at: Annotated[
        str, typer.Option(help="Steps to measure at; 0 and the last are always measured.")
    ] = "5,10,20,50",
    batch_size: options.BatchSize = 32,
    on: Annotated[
        str, typer.Option(help="What the attack trains on: half-a, half-b, benign.")
    ] = "half-a",
    lora_rank: Annotated[
        int, typer.Option(min=0, help="Rank of low-rank adapters; 0 trains all weights.")
    ] = 0,
    max_items: Annotated[
        int, typer.Option(min=5, help="Items a split to measure on, but for half B: all of it.")
    ] = 200,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    revision: options.Revision = None,
):
    """Relearning attack: fine-tune on half A of the forget facts, measure held-out half B."""
    if on not in TRAINED:
        raise UserError(f"--on {on}: choose {', '.join(TRAINED)}.")
    from brittle.attacks.relearn import Relearn, encode_texts
    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.data.items import SPLITS as ALL_SPLITS
    from brittle.models.find import model_folder
    from brittle.models.load import load_model, load_tokenizer, pick_device

    rates = lr or [3e-4, 1e-3, 3e-3]
    if any(not rate > 0 for rate in rates):
        raise UserError(f"--lr {min(rates):g}: learning rates are positive.")
    at = read_steps(eval_at, steps)
    folder = model_folder(model, revision)
    name = model_name(model)
    sets, texts = eval_sets(data, max_items, seed), attack_texts(data, on)
    picked = pick_device(device)
    settings = {
        "attacked_on": on,
        "texts": len(texts),
        "steps": steps,
        "lr": rates,
        "lora_rank": lora_rank,
    }
    names = [*(f"mcq_{split}.jsonl" for split in ALL_SPLITS), "qa_forget.jsonl"]
    if on == "benign":
        names += ["retain.txt", "retain.jsonl", "neutral.txt"]
    files = [data / file for file in names if (data / file).is_file()]
    relearning = Relearn(seed, None, steps, at, batch_size, lora_rank)
    with Run(outdir, files, {"model": str(folder)}, seed, settings) as run:
        attacked, tokenizer = load_model(folder, picked, "float32"), load_tokenizer(folder)
        ids = encode_texts(attacked, tokenizer, texts)
        meters = attack(attacked, tokenizer, ids, sets, relearning, rates)
        table = list(rows(name, meters))
        run.figure(plot(table, name, on), "tamper.png")
        run.csv("tamper_items.csv", ITEM_COLUMNS, item_rows(name, meters))
        run.csv("tamper.csv", COLUMNS, table)


if __name__ == "__main__":
    command.run(main)
