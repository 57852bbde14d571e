"""Is a difference between models larger than chance, counted by entity and corrected for how often
was looked?

    uv run eval/significance.py --base mini-base --filtered mini-filtered \\
        --unlearned mini-base__cb_lat --root outputs

Reads a per-item CSV of each model (`--items`, by default what eval/harness.py wrote) and compares,
task by task, every model with base and, where there is one, with filtered: on the mean of each
entity, paired where both models answered about the same entities. Other seeds of a model are named
with `--repeat MODEL=OTHER`; with two of filtered, oracle is compared with oracle. A row a
comparison and test: paired t, Wilcoxon, sign flips (for different entities Welch, Mann and Whitney,
permutation), KS, two one-sided tests of equivalence within --margin, and McNemar on items (for
comparison with older work: it takes questions for independent). `about` says what a p is about.
Tests of entities and items are about these very models. `seeds_t`, Welch's t of one mean a training
seed (unit `seed`), is about the recipes that made them; it is there from two seeds a side on.
`headline` is 1 for `seeds_t` with at least three seeds a side, and 0 elsewhere. p_holm is corrected
over the tests of the primary metric that the preset declares (`primary = "task test"`; where there
is a headline, `seeds_t` takes the place of the declared test), p_bh over all rows. An empty p:
fewer than 5 entities, or no difference at all. The interval holds what further entities and seeds
would do.

Called significance and not statistics: a script's folder comes first on its import path, and numpy,
random and torch import Python's own `statistics`.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError

COLUMNS = [
    "task",
    "a",
    "b",
    "comparison",
    "primary",
    "headline",
    "about",
    "test",
    "unit",
    "n",
    "n_items",
    "seeds_a",
    "seeds_b",
    "mean_a",
    "mean_b",
    "difference",
    "ci_low",
    "ci_high",
    "statistic",
    "p",
    "p_holm",
    "p_bh",
    "effect",
    "effect_name",
    "cliffs_delta",
]
SEEDS = 3  # a side, for a headline
DEFAULT_TEST = "paired_t"
SEED_TEST = "seeds_t"
MODELS, RECIPES = "these models", "their recipes"  # what a p is about


def read_items(path, value, group):
    """{task: rows} of a per-item CSV. Raises UserError where it is missing or lacks a column."""
    from brittle.base.tables import read_rows

    if not path.is_file():
        raise UserError(
            f"{path} not found. Make it with eval/harness.py, or name another file with --items."
        )
    tasks = {}
    for row in read_rows(path, needs=[value]):
        tasks.setdefault(str(row.get(group, "all")), []).append(row)
    return tasks


def comparisons(roles, repeats):
    """(a, b, what) of all pairs to test: base and filtered with everything, and filtered with its
    own other seeds. Where there is no filtered, base alone.
    """
    base, filtered = (
        next((m for m in roles if roles[m] == role), None) for role in ("base", "filtered")
    )
    for model, role in roles.items():
        if role != "base":
            yield base, model, f"base and {role}"
        if role == "unlearned" and filtered:
            yield filtered, model, "filtered and unlearned"
    for other in repeats.get(filtered, []):
        yield filtered, other, "oracle and oracle"


def seed_means(seeds):
    """[mean over entities] of each seed's model; seeds: [{entity: (sum, count)}, ...].

    Counted are the entities that every seed has.
    """
    shared = [e for e in seeds[0] if all(e in one_seed for one_seed in seeds)]
    return [sum(s[e][0] / s[e][1] for e in shared) / len(shared) for s in seeds]


def compare(a, b, margin, seed=0, value="correct"):
    """(shared columns, [(unit, Result), ...]) for two models on one task; a and b are lists (seeds)
    of per-item rows.
    """
    import numpy as np

    from brittle.data.items import per_entity
    from brittle.maths import entities, hypotheses

    sums_a, sums_b = ([per_entity(rows, value) for rows in side] for side in (a, b))
    mean_a, mean_b = entities.means(sums_a), entities.means(sums_b)
    paired = [e for e in mean_a if e in mean_b]  # in the order of a
    x, y = list(mean_a.values()), list(mean_b.values())
    low, high = None, None
    if paired and len(paired) == len(mean_a) == len(mean_b):
        x, y = [mean_a[e] for e in paired], [mean_b[e] for e in paired]
        matrices = [
            np.array([[one_seed[e][0] / one_seed[e][1] for e in paired] for one_seed in sums])
            for sums in (sums_a, sums_b)
        ]
        low, high = entities.difference(*matrices, seed=seed)
        tests = [
            hypotheses.paired_t(x, y),
            hypotheses.wilcoxon(x, y),
            hypotheses.sign_flip(x, y, seed=seed),
            hypotheses.ks(x, y, seed=seed),
            hypotheses.equivalence(x, y, margin),
        ]
    elif paired:
        raise UserError(
            f"{len(paired)} of {len(mean_a)} and {len(mean_b)} entities are in both files. "
            "Use the same data."
        )
    else:
        tests = [
            hypotheses.welch_t(x, y),
            hypotheses.mann_whitney(x, y),
            hypotheses.permutation(x, y, seed=seed),
            hypotheses.ks(x, y, seed=seed),
            hypotheses.equivalence(x, y, margin, paired=False),
        ]
    tests = [("entity", test) for test in tests]
    if min(len(a), len(b)) > 1:
        tests.append(("seed", hypotheses.seeds_t(seed_means(sums_a), seed_means(sums_b))))
    keys = [[(r.get("item"), r.get("fact"), r.get("template")) for r in s[0]] for s in (a, b)]
    binary = all(row.get(value) in (0, 1) for rows in (a[0], b[0]) for row in rows)
    if binary and keys[0] == keys[1]:
        right_a, right_b = ([row[value] for row in side[0]] for side in (a, b))
        tests.append(("item", hypotheses.mcnemar(right_a, right_b)))
    shared = {
        "n": min(len(x), len(y)),
        "n_items": min(len(a[0]), len(b[0])),
        "seeds_a": len(a),
        "seeds_b": len(b),
        "mean_a": float(np.mean(x)),
        "mean_b": float(np.mean(y)),
        "difference": float(np.mean(x) - np.mean(y)),
        "ci_low": low,
        "ci_high": high,
        "cliffs_delta": hypotheses.cliffs_delta(x, y),
    }
    return shared, tests


def rows(items, roles, repeats, primary=None, margin=0.05, seed=0, value="correct"):
    """A row a comparison and test. `items` is {model: {task: rows}}, `primary` (task, test)."""
    from brittle.maths import hypotheses

    table, counted = [], list(roles) + [r for rs in repeats.values() for r in rs]
    tasks = [task for task in items[counted[0]] if all(task in items[m] for m in counted)]
    for task in tasks:
        for a, b, what in comparisons(roles, repeats):
            # Oracles are compared one seed against another, not against the mean of all.
            alone = what == "oracle and oracle"
            seeds = [[name] if alone else [name, *repeats.get(name, [])] for name in (a, b)]
            sides = [[items[model][task] for model in models] for models in seeds]
            shared, tests = compare(*sides, margin, seed, value)
            enough = min(shared["seeds_a"], shared["seeds_b"]) >= SEEDS
            deciding = primary
            if enough and primary:
                deciding = primary[0], SEED_TEST
            for unit, result in tests:
                row = {
                    "task": task,
                    "a": a,
                    "b": b,
                    "comparison": what,
                    "test": result.test,
                    "unit": unit,
                    "primary": int(deciding == (task, result.test)),
                    "headline": int(enough and result.test == SEED_TEST),
                    "about": RECIPES if unit == "seed" else MODELS,
                    "statistic": result.statistic,
                    "p": result.p,
                    "p_holm": None,
                    "effect": result.effect,
                    "effect_name": result.effect_name,
                }
                table.append(row | shared)
    confirmed = [row for row in table if row["primary"]]
    for row, p in zip(confirmed, hypotheses.holm([row["p"] for row in confirmed]), strict=True):
        row["p_holm"] = p
    adjusted = hypotheses.benjamini_hochberg([row["p"] for row in table])
    for row, p in zip(table, adjusted, strict=True):
        row["p_bh"] = p
    return table


def declaration(preset):
    """((task, test) or None, file) that the preset declares as its primary metric."""
    from brittle.pipeline.steps import PRESETS, read_study

    task, _, test = read_study(preset).primary.partition(" ")
    path = Path(preset) if preset.endswith(".toml") else PRESETS / f"{preset}.toml"
    return (task, test.strip() or DEFAULT_TEST) if task else None, path


def show_p(p):
    """p as text in two digits; what is at the floor is shown as below it."""
    from brittle.maths.hypotheses import FLOOR

    if p is None:
        return "undefined"
    return f"< {FLOOR:.0e}" if p <= FLOOR else f"{p:.2g}"


def said(table):
    """One line a task and comparison: the difference, and the p that holds most of what varies."""
    deciding = {}
    for row in table:
        key = row["task"], row["a"], row["b"]
        if row["headline"] or (row["test"] in (DEFAULT_TEST, "welch_t") and key not in deciding):
            deciding[key] = row
    for (task, a, b), row in deciding.items():
        about = f"{row['seeds_a']} and {row['seeds_b']} seeds: p is about the recipes"
        if not row["headline"]:
            about = f"fewer than {SEEDS} seeds: p is about these two models"
        yield (
            f"{task:<14} {a} − {b}: {row['difference']:+.3f}   "
            f"{row['test']} p {show_p(row['p'])}   ({about})"
        )


def plot(table, primary):
    """The differences of the primary task (else the first) with their intervals, a line a
    comparison.
    """
    from brittle.base import figures

    task = table[0]["task"]
    if primary and any(row["task"] == primary[0] for row in table):
        task = primary[0]
    shown = {(r["a"], r["b"]): r for r in table if r["task"] == task}
    figure, (axis,) = figures.figure(
        f"Difference of means over entities: {task}", "95 % interval", height=0.5 * len(shown) + 1.2
    )
    for i, row in enumerate(shown.values()):
        if row["ci_low"] is not None:
            axis.plot([row["ci_low"], row["ci_high"]], [i, i], color=figures.CYCLE[0])
        axis.plot(row["difference"], i, "o", color=figures.CYCLE[0])
    axis.axvline(0, color=figures.COLOURS["null"], linestyle="--", linewidth=1.4)
    axis.set_yticks(
        range(len(shown)), [f"{figures.short(a)} − {figures.short(b)}" for a, b in shown]
    )
    figures.finish(axis, "difference", "", integer=False, zero=False)
    axis.grid(axis="y", visible=False)
    return figure


def main(
    base: options.Base,
    unlearned: options.UnlearnedModels,
    filtered: options.Filtered = None,
    outdir: options.Outdir = Path("outputs/significance"),
    root: options.Root = Path("outputs"),
    repeat: Annotated[
        list[str] | None,
        typer.Option("--repeat", help="MODEL=OTHER: another seed of a model above."),
    ] = None,
    items: Annotated[
        str, typer.Option("--items", help="Per-item CSV in each model's folder.")
    ] = "harness/samples.csv",
    value: Annotated[str, typer.Option("--value", help="Its column to compare.")] = "correct",
    group: Annotated[
        str, typer.Option("--group", help="Its column that separates tasks.")
    ] = "task",
    preset: Annotated[
        str, typer.Option("--preset", help="Preset that declares the primary metric.")
    ] = "mini",
    margin: Annotated[
        float,
        typer.Option(min=0.0, help="Differences up to this one count as the same (equivalence)."),
    ] = 0.05,
    seed: options.Seed = 0,
):
    """Paired tests, intervals and effect sizes between models, by entity."""
    from brittle.base.layout import model_name, roles_of
    from brittle.base.record import Run
    from brittle.models.twin import check_twin

    roles = roles_of(base, filtered, unlearned)
    check_twin(base, filtered, unlearned)
    repeats = {}
    for pair in repeat or []:
        model, equals, other = (piece.strip() for piece in pair.partition("="))
        if not equals or model_name(model) not in roles:
            raise UserError(
                f"--repeat {pair}: MODEL=OTHER with a MODEL that is compared, such as {base}=OTHER."
            )
        repeats.setdefault(model_name(model), []).append(model_name(other))
    paths = {
        name: root / name / items for name in [*roles, *(r for rs in repeats.values() for r in rs)]
    }
    primary, plan = declaration(preset)
    tables = {name: read_items(path, value, group) for name, path in paths.items()}
    if primary and not any(primary[0] in tasks for tasks in tables.values()):
        # the harness calls the mini world's tasks alone mini_*
        primary = (primary[0].removeprefix("mini_"), primary[1])
    settings = {"primary": primary, "margin": margin, "value": value, "repeats": repeats}
    with Run(outdir, [*paths.values(), plan], seed=seed, settings=settings) as run:
        table = rows(tables, roles, repeats, primary, margin, seed, value)
        if not table:
            raise UserError(f"the models' {items} have no task in common.")
        run.figure(plot(table, primary), "significance.png")
        run.csv("significance.csv", COLUMNS, table)
    for line in said(table):
        print(line)


if __name__ == "__main__":
    command.run(main)
