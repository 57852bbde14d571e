"""How strong must an attack be before a model gives half B back, and is relearning it as dear as
learning it?

    uv run experiment/ladder.py --unlearned outputs/mini-base__cb_lat/unlearned_model
    uv run experiment/ladder.py --methods npo,repselect --attacks strong_muon,learn_b --jobs 16

Every rung of the strength ladder (LADDER in brittle/attacks/__init__.py) attacks Base, Filtered and
each unlearned model: rates over three decades, 10 to 5,000 steps, three optimizers, adapters,
retain text, restarts, adaptive attackers, fitted ablation. The attacker trains on A1; for each
budget of steps it takes the point with the lowest answer NLL on A2, and half B of it is the result:
    heldout_recovery = (acc - acc_filtered) / (acc_base - acc_filtered)
with Base and Filtered under the same rung, seed and budget. Filtered is the check of every cell:
facts are independent, so half A never teaches half B, at any length. The *strongest* attack is
what A2 prefers over all rungs. `highest_recovery` is the highest of any rung, which no attacker
could have chosen. `relative_price` is the steps in which the model learns half B itself to .9,
divided by Filtered's: 1 is as dear as learning it anew (brittle/attacks/price.py).

Writes ladder.csv (a row a model, rung, seed and budget), ladder_models.csv (a row a model) and
ladder.png below --root. Cells are kept in <root>/<model>/ladder/<rung>, so what is done is not done
again. --jobs runs so many side by side, on a GPU too: small models share a card.
"""

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.base.tables import mean, read_rows

COLUMNS = [
    "model",
    "attack",
    "seed",
    "budget",
    "variant",
    "answer_nll",
    "heldout_accuracy",
    "retain_accuracy",
    "filtered_accuracy",
    "base_accuracy",
    "heldout_recovery",
]
MODEL_COLUMNS = [
    "model",
    "as_made",
    "heldout_recovery",
    "heldout_recovery_low",
    "heldout_recovery_high",
    "attack",
    "variant",
    "retain_accuracy",
    "highest_recovery",
    "highest_attack",
    "budget_to_half",
    "steps_to_learn_b",
    "relative_price",
    "note",
]
TEXT = ("attack", "variant", "fact", "note", "read_sha256")  # columns of text in its CSVs
SCRIPT = "eval/attack.py"
BASE, FILTERED = "outputs/models/mini-base", "outputs/models/mini-filtered"
PRICE = "learn_b"
STEP = re.compile(r", step (\d+)$")


def rungs(text):
    """The rungs of a list with commas (all). Raises UserError for another attack."""
    from brittle.attacks import LADDER
    from brittle.base.knobs import listed

    names = listed(text) or list(LADDER)
    for name in names:
        if name not in LADDER:
            raise UserError(f"--attacks {name}: choose {', '.join(LADDER)}.")
    return list(dict.fromkeys(names))


def tasks(models, root, names, arguments):
    """{(model's name, rung): task}: one run of eval/attack.py each, the dearest rungs first."""
    from brittle.base.layout import model_name
    from brittle.pipeline.steps import Task

    planned = {}
    for rung in sorted(names, key=lambda name: not name.startswith("strong_long")):
        for name, model in models.items():
            outdir = Path(root) / model_name(model) / "ladder" / rung
            call = [SCRIPT, "--model", model, "--outdir", str(outdir), "--attacks", rung]
            output = outdir / "attacks.csv"
            task = Task(f"{rung} {name}", "ladder", "Ladder", [*call, *arguments], output)
            planned[name, rung] = task
    return planned


def read(folder, rung):
    """{seed: {points, made, facts}} of a rung on one model.

    points: {variant: {split: row}}. made: the rows {split: row} of the model as made. facts:
    {fact: (right, asked)} of half B under the variant that counts.
    """
    of_seed = defaultdict(lambda: {"points": {}, "made": {}, "facts": {}})
    for row in read_rows(folder / "attacks.csv", text=TEXT):
        cell = of_seed[row["seed"]]
        if row["attack"] == rung:
            cell["points"].setdefault(row["variant"], {})[row["split"]] = row
        else:
            cell["made"][row["split"]] = row
    for row in read_rows(folder / "attacks_items.csv", text=TEXT):
        if row["attack"] == rung:
            of_seed[row["seed"]]["facts"][row["fact"]] = row["right"], row["asked"]
    return dict(of_seed)


