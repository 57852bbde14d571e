"""Does relearning half A of the forget facts bring back held-out half B, removed or only hidden?

    uv run eval/recovery.py --base M --filtered M --unlearned M --outdir outputs/recovery
    uv run eval/recovery.py --base M --unlearned M --outdir outputs/recovery

Reads what eval/tamper.py measured, `<root>/<model>/tamper/`. The attack trains on a part of half A.
For each model and attack seed the learning rate and step are those with the lowest answer NLL on
the facts of half A that it did not train on (brittle/attacks/meter.py); half B has no say. What is
reported is half B at that point, the mean over attack seeds:
    recovery_over_filtered = (acc - acc_filtered) / (acc_base - acc_filtered)
with the base and filtered models as made. 1: as if nothing had been forgotten; 0: as if the facts
had never been seen. Facts are independent draws, so learning A can teach nothing about B
(arXiv:2410.08827). The 95 % interval is a bootstrap over attack seeds and entities, the same facts
for all three models. Recovery is undefined (empty) where Base is not clearly above Filtered on half
B. A rate that takes more than .2 of half B from the untouched Base breaks it: from that step on it
is chosen for no model.

Without --filtered the zero is chance, and the columns are others:
    recovery_from_chance = (acc - chance) / (acc_base - chance)
`chance` is what Base as made answers of never-seen questions (mcq_holdout.jsonl), and guessing
where the data have none. What a model that never saw the facts would answer is not known, so a
value above 0 alone says nothing. `gained` is recovery less that of the model as made, and
`never_seen_gained` what never-seen questions gained by the same attack.

    lr, step         the choice of the first attack seed; recovery_seeds.csv has all seeds'
    recovery_early   the same after about 20 attack steps
    steps_to_half    the step at which the chosen rate's curve reaches recovery .5; empty where it
                     never does
    recovery_area    the curve's mean over the steps that were measured
    seeds, seed_sd   attack seeds, and the standard deviation of recovery over them
recovery_early, steps_to_half and recovery_area are of the first attack seed, which alone is
measured in full. `--attack` names the folder of another attack (eval/tamper.py with --on,
--lora-rank).
"""

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.base.tables import mean
from brittle.metrics.recovery import (
    BREAKS,
    GAP,
    NEVER_SEEN,
    Cell,
    breaks_base,
    chance_of_half_b,
    curve,
    differs,
    interval,
    recovery_from_chance,
    recovery_over_filtered,
)

COLUMNS = [
    "model",
    "role",
    "lr",
    "step",
    "split_a_accuracy",
    "heldout_accuracy",
    "recovery_over_filtered",
    "recovery_from_chance",
    "ci_low",
    "ci_high",
    "chance",
    "chance_of",
    "gained",
    "gained_low",
    "gained_high",
    "never_seen_gained",
    "retain_accuracy",
    "general_accuracy",
    "recovery_early",
    "early_step",
    "steps_to_half",
    "recovery_area",
    "seeds",
    "seed_sd",
]
SEED_COLUMNS = [
    "model",
    "seed",
    "lr",
    "step",
    "forget_a2_nll",
    "heldout_accuracy",
    "recovery_over_filtered",
    "recovery_from_chance",
]
TAMPER = ("model", "lr", "step", "split", "accuracy", "n", "answer_nll", "seed")
ITEMS = ("model", "lr", "step", "fact", "template", "correct", "seed")
# attack steps after which hidden knowledge is back and new knowledge is not yet learned
EARLY = 20


class MeasuredAttack(NamedTuple):
    """What eval/tamper.py wrote of one model.

    points: {seed: {(lr, step): {split: row}}} of the rates that did not break; items: a table of
    half B's items [seed, lr, step, fact, correct], empty where there is none.
    """

    points: dict
    items: object

    def first(self):
        """The first seed, which was measured in full."""
        return min(self.points)


def read_attack(folder):
    """The `MeasuredAttack` in a folder of eval/tamper.py."""
    import pandas as pd

    from brittle.base.tables import read_table

    if not (folder / "tamper.csv").is_file():
        raise UserError(
            f"{folder}/tamper.csv not found. "
            f"Make it with: uv run eval/tamper.py --model M --outdir {folder}"
        )
    table = read_table(folder / "tamper.csv", TAMPER)
    blank = table[table["accuracy"].isna()]
    broken = set(zip(blank["seed"], blank["lr"], strict=True))
    points = {}
    for row in table.to_dict("records"):
        if (row["seed"], row["lr"]) not in broken:
            of_seed = points.setdefault(row["seed"], {})
            of_seed.setdefault((row["lr"], row["step"]), {})[row["split"]] = row
    items = folder / "tamper_items.csv"
    if items.is_file():
        return MeasuredAttack(points, read_table(items, ITEMS))
    return MeasuredAttack(points, pd.DataFrame(columns=list(ITEMS)))


