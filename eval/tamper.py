"""Does relearning half of the forget facts bring back the other half?

    uv run eval/tamper.py --model outputs/models/mini-base --outdir outputs/mini-base/tamper
    uv run eval/tamper.py --model M --outdir outputs/M/tamper_benign --on benign
    uv run eval/tamper.py --model M --outdir outputs/M/tamper_lora --lora-rank 8 --lr 3e-3 --lr 1e-2

The relearning attack: fine-tune the model (AdamW, float32 weights, constant rate; all weights, or adapters with --lora-rank)
at several learning rates, and measure half A, half B, retain and general accuracy every few steps. It trains on (--on)
    half-a    the questions and answers of half A: half B is held out. Facts are independent, so what comes back on B was
              hidden, not removed (arXiv:2410.08827)
    half-b    those of half B itself: how fast is it learned when it is shown (half A is then the one held out)
    benign    the retain set's texts and neutral ones: not a word on the forget set
`answer_nll` is the mean over a split's questions of the answer's summed NLL in nats. `eval/recovery.py` chooses rate and
step by A and compares models, with steps to half recovery and the area under the curve.
A rate at which the attack breaks the model (NaN) has empty cells from there on, never chance.
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


def eval_sets(data, max_items, seed):
    """{split: items} to measure: all of half B, at most `max_items` of the others."""
    from brittle.attacks import meter
    from brittle.data import items as items_module

    sets = meter.eval_sets(data, max_items, seed)
    return sets | {
        "general": items_module.subset(
            items_module.read_items(data / "mcq_general.jsonl"), max_items, seed
        )
    }


def attack_texts(data, on):
    """The texts that the attack trains on. Raises UserError where those of half-a or benign tell a fact of half B."""
    from brittle.attacks import base, material

    if on == "half-b":
        return base.right_answers(material.halves(data)[1])
    known = material.Material(data)
    texts = base.right_answers(known.forget()) if on == "half-a" else known.benign()
    known.check(material.forbidden(data))
    return texts


def measure(model, tokenizer, sets, name, lr, step, table, items):
    """Append this moment's accuracies and answer NLLs (one row a split) and the half-B items' outcomes."""
    from brittle.metrics import mcq

    for split, chosen in sets.items():
        outcomes = mcq.outcomes(model, tokenizer, chosen)
        right = [outcome.right for outcome in outcomes]
        nll = sum(outcome.answer_nll for outcome in outcomes) / len(chosen)
        table.append(
            dict(
                zip(
                    COLUMNS,
                    (name, lr, step, split, sum(right) / len(right), len(right), nll),
                    strict=True,
                )
            )
        )
        if split == "forget_b":
            items += [
                dict(
                    zip(
                        ITEM_COLUMNS,
                        (name, lr, step, i.get("fact", n), i.get("template", 0), r),
                        strict=True,
                    )
                )
                for n, (i, r) in enumerate(zip(chosen, right, strict=True))
            ]


def attack(
    folder, name, texts, sets, lr, steps, at, batch_size, seed, device, start=None, lora_rank=0
):
    """Rows of one learning rate. `start` are the rows of step 0, the same at every rate, where they are known already."""
    from brittle.attacks.relearn import fine_tune
    from brittle.models.load import load_model, load_tokenizer

    model, tokenizer = load_model(folder, device, "float32"), load_tokenizer(folder)
    table, items = [], []
    if start is None:
        measure(model, tokenizer, sets, name, lr, 0, table, items)
    else:
        table, items = ([{**row, "lr": lr} for row in rows if row["step"] == 0] for rows in start)

    def evaluate(step):
        measure(model, tokenizer, sets, name, lr, step, table, items)

    try:
        fine_tune(
            model,
            tokenizer,
            texts,
            lr,
            steps,
            at,
            batch_size,
            seed,
            evaluate,
            lora_rank,
            label=f"lr {lr:g}",
        )
    except UserError as error:
        print(f"note: lr {lr:g} broke the model: {error}")
        done = {row["step"] for row in table}
        table += [
            dict(zip(COLUMNS, (name, lr, step, split, None, len(chosen), None), strict=True))
            for step in at
            if step not in done
            for split, chosen in sets.items()
        ]
    return table, items


def plot(table, name, on):
    """Accuracy against attack step: one panel a split, one line a learning rate."""
    import pandas as pd

    from brittle.base import figures

    frame = pd.DataFrame(table)
    figure, axes = figures.figure(f"Relearning attack, trained on {on}", name, rows=2, columns=2)
    for axis, split in zip(axes, SPLITS, strict=True):
        for lr, part in frame[frame["split"] == split].groupby("lr"):
            axis.plot(part["step"], part["accuracy"], marker="o", label=f"lr {lr:g}")
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
    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.data import items as items_module
    from brittle.models.find import model_folder
    from brittle.models.load import pick_device

    try:
        at = {int(part) for part in eval_at.split(",") if part.strip()}
    except ValueError:
        raise UserError(
            f"--eval-at {eval_at}: step numbers with commas, such as 5,10,20."
        ) from None
    at = sorted({step for step in at if 0 < step < steps} | {steps})
    rates = lr or [3e-4, 1e-3, 3e-3]
    if any(not rate > 0 for rate in rates):
        raise UserError(f"--lr {min(rates):g}: learning rates are positive.")
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
    names = [
        *(f"mcq_{split}.jsonl" for split in items_module.SPLITS),
        "qa_forget.jsonl",
        "retain.txt",
        "retain.jsonl",
        "neutral.txt",
    ]
    files = [data / n for n in names[: None if on == "benign" else 4] if (data / n).is_file()]
    with Run(outdir, files, {"model": str(folder)}, seed, settings) as run:
        table, items, start = [], [], None
        for rate in rates:
            made = attack(
                folder,
                name,
                texts,
                sets,
                rate,
                steps,
                at,
                batch_size,
                seed,
                picked,
                start,
                lora_rank,
            )
            start = start or made
            table += made[0]
            items += made[1]
        run.figure(plot(table, name, on), "tamper.png")
        run.csv("tamper_items.csv", ITEM_COLUMNS, items)
        run.csv("tamper.csv", COLUMNS, table)


if __name__ == "__main__":
    command.run(main)