def step_of(variant):
    """The steps of a variant; 0 where it has none (an ablation)."""
    match = STEP.search(variant)
    return int(match[1]) if match else 0


def within(points, budget):
    """(variant, {split: row}) with the lowest answer NLL on A2 of those within the budget; None
    where none was measured.
    """
    from brittle.attacks.meter import JUDGE

    known = [
        (rows[JUDGE]["answer_nll"], variant)
        for variant, rows in points.items()
        if step_of(variant) <= budget and rows[JUDGE]["answer_nll"] is not None
    ]
    if not known:
        return None
    variant = min(known)[1]
    return variant, points[variant]


def rows(boards, seeds):
    """A row of COLUMNS a model, rung, seed and budget.

    boards: {model: {rung: what `read` returns}}, `base` and `filtered` among them.
    """
    from brittle.attacks.meter import JUDGE
    from brittle.metrics.recovery import heldout_recovery

    for model, board in boards.items():
        for rung, cells in board.items():
            for seed in seeds:
                ends = [boards[role].get(rung, {}).get(seed) for role in ("base", "filtered")]
                cell = cells.get(seed)
                if cell is None or None in ends:
                    continue
                for budget in sorted({step_of(variant) for variant in cell["points"]}):
                    chosen = [within(c["points"], budget) for c in (cell, *ends)]
                    if None in chosen:
                        continue
                    variant, splits = chosen[0]
                    accuracy, base, filtered = (c[1]["forget_b"]["accuracy"] for c in chosen)
                    yield {
                        "model": model,
                        "attack": rung,
                        "seed": seed,
                        "budget": budget,
                        "variant": variant,
                        "answer_nll": splits[JUDGE]["answer_nll"],
                        "heldout_accuracy": accuracy,
                        "retain_accuracy": splits["retain"]["accuracy"],
                        "filtered_accuracy": filtered,
                        "base_accuracy": base,
                        "heldout_recovery": heldout_recovery(accuracy, filtered, base),
                    }


def strongest(table, budget):
    """The row of one model and seed that A2 prefers within a budget; None where there is none."""
    known = [r for r in table if r["budget"] <= budget and r["heldout_recovery"] is not None]
    return min(known, key=lambda row: row["answer_nll"], default=None)


def over_budget(table):
    """[(budget, recovery under the attack that A2 prefers)] of one model and seed, ascending."""
    budgets = sorted({row["budget"] for row in table})
    chosen = [(budget, strongest(table, budget)) for budget in budgets]
    return [(budget, row["heldout_recovery"]) for budget, row in chosen if row]


def as_made(boards, model, seed):
    """Recovery of a model before any attack, over Filtered and Base as made; None unmeasured."""
    from brittle.metrics.recovery import recovery_over_filtered

    level = {}
    for name in (model, "filtered", "base"):
        before = [cells[seed]["made"] for cells in boards[name].values() if seed in cells]
        level[name] = before[0]["forget_b"]["accuracy"] if before else None
    return recovery_over_filtered(level[model], level["filtered"], level["base"])


def bounds(boards, model, chosen):
    """The 95 % interval of the mean recovery over seeds. chosen: [a row of COLUMNS a seed].

    The facts that are known are those under the last budget's choice of a rung.
    """
    from brittle.metrics.recovery import Cell, interval

    cells = []
    for row in chosen:
        of = {n: boards[n][row["attack"]][row["seed"]] for n in (model, "filtered", "base")}
        level = {"filtered": row["filtered_accuracy"], "base": row["base_accuracy"]}
        facts = [of[name]["facts"] for name in (model, "filtered", "base")]
        cells.append(Cell(*facts, level))
    return interval(cells)


def mean_of_all(values):
    """The mean, None where a value is missing: seeds that never get there would bias it."""
    values = list(values)
    return None if None in values else mean(values)