def accuracy(splits, split="forget_b"):
    """Accuracy on a split of one measured point."""
    return splits[split]["accuracy"]


def as_made(points):
    """The key (lr, 0) of the model before the attack: it is the same at every rate."""
    return min(key for key in points if key[1] == 0)


def broken_for_base(base):
    """{lr: the first step} from which on a rate of the attack breaks Base."""
    points = base.points[base.first()]
    start = accuracy(points[as_made(points)])
    breaking = {}
    for lr, step in sorted(points, reverse=True):
        if breaks_base(start, accuracy(points[lr, step])):
            breaking[lr] = step
    return breaking


def choose(points, breaking=None):
    """(lr, step) that `meter.choose` takes of one seed's points; None where no rate is usable.

    points: {(lr, step): {split: row}}; breaking: what `broken_for_base` returns. Points at which
    half B was not asked are those that a better one on A2 came before.
    """
    from brittle.attacks import meter

    breaking = breaking or {}
    usable = [
        key
        for key, splits in points.items()
        if "forget_b" in splits and key[1] < breaking.get(key[0], key[1] + 1)
    ]
    # a step may have been asked on A2 alone, which did not prefer it: then the model as made counts
    if not any(step and step < breaking.get(lr, step + 1) for lr, step in points):
        return None
    rows = [row | {"variant": key} for key in usable for row in points[key].values()]
    return meter.choose(rows)


def nearest(points, lr, step):
    """The evaluated step of rate `lr` (after 0) that is nearest to `step`; the smaller of two."""
    measured = [s for rate, s in points if rate == lr and s > 0]
    return min(measured, key=lambda s: (abs(s - step), s)) if measured else None


def per_fact(items, seed, key):
    """{fact: (right, items)} of half B with an attack seed, at key (lr, step)."""
    at = items[(items["seed"] == seed) & (items["lr"] == key[0]) & (items["step"] == key[1])]
    grouped = at.groupby("fact", sort=True)["correct"]
    rights, counts = grouped.sum(), grouped.count()
    return {fact: (int(rights[fact]), int(counts[fact])) for fact in rights.index}


class Ends(NamedTuple):
    """Base and the zero as made, on half B; both dicts have the keys base and filtered.

    level: accuracies; facts: {fact: (right, items)}; defined: do they differ clearly?
    breaking: {lr: step} from which on the attack breaks Base. chance_of: what the zero is where
    there is no Filtered, else None; then it is under the key filtered, without facts.
    """

    level: dict
    facts: dict
    defined: bool
    breaking: dict
    chance_of: str | None = None

    @property
    def column(self):
        """The column of the recovery that has this zero."""
        return "recovery_from_chance" if self.chance_of else "recovery_over_filtered"

    def recovery(self, splits, split="forget_b"):
        """The recovery at one measured point; None where it is undefined."""
        if not self.defined:
            return None
        zero, one = self.level["filtered"], self.level["base"]
        if self.chance_of:
            return recovery_from_chance(accuracy(splits, split), zero, one)
        return recovery_over_filtered(accuracy(splits, split), zero, one)

    def cell(self, attacked):
        """The `Cell` of one attack seed. attacked: {fact: (right, items)}."""
        return Cell(attacked, self.facts["filtered"], self.facts["base"], self.level)


def read_ends(attacks, roles):
    """The `Ends` of the models whose roles are base and filtered, or of Base and chance."""
    level, facts, chance_of = {}, {"filtered": {}}, None
    for model in [name for name in roles if roles[name] in ("base", "filtered")]:
        role, measured = roles[model], attacks[model]
        if not measured.points:
            raise UserError(
                f"{model}: every learning rate broke this model. "
                "Attack it with smaller ones (--lr)."
            )
        seed = measured.first()
        start = as_made(measured.points[seed])
        level[role] = accuracy(measured.points[seed][start])
        facts[role] = per_fact(measured.items, seed, start)
        if role == "base":
            breaking, base_as_made = broken_for_base(measured), measured.points[seed][start]
    if "filtered" not in roles.values():
        chance = chance_of_half_b(base_as_made)
        level |= {"filtered": chance.accuracy, "error": chance.error}
        chance_of = chance.of
    defined = differs(facts["filtered"], facts["base"], level)
    return Ends(level, facts, defined, breaking, chance_of)


