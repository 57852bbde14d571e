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
`answer_nll` is the mean over a split's questions of the answer's summed NLL in nats. Of half A's
facts the attack trains on four fifths, A1. The others, A2 (split forget_a2, drawn by --seed),
choose rate and step: the lowest answer_nll. A rate ends where two measurements in a row are no
better on A2. The attack runs with each of --seeds (three, from --seed on). The first is measured in
full, the others only where A2 prefers them to all before: no other point can be chosen.
eval/recovery.py compares models, with steps to half recovery and the area under the curve. A rate
at which the attack breaks the model (NaN) has empty cells from there on, never chance. Without --lr
the rates are those of the scoreboard's attack: 1e-3 and 3e-3 for the mini family, and for any other
model 1e-5, 1e-4 and 1e-3, of which the one that fits is chosen. A rate that takes more than .2 of
half B from this model is named: where the model is Base, the attack breaks it.
"""

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.base.knobs import listed
from brittle.data.examples import DEFAULT, Reading
from brittle.metrics.recovery import BREAKS, breaks_base

COLUMNS = [
    "model",
    "lr",
    "step",
    "split",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "chance",
    "n",
    "answer_nll",
    "seed",
]
ITEM_COLUMNS = ["model", "lr", "step", "fact", "template", "correct", "seed"]
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
        asked = {int(number) for number in listed(text)}
    except ValueError:
        raise UserError(f"--eval-at {text}: step numbers with commas, such as 5,10,20.") from None
    return tuple(sorted({step for step in asked if 0 < step < steps} | {steps}))


def attack_rows(data, on, seed=0):
    """The rows that the attack trains on: of half A those of A1, which `seed` draws.

    Raises UserError where those of half-a or benign tell a fact of half B.
    """
    from brittle.attacks import base, material

    if on == "half-b":
        return base.right_pairs(material.halves(data)[1])
    known = material.Material(data, seed)
    rows = base.right_pairs(known.forget_to_train()) if on == "half-a" else known.benign()
    known.check(material.forbidden(data))
    return rows


class Attacked(NamedTuple):
    """What one rate made of the model, with one attack seed."""

    seed: int
    lr: float
    meter: object


def measure_as_made(model, tokenizer, sets, reading=DEFAULT, first=None):
    """(Meter, merit) of the model before the attack.

    first: that of another seed. Only A2 is asked again: the other splits are the same.
    """
    from brittle.attacks.meter import JUDGE, Meter

    if first is not None:
        sets = {JUDGE: sets[JUDGE]}
    start = Meter(model, tokenizer, sets, BATCH_SIZE, everything=True, reading=reading)
    merit = start("as made", step=0)
    if start.notes:
        raise UserError(start.notes[0])
    if first is not None:
        start.rows += [
            row for row in first.rows if row["variant"] == "as made" and row["split"] != JUDGE
        ]
        start.rights = {"as made": first.rights["as made"] | start.rights["as made"]}
    return start, merit


def attack(model, tokenizer, examples, sets, relearning, rates, first=None):
    """[Attacked]: what every rate of a `Relearn` makes of the model.

    The rows of step 0 are measured once: they are the same at every rate. first: the Meter of the
    model as made with the first seed. Without one this is the first seed, and every step is asked
    every split.
    """
    from brittle.attacks.meter import Meter

    reading = relearning.reading
    start, merit = measure_as_made(model, tokenizer, sets, reading, first)
    done, best, everything = [], merit, first is None
    for lr in rates:
        meter = Meter(model, tokenizer, sets, BATCH_SIZE, everything, reading, best=best)
        meter.rows += start.rows
        meter.rights |= start.rights
        label = f"seed {relearning.seed}, lr {lr:g}"
        error = relearning.attack(model, tokenizer, examples, lr, meter, label=label, start=merit)
        if error:
            print(f"note: lr {lr:g} broke the model: {error}")
        best = max(best, meter.best)
        done.append(Attacked(relearning.seed, lr, meter))
    return done


def rows(name, done):
    """A row a seed, rate, step and split. done: [Attacked]."""
    from brittle.metrics import mcq

    for seed, lr, meter in done:
        by_guessing = {split: mcq.chance(items) for split, items in meter.sets.items()}
        for row in meter.rows:
            chance = by_guessing[row["split"]]
            whole = row | {"model": name, "lr": lr, "seed": seed, "chance": chance}
            yield {column: whole[column] for column in COLUMNS}


def item_rows(name, done):
    """A row a seed, rate, step and item of half B: was it answered rightly?"""
    for seed, lr, meter in done:
        steps = {row["variant"]: row["step"] for row in meter.rows}
        for variant, rights in meter.rights.items():
            if "forget_b" not in rights:
                continue
            answered = zip(meter.sets["forget_b"], rights["forget_b"], strict=True)
            for number, (item, right) in enumerate(answered):
                yield {
                    "model": name,
                    "lr": lr,
                    "step": steps[variant],
                    "fact": item.get("fact", number),
                    "template": item.get("template", 0),
                    "correct": right,
                    "seed": seed,
                }


def outcome(done):
    """What the attack made of the model, in words. done: [Attacked], at least one."""
    from brittle.attacks import meter

    of_seed = {}
    for seed, lr, measured in done:
        for row in measured.rows:
            of_seed.setdefault(seed, []).append(row | {"variant": (lr, row["step"])})
    start, chosen = half_b(done[0].meter.rows)[0], []
    for rows in of_seed.values():
        counts = meter.choose(rows)
        chosen += half_b([row for row in rows if row["variant"] == counts])[:1]
    if not chosen:
        return f"half B {start:.2f} as made; every rate broke the model"
    mean = sum(chosen) / len(chosen)
    return (
        f"half B {start:.2f} as made, {mean:.2f} after the attack (mean of {len(chosen)} seeds, "
        "rate and step chosen on half A)"
    )


def breaking(done):
    """{rate: the first step} of the first seed from which on a rate takes too much of half B."""
    first, steps = done[0].seed, {}
    for seed, lr, measured in done:
        if seed != first:
            continue
        asked = [row for row in measured.rows if row["split"] == "forget_b"]
        known = sorted(
            (row["step"], row["accuracy"]) for row in asked if row["accuracy"] is not None
        )
        start = known[0][1]
        broken = [step for step, accuracy in known if breaks_base(start, accuracy)]
        if broken:
            steps[lr] = broken[0]
    return steps


def half_b(rows):
    """The accuracies on half B that are known."""
    known = [row for row in rows if row["split"] == "forget_b"]
    return [row["accuracy"] for row in known if row["accuracy"] is not None]


def plot(table, name, on):
    """Accuracy against attack step: one panel a split, one line a learning rate."""
    import pandas as pd

    from brittle.base import figures

    frame = pd.DataFrame(table)
    frame = frame[frame["seed"] == frame["seed"].iloc[0]]  # the seed that was measured in full
    figure, axes = figures.figure(f"Relearning attack, trained on {on}", name, rows=2, columns=2)
    for axis, split in zip(axes, SPLITS, strict=True):
        for lr, curve in frame[frame["split"] == split].groupby("lr"):
            axis.plot(curve["step"], curve["accuracy"], marker="o", label=f"lr {lr:g}")
        axis.set(title=split, xlabel="step", ylabel="accuracy", ylim=(0, 1.05))
        axis.axhline(0.25, color="0.6", linestyle=":", linewidth=1)
    axes[0].legend()
    return figure


@options.spread
def main(
    model: options.Model,
    outdir: options.Outdir,
    data: options.Data = Path("data/mini"),
    lr: Annotated[
        list[float] | None,
        typer.Option(
            help="Learning rates, one attack each. Left out they depend on the model alone: 1e-3, "
            "3e-3 for the mini family (adapters 3e-3, 1e-2), 1e-5, 1e-4, 1e-3 for any other "
            "(adapters 1e-4, 1e-3, 1e-2). A rate that breaks Base is chosen for no model."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of an attack.")] = 50,
    eval_at: Annotated[
        str, typer.Option(help="Steps to measure at; 0 and the last are always measured.")
    ] = "5,10,20",
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
    reading: Reading = DEFAULT,
    seed: options.Seed = 0,
    seeds: options.ThreeSeeds = None,
    device: options.Device = "auto",
    revision: options.Revision = None,
):
    """Relearning attack: fine-tune on half A of the forget facts, measure held-out half B."""
    if on not in TRAINED:
        raise UserError(f"--on {on}: choose {', '.join(TRAINED)}.")
    from brittle.attacks.meter import NEVER_SEEN_FILE, judging_set
    from brittle.attacks.relearn import Relearn, default_rates, encode_attack
    from brittle.base.layout import model_name
    from brittle.base.own_data import is_mini
    from brittle.base.record import Run, say
    from brittle.data.items import SPLITS as ALL_SPLITS
    from brittle.data.items import read_items
    from brittle.data.subjects import drawn_over
    from brittle.models.find import model_folder
    from brittle.models.load import load_model, load_tokenizer, pick_device

    rates = sorted(lr or default_rates(mini=is_mini(model), lora=bool(lora_rank)))
    if any(not rate > 0 for rate in rates):
        raise UserError(f"--lr {min(rates):g}: learning rates are positive.")
    at = read_steps(eval_at, steps)
    folder = model_folder(model, revision)
    name = model_name(model)
    numbers = options.seeds_from(seeds, seed, 3)
    sets = eval_sets(data, max_items, numbers[0])
    texts = {number: attack_rows(data, on, number) for number in numbers}
    picked = pick_device(device)
    settings = {
        "attacked_on": on,
        "texts": len(texts[numbers[0]]),
        "seeds": numbers,
        "steps": steps,
        "lr": rates,
        "lora_rank": lora_rank,
        "halves_drawn_over": drawn_over(read_items(data / "mcq_forget.jsonl")),
        **reading.about(),
    }
    names = [*(f"mcq_{split}.jsonl" for split in ALL_SPLITS), "qa_forget.jsonl", NEVER_SEEN_FILE]
    if on == "benign":
        names += ["retain.txt", "retain.facts.jsonl", "retain.jsonl", "neutral.txt"]
    files = [data / file for file in names if (data / file).is_file()]
    with Run(outdir, files, {"model": str(folder)}, numbers[0], settings) as run:
        attacked, tokenizer = load_model(folder, picked, "float32"), load_tokenizer(folder)
        done, first = [], None
        for number in numbers:
            examples = encode_attack(attacked, tokenizer, texts[number], reading)
            measured = judging_set(data, number) | sets
            relearning = Relearn(number, None, steps, at, batch_size, lora_rank, reading=reading)
            done += attack(attacked, tokenizer, examples, measured, relearning, rates, first)
            first = first or done[0].meter
        table = list(rows(name, done))
        run.figure(plot(table, name, on), "tamper.png")
        run.csv("tamper_items.csv", ITEM_COLUMNS, item_rows(name, done))
        run.csv("tamper.csv", COLUMNS, table)
    for lr, step in breaking(done).items():
        print(
            f"note: rate {lr:g} takes more than {BREAKS} of half B from this model "
            f"from step {step} on. "
            "Where the model is Base, the attack breaks it: eval/recovery.py leaves the rate "
            "out there, and smaller ones (--lr) are wanted."
        )
    say(outdir / "tamper.csv", outcome(done))


if __name__ == "__main__":
    command.run(main)