def price_of(boards, model, seed):
    """Steps in which a model learns half B to .9; None where it does not, or was not asked."""
    from brittle.attacks.price import steps_to

    cell = boards[model].get(PRICE, {}).get(seed)
    if cell is None:
        return None
    return steps_to([row for splits in cell["points"].values() for row in splits.values()])


def model_row(boards, model, table, seeds):
    """The row of MODEL_COLUMNS of one model. table: its rows of COLUMNS."""
    from brittle.metrics.recovery import reached_at

    line = dict.fromkeys(MODEL_COLUMNS) | {"model": model, "note": ""}
    of_seed = {seed: [row for row in table if row["seed"] == seed] for seed in seeds}
    chosen = [strongest(rows, float("inf")) for rows in of_seed.values() if rows]
    chosen = [row for row in chosen if row]
    line["as_made"] = mean(as_made(boards, model, seed) for seed in seeds)
    if chosen:
        low, high = bounds(boards, model, chosen)
        known = [row for row in table if row["heldout_recovery"] is not None]
        highest = max(known, key=lambda row: row["heldout_recovery"])
        curves = [[(0, line["as_made"] or 0.0), *over_budget(rows)] for rows in of_seed.values()]
        line |= {
            "heldout_recovery": mean(row["heldout_recovery"] for row in chosen),
            "heldout_recovery_low": low,
            "heldout_recovery_high": high,
            "attack": chosen[0]["attack"],
            "variant": chosen[0]["variant"],
            "retain_accuracy": mean(row["retain_accuracy"] for row in chosen),
            "highest_recovery": highest["heldout_recovery"],
            "highest_attack": f"{highest['attack']}, {highest['variant']}",
            "budget_to_half": mean_of_all(reached_at(curve, 0.5) for curve in curves),
        }
    steps = [(price_of(boards, model, s), price_of(boards, "filtered", s)) for s in seeds]
    line["steps_to_learn_b"] = mean_of_all(own for own, _ in steps)
    line["relative_price"] = mean_of_all(
        own / other if own is not None and other else None for own, other in steps
    )
    missing = sum(own is None for own, _ in steps)
    if any(PRICE in board for board in boards.values()) and missing:
        line["note"] = (
            f"half B was not learned to .9 at any rate in {missing} of {len(steps)} seeds"
        )
    return line


def plot(table, lines, title):
    """Recovery over the budget of steps, a line a model, and the relative prices."""
    from brittle.base import figures

    figure, (left, right) = figures.figure("Attacks of every strength", title, columns=2)
    names = [line["model"] for line in lines]
    for k, name in enumerate(names):
        colour = figures.CYCLE[k % len(figures.CYCLE)]
        own = [row for row in table if row["model"] == name]
        curve = over_budget([row for row in own if row["seed"] == own[0]["seed"]]) if own else []
        budgets = [max(budget, 1) for budget, _ in curve]
        values = [value for _, value in curve]
        left.plot(budgets, values, marker="o", color=colour, label=name)
        if lines[k]["relative_price"] is not None:
            right.barh(k, lines[k]["relative_price"], color=colour)
    left.set_xscale("log")
    left.axhline(0.5, color="0.6", linestyle=":", linewidth=1)
    right.axvline(1, color="0.6", linestyle=":", linewidth=1)
    right.set_yticks(range(len(names)), names)
    right.set_xlabel("steps to learn half B, over Filtered's")
    figures.finish(left, "steps of the attack", "held-out recovery", integer=False, zero=False)
    return figure


def compared_models(root, base, filtered, methods, unlearned):
    """{name: model}: the ends `base` and `filtered`, then the unlearned models."""
    from brittle.methods import chosen
    from brittle.pipeline.methods import how_to_make, unlearned_models

    named, _ = unlearned_models(root, base, methods, unlearned)
    if not named:
        make = how_to_make(root, base, chosen(methods) if methods else [], filtered)
        raise UserError(f"no unlearned model of {base} in {root}. Make some with: {make}")
    return {"base": base, "filtered": filtered, **named}