def seed_rows(attacks, ends):
    """A row of SEED_COLUMNS a model and attack seed that has a choice."""
    for model, measured in attacks.items():
        for seed, points in measured.points.items():
            key = choose(points, ends.breaking)
            if key is not None:
                yield {
                    "model": model,
                    "seed": seed,
                    "lr": key[0],
                    "step": key[1],
                    "forget_a2_nll": points[key]["forget_a2"]["answer_nll"],
                    "heldout_accuracy": accuracy(points[key]),
                    "recovery_over_filtered": None,
                    "recovery_from_chance": None,
                    ends.column: ends.recovery(points[key]),
                }


def rows(attacks, roles, ends, chosen):
    """A row of COLUMNS a model.

    attacks: {model: MeasuredAttack}; roles: {model: base | filtered | unlearned}; chosen: the rows
    of `seed_rows`.
    """
    for model, measured in attacks.items():
        of_model = [row for row in chosen if row["model"] == model]
        blank = dict.fromkeys(COLUMNS) | {"model": model, "role": roles[model]}
        if not of_model:
            yield blank
            continue
        columns = row_of_model(measured, of_model, ends)
        if ends.chance_of:
            columns |= above_chance(measured, of_model, ends)
        if roles[model] != "unlearned" and all(row["step"] == 0 for row in of_model):
            # as made it is an end of the scale: 1 or 0 by definition, which has no interval
            columns |= dict.fromkeys(("ci_low", "ci_high", "gained_low", "gained_high"))
        yield blank | columns


def row_of_model(measured, chosen, ends):
    """The columns of one model, but for its name and role. chosen: its rows of `seed_rows`."""
    from statistics import fmean, stdev

    first = chosen[0]
    lr = first["lr"]
    keys = {row["seed"]: (row["lr"], row["step"]) for row in chosen}
    at = [measured.points[seed][key] for seed, key in keys.items()]
    curves = {key: s for key, s in measured.points[first["seed"]].items() if "forget_b" in s}
    early = nearest(curves, lr, EARLY)
    back = [row[ends.column] for row in chosen]
    low, high, half, area = None, None, None, None
    if ends.defined:
        attacked = [per_fact(measured.items, seed, key) for seed, key in keys.items()]
        low, high = interval([ends.cell(facts) for facts in attacked])
        of_rate = {step: splits for (rate, step), splits in curves.items() if rate == lr}
        half, area = curve([(step, ends.recovery(splits)) for step, splits in of_rate.items()])
    return {
        "lr": lr,
        "step": first["step"],
        "split_a_accuracy": fmean(accuracy(splits, "forget_a") for splits in at),
        "heldout_accuracy": fmean(accuracy(splits) for splits in at),
        ends.column: fmean(back) if ends.defined else None,
        "ci_low": low,
        "ci_high": high,
        # data of one's own may have neither
        "retain_accuracy": mean(accuracy(s, "retain") for s in at if "retain" in s),
        "general_accuracy": mean(accuracy(s, "general") for s in at if "general" in s),
        "recovery_early": ends.recovery(curves[lr, early]) if early else None,
        "early_step": early,
        "steps_to_half": half,
        "recovery_area": area,
        "seeds": len(chosen),
        "seed_sd": stdev(back) if ends.defined and len(back) > 1 else None,
    }


def above_chance(measured, chosen, ends):
    """The columns that stand beside recovery_from_chance. chosen: a model's rows of `seed_rows`."""
    columns = {"chance": ends.level["filtered"], "chance_of": ends.chance_of}
    if not ends.defined:
        return columns
    seed = measured.first()
    before = as_made(measured.points[seed])
    start = measured.points[seed][before]
    keys = {row["seed"]: (row["lr"], row["step"]) for row in chosen}
    at = [measured.points[seed][key] for seed, key in keys.items()]

    def gained(split):
        values = [ends.recovery(splits, split) for splits in at if split in splits]
        return mean(value - ends.recovery(start, split) for value in values)

    cells = [ends.cell(per_fact(measured.items, seed, key)) for seed, key in keys.items()]
    low, high = interval(cells, start=per_fact(measured.items, seed, before))
    columns |= {"gained": gained("forget_b"), "gained_low": low, "gained_high": high}
    if ends.chance_of == NEVER_SEEN:
        columns["never_seen_gained"] = gained("never_seen")
    return columns


