"""Does relearning half of the forget facts bring back the other half?

    uv run eval/tamper.py --model outputs/models/mini-base --outdir outputs/mini-base/tamper

The relearning attack: fine-tune the whole model (AdamW, float32 master weights, constant rate) on the questions and answers
of half A of the forget set, at several learning rates, and measure half A, held-out half B, retain and general accuracy
every few steps. Facts are independent, so what comes back on B was hidden, not removed (arXiv:2410.08827). The attack reads
half A only; `eval/recovery.py` chooses rate and step by A and compares models. A rate at which the attack breaks the model
(NaN) has empty cells from there on, never chance.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle import cli
from brittle.errors import UserError

COLUMNS = ["model", "lr", "step", "split", "accuracy", "n"]
ITEM_COLUMNS = ["model", "lr", "step", "fact", "template", "correct"]
SPLITS = ("forget_a", "forget_b", "retain", "general")


def eval_sets(data, max_items, seed):
    """{split: items} to measure (all of half B, at most `max_items` of the others), and half A's items to train on."""
    from brittle import mcq

    items = mcq.read_splits(data)
    halves = {half: [i for i in items["forget"] if i.get("half") == half] for half in "AB"}
    for half, found in halves.items():
        if not found:
            raise UserError(f"{data}/mcq_forget.jsonl has no item with half {half}: the attack needs both halves, A and B.")
    return {
        "forget_a": mcq.subset(halves["A"], max_items, seed),
        "forget_b": halves["B"],
        "retain": mcq.subset(items["retain"], max_items, seed),
        "general": mcq.subset(items["general"], max_items, seed),
    }, halves["A"]


def measure(model, tokenizer, sets, name, lr, step, table, items):
    """Append this moment's accuracies (one row a split) and the half-B items' outcomes."""
    from brittle import mcq

    model.eval()
    for split, chosen in sets.items():
        scored = mcq.score(model, tokenizer, chosen)
        right = [int(p == item["answer"]) for (p, _), item in zip(scored, chosen, strict=True)]
        table.append(dict(zip(COLUMNS, (name, lr, step, split, sum(right) / len(right), len(right)), strict=True)))
        if split == "forget_b":
            items += [
                dict(zip(ITEM_COLUMNS, (name, lr, step, i.get("fact", n), i.get("template", 0), r), strict=True))
                for n, (i, r) in enumerate(zip(chosen, right, strict=True))
            ]
    model.train()


def attack(folder, name, texts, sets, lr, steps, at, batch_size, seed, device, start=None):
    """Rows of one learning rate. `start` are the rows of step 0, the same at every rate, where they are known already."""
    import torch

    from brittle import losses, models, text
    from brittle.train import Settings, make_accelerator, train

    model, tokenizer = models.load_model(folder, device, "float32"), models.load_tokenizer(folder)
    table, items = [], []
    if start is None:
        measure(model, tokenizer, sets, name, lr, 0, table, items)
    else:
        table, items = ([{**row, "lr": lr} for row in rows if row["step"] == 0] for rows in start)
    ids = text.encode(tokenizer, texts, models.context_length(model.config), "attack texts")
    stream = text.Stream(ids, tokenizer.pad_token_id, batch_size, 1, seed, device)
    settings = Settings(steps=steps, lr=lr, batch_size=batch_size, schedule="constant", seed=seed)

    def evaluate(step, row):
        if step in at:
            measure(model, tokenizer, sets, name, lr, step, table, items)

    def terms(step, micro, progress):
        return {"nll": losses.nll(model, stream.batches(step)[micro])}

    model.train()
    try:
        train(model, terms, settings, make_accelerator(torch.device(device)), after_step=evaluate, label=f"lr {lr:g}")
    except UserError as error:
        print(f"note: lr {lr:g} broke the model: {error}")
        done = {row["step"] for row in table}
        table += [
            dict(zip(COLUMNS, (name, lr, step, split, None, len(chosen)), strict=True))
            for step in at
            if step not in done
            for split, chosen in sets.items()
        ]
    return table, items


def plot(table, name):
    """Accuracy against attack step: one panel a split, one line a learning rate."""
    import pandas as pd

    from brittle import plots

    frame = pd.DataFrame(table)
    figure, axes = plots.figure("Relearning attack on half A of the forget facts", name, rows=2, columns=2)
    for axis, split in zip(axes, SPLITS, strict=True):
        for lr, part in frame[frame["split"] == split].groupby("lr"):
            axis.plot(part["step"], part["accuracy"], marker="o", label=f"lr {lr:g}")
        axis.set(title=split, xlabel="step", ylabel="accuracy", ylim=(0, 1.05))
        axis.axhline(0.25, color="0.6", linestyle=":", linewidth=1)
    axes[0].legend()
    return figure


def main(
    model: cli.Model,
    outdir: cli.Outdir,
    data: cli.Data = Path("data/mini"),
    lr: Annotated[list[float] | None, typer.Option(help="Learning rates, one attack each.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of an attack.")] = 100,
    eval_at: Annotated[str, typer.Option(help="Steps to measure at; 0 and the last are always measured.")] = "5,10,20,50",
    batch_size: cli.BatchSize = 32,
    max_items: Annotated[int, typer.Option(min=5, help="Items a split to measure on, but for half B: all of it.")] = 200,
    seed: cli.Seed = 0,
    device: cli.Device = "auto",
    revision: cli.Revision = None,
):
    """Relearning attack: fine-tune on half A of the forget facts, measure held-out half B."""
    from brittle import mcq, models, results

    try:
        at = {int(part) for part in eval_at.split(",") if part.strip()}
    except ValueError:
        raise UserError(f"--eval-at {eval_at}: step numbers with commas, such as 5,10,20.") from None
    at = sorted({step for step in at if 0 < step < steps} | {steps})
    rates = lr or [3e-4, 1e-3, 3e-3]
    if any(not rate > 0 for rate in rates):
        raise UserError(f"--lr {min(rates):g}: learning rates are positive.")
    folder = models.model_folder(model, revision)
    name = results.model_name(model)
    sets, train_items = eval_sets(data, max_items, seed)
    texts = [f"{i['question']} {i['choices'][i['answer']]}" for i in train_items]
    picked = models.pick_device(device)
    settings = {"attacked_on": "forget half A", "texts": len(texts), "steps": steps, "lr": rates}
    files = [data / f"mcq_{split}.jsonl" for split in mcq.SPLITS]
    with results.Run(outdir, files, {"model": str(folder)}, seed, settings) as run:
        table, items, start = [], [], None
        for rate in rates:
            made = attack(folder, name, texts, sets, rate, steps, at, batch_size, seed, picked, start)
            start = start or made
            table += made[0]
            items += made[1]
        run.figure(plot(table, name), "tamper.png")
        run.csv("tamper_items.csv", ITEM_COLUMNS, items)
        run.csv("tamper.csv", COLUMNS, table)


if __name__ == "__main__":
    cli.run(main)