def main(
    base: options.Base = BASE,
    filtered: options.Filtered = FILTERED,
    unlearned: Annotated[
        list[str] | None,
        typer.Option(
            help="Unlearned model (repeatable); without, every <root>/<base>__<method> there is."
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Methods, with commas (all that have a model).")
    ] = "",
    attacks: Annotated[str, typer.Option(help="Rungs, with commas (all).")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds of the attacks, with commas.")] = "0",
    data: options.Data = Path("data/mini"),
    root: options.Root = Path("outputs"),
    max_items: Annotated[
        int, typer.Option(min=5, help="Items a split to measure on, but for half B: all of it.")
    ] = 100,
    device: options.Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Make every cell anew.")] = False,
    dry_run: options.DryRun = False,
    accept_older_code: options.AcceptOlderCode = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Cells side by side (2 on CPU, 1 on GPU; small models share one)."
        ),
    ] = None,
):
    """Attacks of every strength on every model, and the price of learning half B anew."""
    from brittle.base.record import Run, say
    from brittle.models.find import model_folder
    from brittle.models.twin import check_twin
    from brittle.pipeline import runner

    names = rungs(attacks)
    numbers = options.read_seeds(seeds)
    models = compared_models(root, base, filtered, methods, unlearned)
    for model in models.values():
        model_folder(model)
    check_twin(base, filtered, [m for n, m in models.items() if n not in ("base", "filtered")])
    arguments = ["--data", str(data), "--seeds", ",".join(map(str, numbers))]
    arguments += ["--max-items", str(max_items)]
    arguments += ["--device", device] if device != "auto" else []
    planned = tasks(models, root, names, arguments)
    accepts = {"accept_older_code": accept_older_code}
    if any("lora" in name for name in names) and not dry_run:
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as in runner.preload
        import peft  # noqa: F401  (once here, not once in every child)
    status = runner.run(
        list(planned.values()), root, force=force, dry_run=dry_run, jobs=jobs, **accepts
    )
    if dry_run:
        return status
    boards = {name: {} for name in models}
    for (name, rung), task in planned.items():
        if status == 0 or not task.why(**accepts):
            boards[name][rung] = read(task.output.parent, rung)
    for role in ("base", "filtered"):
        if not boards[role]:
            raise UserError(f"the attacks on {role} failed. See {root}/logs.")
    files = [
        task.output.with_name(name)
        for (model, rung), task in planned.items()
        for name in ("attacks.csv", "attacks_items.csv")
        if rung in boards[model]
    ]
    settings = {"models": models, "attacks": names, "seeds": numbers}
    with Run(root, files, seed=numbers[0], settings=settings) as run:
        of_attacks = {m: {r: c for r, c in b.items() if r != PRICE} for m, b in boards.items()}
        table = list(rows(of_attacks, numbers))
        lines = [
            model_row(boards, name, [row for row in table if row["model"] == name], numbers)
            for name in models
        ]
        run.figure(
            plot(table, lines, f"{len(models) - 2} models, {len(names)} rungs"), "ladder.png"
        )
        run.csv("ladder.csv", COLUMNS, table)
        run.csv("ladder_models.csv", MODEL_COLUMNS, lines)
    for line in lines:
        print(in_words(line))
    say(root / "ladder_models.csv", f"{len(lines)} models; {root}/ladder.csv")
    return status


def in_words(line):
    """What the ladder did to one model, in a line."""

    def shown(value):
        return "-" if value is None else f"{value:.2f}"

    words = f"{line['model']}: relative price {shown(line['relative_price'])}"
    if line["attack"] is None:
        return words
    bounds = f"[{shown(line['heldout_recovery_low'])}, {shown(line['heldout_recovery_high'])}]"
    return (
        f"{words}, recovery {shown(line['heldout_recovery'])} {bounds} by {line['attack']} "
        f"({line['variant']}), highest {shown(line['highest_recovery'])}"
    )


HELP_GROUPS = {
    "What runs": (
        "attacks",
        "seeds",
        "max_items",
        "force",
        "dry_run",
        "accept_older_code",
        "jobs",
    ),
}


if __name__ == "__main__":
    command.run(main, HELP_GROUPS)
