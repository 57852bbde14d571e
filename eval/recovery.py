"""Does relearning half A of the forget facts bring back held-out half B: was the knowledge removed, or only hidden?

    uv run eval/recovery.py --base M --filtered M --unlearned M --root outputs --outdir outputs/recovery

Reads what eval/tamper.py measured, `<root>/<model>/tamper/`. For each model the attack's learning rate and step are chosen
by accuracy on half A alone, among equals the fewest steps, then the smallest rate. What is reported is half B at that point:
    recovery_over_filtered = (acc - acc_filtered) / (acc_base - acc_filtered)
with the base and filtered models as made. 1: as if nothing had been forgotten; 0: as if the facts had never been seen. Facts
are independent draws, so learning A can teach nothing about B (arXiv:2410.08827). The 95 % interval is a bootstrap over
facts, with base and filtered resampled alongside. `recovery_early` is the same after about 20 attack steps, `steps_to_half`
the step at which the chosen rate's curve reaches recovery .5 (empty where it never does), `recovery_area` the curve's mean
over the attack. The attack trains on half A and soon answers all of it, so many rates and steps are equals: `recovery_most` is
the highest recovery among them, which takes half B to find: no attacker's choice, but what the choice may have missed.
`--attack` names the folder of another attack (eval/tamper.py with --on, --lora-rank).
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.metrics.recovery import GAP, curve, interval, recovery_over_filtered

COLUMNS = ["model", "role", "lr", "step", "split_a_accuracy", "heldout_accuracy", "recovery_over_filtered", "ci_low", "ci_high",
           "retain_accuracy", "general_accuracy", "recovery_early", "early_step", "steps_to_half", "recovery_area",
           "recovery_most"]  # fmt: skip
TAMPER = ("model", "lr", "step", "split", "accuracy", "n")
ITEMS = ("model", "lr", "step", "fact", "template", "correct")
EARLY = 20  # attack steps: where hidden knowledge is back and new knowledge is not yet learned (design: 20 against 100)


def read_attack(folder):
    """({(lr, step): {split: accuracy}} of the rates that did not break, half-B items [fact, lr, step, correct])."""
    import pandas as pd

    from brittle.base.tables import read_table

    if not (folder / "tamper.csv").is_file():
        raise UserError(
            f"{folder}/tamper.csv not found. Make it with: uv run eval/tamper.py --model M --outdir {folder}"
        )
    table = read_table(folder / "tamper.csv", TAMPER)
    broken = set(table[table["accuracy"].isna()]["lr"])
    whole = table[~table["lr"].isin(broken)]
    accuracies = {}
    for row in whole.itertuples():
        accuracies.setdefault((row.lr, row.step), {})[row.split] = row.accuracy
    items = folder / "tamper_items.csv"
    return accuracies, read_table(items, ITEMS) if items.is_file() else pd.DataFrame(
        columns=list(ITEMS)
    )


def as_made(accuracies):
    """The key (lr, 0) of the model before the attack; the same at every rate, so the smallest stands for all."""
    return min(key for key in accuracies if key[1] == 0)


def choose(accuracies):
    """(lr, step) with the highest accuracy on half A; among equals the smallest step, then the smallest rate. B is not read.

    (Not the lowest loss on half A: that is the step at which the attack has learned A by heart, and B suffers from it.)
    """
    return min(accuracies, key=lambda key: (-accuracies[key]["forget_a"], key[1], key[0]))


def nearest(accuracies, lr, step):
    """The evaluated step of rate `lr` (after 0) that is nearest to `step`; the smaller of two."""
    found = [s for rate, s in accuracies if rate == lr and s > 0]
    return min(found, key=lambda s: (abs(s - step), s)) if found else None


def per_fact(items, key):
    """{fact: (right, items)} of half B at (lr, step)."""
    at = items[(items["lr"] == key[0]) & (items["step"] == key[1])]
    grouped = at.groupby("fact", sort=True)["correct"]
    return {fact: (int(right), int(n)) for fact, right, n in zip(*_columns(grouped), strict=True)}


def _columns(grouped):
    return grouped.sum().index, grouped.sum(), grouped.count()


def rows(attacks, roles):
    """A row a model. `attacks` is {model: (accuracies, items)} and `roles` {model: base | filtered | unlearned}."""
    ends = {role: next(m for m in roles if roles[m] == role) for role in ("base", "filtered")}
    for model in ends.values():
        if not attacks[model][0]:
            raise UserError(
                f"{model}: every learning rate broke this model. Attack it with smaller ones (--lr)."
            )
    start = {role: as_made(attacks[m][0]) for role, m in ends.items()}
    level = {role: attacks[m][0][start[role]]["forget_b"] for role, m in ends.items()}
    facts = {role: per_fact(attacks[m][1], start[role]) for role, m in ends.items()}
    for model, (accuracies, items) in attacks.items():
        if not accuracies:
            yield dict.fromkeys(COLUMNS) | {"model": model, "role": roles[model]}
            continue
        lr, step = choose(accuracies)
        found, early = accuracies[lr, step], nearest(accuracies, lr, EARLY)
        value = recovery_over_filtered(found["forget_b"], level["filtered"], level["base"])
        low, high = (None, None)
        if value is not None:
            low, high = interval(
                per_fact(items, (lr, step)), facts["filtered"], facts["base"], level
            )
        ends_at = (level["filtered"], level["base"])
        sooner = (
            recovery_over_filtered(accuracies[lr, early]["forget_b"], *ends_at) if early else None
        )
        equals = [v["forget_b"] for v in accuracies.values() if v["forget_a"] == found["forget_a"]]
        half, area = curve(
            [
                (s, recovery_over_filtered(v["forget_b"], *ends_at))
                for (rate, s), v in accuracies.items()
                if rate == lr
            ]
        )
        yield {
            "model": model, "role": roles[model], "lr": lr, "step": step, "split_a_accuracy": found["forget_a"],
            "heldout_accuracy": found["forget_b"], "recovery_over_filtered": value, "ci_low": low, "ci_high": high,
            "retain_accuracy": found["retain"], "general_accuracy": found["general"],
            "recovery_early": sooner, "early_step": early, "steps_to_half": half, "recovery_area": area,
            "recovery_most": recovery_over_filtered(max(equals), *ends_at),
        }  # fmt: skip


def plot(attacks, table):
    """Held-out accuracy against attack step, all models: the rate chosen on half A strong, the others faint."""
    from brittle.base import figures

    look = {"base": ("#222222", "o"), "filtered": ("#0072B2", "s")}
    figure, (axis,) = figures.figure(
        "Relearning attack on half A of the forget facts",
        "accuracy on half B, held out",
        height=4.4,
    )
    others = 0
    for row in table:
        colour, marker = look.get(row["role"]) or (figures.CYCLE[1 + others % 6], "D")
        others += row["role"] == "unlearned"
        accuracies = attacks[row["model"]][0]
        for lr in sorted({rate for rate, _ in accuracies}):
            steps = sorted(step for rate, step in accuracies if rate == lr)
            best = lr == row["lr"]
            style = (
                {"marker": marker, "linewidth": 2.4} if best else {"alpha": 0.3, "linewidth": 1.2}
            )
            label = f"{figures.short(row['model'])} ({row['role']})" if best else None
            axis.plot(
                steps,
                [accuracies[lr, s]["forget_b"] for s in steps],
                color=colour,
                label=label,
                **style,
            )
    figures.null(axis, None, 0.25, "chance")
    axis.set_ylim(0, 1.03)
    figures.finish(
        axis,
        "attack step (thin: other learning rates)",
        "heldout_accuracy",
        legend=False,
        zero=False,
    )
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    return figure


def main(
    base: Annotated[str, typer.Option("--base", help="The model that saw everything.")],
    filtered: Annotated[
        str, typer.Option("--filtered", help="The model that never saw the forget facts.")
    ],
    unlearned: Annotated[
        list[str], typer.Option("--unlearned", help="Unlearned model (repeatable).")
    ],
    outdir: options.Outdir = Path("outputs/recovery"),
    root: Annotated[Path, typer.Option("--root", help="Folder of all results.")] = Path("outputs"),
    attack: Annotated[
        str, typer.Option(help="Folder of the attack in each model's results.")
    ] = "tamper",
):
    """Recovery over Filtered of every model under the relearning attack, from the attacks' CSVs."""
    from brittle.base.layout import model_name
    from brittle.base.record import Run

    roles = {}
    for model, role in [
        (base, "base"),
        (filtered, "filtered"),
        *((m, "unlearned") for m in unlearned),
    ]:
        name = model_name(model)
        if roles.setdefault(name, role) != role:
            raise UserError(
                f"{name} is given as {roles[name]} and as {role}. Give each model once."
            )
    folders = {name: root / name / attack for name in roles}
    attacks = {name: read_attack(folder) for name, folder in folders.items()}
    files = [
        f / n
        for f in folders.values()
        for n in ("tamper.csv", "tamper_items.csv")
        if (f / n).is_file()
    ]
    with Run(outdir, files, seed=0, settings={"roles": roles}) as run:
        table = list(rows(attacks, roles))
        run.figure(plot(attacks, table), "tamper.png")
        run.csv("recovery.csv", COLUMNS, table)
    if table[0]["recovery_over_filtered"] is None:
        print(
            f"recovery is undefined: base is not {GAP} above filtered on half B as made; its cells are empty."
        )
    for row in table:
        if row["lr"] is None:
            print(
                f"{row['model']:<32} every learning rate broke it: not attacked. Use smaller ones (eval/tamper.py --lr)."
            )
            continue
        shown = (
            ""
            if row["recovery_over_filtered"] is None
            else f"   recovery {row['recovery_over_filtered']:.2f}"
        )
        print(f"{row['model']:<32} held-out accuracy {row['heldout_accuracy']:.2f}{shown}")


if __name__ == "__main__":
    command.run(main)