def plot(attacks, table, ends):
    """Held-out accuracy against attack step, of the first attack seed; its chosen rate is bold."""
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
        measured = attacks[row["model"]]
        points = measured.points[measured.first()] if measured.points else {}
        asked = {key: splits for key, splits in points.items() if "forget_b" in splits}
        for lr in sorted({rate for rate, _ in asked}):
            steps = sorted(step for rate, step in asked if rate == lr)
            best = lr == row["lr"]
            style = (
                {"marker": marker, "linewidth": 2.4} if best else {"alpha": 0.3, "linewidth": 1.2}
            )
            label = f"{figures.short(row['model'])} ({row['role']})" if best else None
            axis.plot(
                steps,
                [accuracy(asked[lr, s]) for s in steps],
                color=colour,
                label=label,
                **style,
            )
    label, colour = (ends.chance_of, "chance") if ends.chance_of else ("chance", "null")
    level = ends.level["filtered"] if ends.chance_of else 0.25
    figures.null(axis, None, level, label, colour)
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
    base: options.Base,
    unlearned: options.UnlearnedModels,
    filtered: options.Filtered = None,
    outdir: options.Outdir = Path("outputs/recovery"),
    root: options.Root = Path("outputs"),
    attack: Annotated[
        str, typer.Option(help="Folder of the attack in each model's results.")
    ] = "tamper",
):
    """How much of half B each model has back under the relearning attack, from the attacks' CSVs.

    Recovery is over Filtered, or from chance where there is none.
    """
    from brittle.base.layout import roles_of
    from brittle.base.record import Run
    from brittle.models.twin import check_twin

    roles = roles_of(base, filtered, unlearned)
    check_twin(base, filtered, unlearned)
    folders = {name: root / name / attack for name in roles}
    attacks = {name: read_attack(folder) for name, folder in folders.items()}
    files = [
        f / n
        for f in folders.values()
        for n in ("tamper.csv", "tamper_items.csv")
        if (f / n).is_file()
    ]
    with Run(outdir, files, seed=0, settings={"roles": roles}) as run:
        ends = read_ends(attacks, roles)
        chosen = list(seed_rows(attacks, ends))
        table = list(rows(attacks, roles, ends, chosen))
        run.figure(plot(attacks, table, ends), "tamper.png")
        run.csv("recovery_seeds.csv", SEED_COLUMNS, chosen)
        run.csv("recovery.csv", COLUMNS, table)
    print("\n".join(summary(table, ends)))


def summary(table, ends):
    """Lines about what was measured, and about what could not be."""
    from brittle.base.tables import show_interval

    base, zero = ends.level["base"], ends.level["filtered"]
    if not ends.defined:
        other = f"{ends.chance_of} gives" if ends.chance_of else "Filtered"
        yield (
            f"recovery is undefined: on half B as made Base answers {base:.2f} and {other} "
            f"{zero:.2f}, which must differ by {GAP} at least and by more than chance."
        )
    elif ends.chance_of:
        yield (
            f"no --filtered: 0 is {ends.chance_of} ({zero:.2f}), 1 is Base as made ({base:.2f}). "
            "A model that never saw the facts may lie above 0."
        )
    for lr, step in sorted(ends.breaking.items()):
        yield (
            f"the attack breaks Base: rate {lr:g} takes more than {BREAKS} of half B from it "
            f"from step {step} on, and is chosen for no model there."
        )
    for row in table:
        if row["lr"] is None:
            yield (
                f"{row['model']:<32} every learning rate broke it, or breaks Base: not attacked. "
                "Use smaller ones (eval/tamper.py --lr)."
            )
            continue
        shown = ""
        if row[ends.column] is not None:
            shown = f"   {ends.column} {row[ends.column]:.2f}"
        if shown and row["ci_low"] is not None:
            shown += f" {show_interval(row['ci_low'], row['ci_high'])} over {row['seeds']} seed(s)"
        yield f"{row['model']:<32} held-out accuracy {row['heldout_accuracy']:.2f}{shown}"


if __name__ == "__main__":
    command.run(main)
