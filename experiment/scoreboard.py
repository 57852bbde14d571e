"""After each attack on each unlearned model: how much of the held-out knowledge is back?

    uv run experiment/scoreboard.py

All methods x all attacks x seeds -> <root>/scoreboard.csv, scoreboard.png and scoreboard.html.
Takes the models that unlearn/create_all_unlearning_models.sh made (or --unlearned), and names the
methods that have none. With --config it makes those of a file of settings. Under every attack
    heldout_recovery = (acc - acc_filtered) / (acc_base - acc_filtered)
on half B, which no attack reads. Base and Filtered went through the same attack with the same seed:
1 is Base's level under it, 0 Filtered's. Half A chooses among an attack's variants
(brittle/attacks/meter.py). A row's interval is a bootstrap over facts, drawn by entity, all three
models on the same ones; the page's, of the mean over seeds, adds the seeds' variance. Recovery is
undefined where the attack leaves Base less than .2 above Filtered, or not clearly above; an attack
that fails has empty cells, and one that takes more than .2 of half B from Base has a note.
Without Filtered (another --base without --filtered) the column is recovery_from_chance:
    recovery_from_chance = (acc - chance) / (acc_base - chance)
with Base as made, and as chance what it answers of never-seen questions (mcq_holdout.jsonl), or
guessing. A model that never saw the facts may lie above 0.
eval/attack.py does the work, a process a model and a cell an attack and seed; what is done already
is not done again.
"""

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.base.tables import read_rows
from brittle.data.examples import DEFAULT, Reading
from brittle.metrics.recovery import (
    GAP,
    Cell,
    breaks_base,
    chance_of_half_b,
    differs,
    heldout_recovery,
    interval,
    recovery_from_chance,
)

COLUMNS = [
    "method",
    "attack",
    "seed",
    "forget_accuracy",
    "heldout_recovery",
    "retain_accuracy",
    "heldout_recovery_low",
    "heldout_recovery_high",
    "recovery_from_chance",
    "recovery_from_chance_low",
    "recovery_from_chance_high",
    "chance",
    "chance_of",
    "heldout_accuracy",
    "heldout_accuracy_low",
    "heldout_accuracy_high",
    "split_a_accuracy",
    "variant",
    "n_forget",
    "n_heldout",
    "n_retain",
    "flops",
    "flops_share",
    "label_share",
    "train_seconds",
    "peak_memory_mb",
    "read_sha256",
    "note",
]
SCRIPT = "eval/attack.py"
MINI_BASE, MINI_FILTERED = "outputs/models/mini-base", "outputs/models/mini-filtered"
NAMES = ("attack", "variant", "fact", "note", "read_sha256")  # columns of text in its CSVs


def tasks(models, root, arguments):
    """One run of eval/attack.py a model. models: {name in the scoreboard: model}."""
    from brittle.base.layout import model_name
    from brittle.pipeline.steps import Task

    listed = []
    for name, model in models.items():
        outdir = Path(root) / model_name(model) / "attacks"
        command = [SCRIPT, "--model", model, "--outdir", str(outdir), *arguments]
        output = outdir / "attacks.csv"
        listed.append(Task(f"attacks {name}", "attacks", "Attacks", command, output))
    return listed


def claim_tasks(models, root, data, reading=DEFAULT):
    """What the table of claims reads beside the scoreboard.

    That is each model's free answers, and the collapse of gradient ascent and NPO.
    """
    from brittle.base.layout import model_name
    from brittle.pipeline.steps import Task

    texts = ["--data", str(data)]
    texts += ["--forget", str(data / "forget.txt"), "--retain", str(data / "retain.txt")]
    texts += reading.arguments()
    outdir = Path(root) / "collapse"
    command = ["experiment/collapse.py", "--model", models["base"], "--outdir", str(outdir), *texts]
    listed = [Task("collapse", "collapse", "Collapse", command, outdir / "collapse.csv")]
    for name, model in models.items():
        outdir = Path(root) / model_name(model) / "extract"
        command = ["eval/extract.py", "--model", model, "--outdir", str(outdir)]
        command += ["--templates", "plain", "--max-items", "50", *texts]
        output = outdir / "extract.csv"
        listed.append(Task(f"extract {name}", "extract", "Extraction", command, output))
    return listed


def check_weights(due, compared, root, base, data):
    """Raise UserError where a `due` task has to load a model whose weights were removed.

    compared: {method: model}.
    """
    from brittle.base.disk import has_removed_weights
    from brittle.pipeline.methods import how_to_make

    loaded = {word for task in due for word in task.command}
    removed = [name for name, model in compared.items() if has_removed_weights(model)]
    lacking = [name for name in removed if compared[name] in loaded]
    if lacking:
        make = how_to_make(root, base, lacking, data=data, attack=False)
        raise UserError(
            f"the weights of {', '.join(lacking)} were removed to save space, and what is asked "
            f"for has to read them. Make them again with: {make}"
        )


def read(folder):
    """{(attack, seed): cell} of what eval/attack.py wrote in `folder`.

    A cell is {splits: {split: row}, facts: {fact: (right, asked)}, note}.
    """
    cells = {}

    def cell_of(row):
        key = row["attack"], row["seed"]
        return cells.setdefault(key, {"splits": {}, "facts": {}, "note": ""})

    for row in read_rows(folder / "attacks.csv", text=NAMES):
        cell = cell_of(row)
        if row["chosen"] == 1:
            cell["splits"][row["split"]] = row
    for row in read_rows(folder / "attacks_items.csv", text=NAMES):
        cell_of(row)["facts"][row["fact"]] = row["right"], row["asked"]
    for row in read_rows(folder / "attacks_notes.csv", text=NAMES):
        cell = cell_of(row)
        cell["note"] = "; ".join(filter(None, [cell["note"], row["note"]]))
    return cells


def accuracy(cell, split):
    return cell["splits"].get(split, {}).get("accuracy")


def costs_of(models):
    """{method: {column: number}}: what making each model cost, as its record says it.

    models: {method: folder}. `flops_share` is over the training of Filtered. What no record says is
    None.
    """
    from brittle.unlearning.spent import cost_of

    costs = {name: cost_of(model) for name, model in models.items()}
    whole = costs.get("filtered", {}).get("flops")
    for cost in costs.values():
        known = whole and cost["flops"] is not None
        cost["flops_share"] = cost["flops"] / whole if known else None
    return costs


def rows(boards, names, seeds, costs=None):
    """A row a method, attack and seed.

    boards: {method: what `read` returns}, `base` and, where there is one, `filtered` among them.
    costs: what `costs_of` returns.
    """
    for method, board in boards.items():
        for seed in seeds:
            for attack in names:
                cell = board.get((attack, seed))
                if not cell:
                    continue
                base, as_made = (boards["base"].get((kind, seed)) for kind in (attack, "none"))
                line = as_measured(method, attack, seed, cell) | (costs or {}).get(method, {})
                if line["heldout_accuracy"] is not None:
                    line["note"] = add_note(line["note"], broken_base(as_made, base))
                    if "filtered" in boards:
                        over_filtered(line, cell, boards["filtered"].get((attack, seed)), base)
                    else:
                        over_chance(line, cell, as_made)
                yield line


def add_note(*notes):
    return "; ".join(filter(None, notes))


def as_measured(method, attack, seed, cell):
    """A row of COLUMNS without its recovery."""
    line = dict.fromkeys(COLUMNS)
    line |= {"method": method, "attack": attack, "seed": seed, "note": cell["note"]}
    half_a, half_b = (cell["splits"].get(split) for split in ("forget_a", "forget_b"))
    if not half_b:
        return line
    share = {split: accuracy(cell, split) for split in ("forget_a", "forget_b", "retain")}
    count_a, count_b = half_a["n"], half_b["n"]
    right = share["forget_a"] * count_a + share["forget_b"] * count_b
    line |= {
        "forget_accuracy": right / (count_a + count_b),
        "retain_accuracy": share["retain"],
        "heldout_accuracy": share["forget_b"],
        "heldout_accuracy_low": half_b["accuracy_low"],
        "heldout_accuracy_high": half_b["accuracy_high"],
        "split_a_accuracy": share["forget_a"],
        "variant": half_b["variant"],
        "n_forget": count_a + count_b,
        "n_heldout": count_b,
        "n_retain": cell["splits"].get("retain", {}).get("n"),
        "read_sha256": half_b["read_sha256"],
    }
    return line


def broken_base(as_made, base):
    """That an attack breaks Base, in words, or None. Both are cells of Base, or None."""
    start, left = (accuracy(cell, "forget_b") if cell else None for cell in (as_made, base))
    if None in (start, left) or not breaks_base(start, left):
        return None
    return f"the attack breaks Base: half B falls from {start:.2f} to {left:.2f}"


def over_filtered(line, cell, filtered, base):
    """Fill in held-out recovery. filtered, base: the cells of the two ends under the same attack,
    None where there is none.
    """
    ends = {"filtered": filtered, "base": base}
    level = {role: accuracy(end, "forget_b") if end else None for role, end in ends.items()}
    if None in level.values():
        line["note"] = line["note"] or "no recovery: the attack failed on Base or on Filtered"
        return
    if not differs(filtered["facts"], base["facts"], level):
        missing = f"no recovery: Base is not clearly {GAP} above Filtered under this attack"
        line["note"] = add_note(line["note"], missing)
        return
    value = heldout_recovery(line["heldout_accuracy"], level["filtered"], level["base"])
    ends = interval([Cell(cell["facts"], filtered["facts"], base["facts"], level)])
    fill(line, "heldout_recovery", value, ends)


def over_chance(line, cell, base):
    """Fill in recovery from chance. base: the cell of Base as made, None where there is none."""
    one = accuracy(base, "forget_b") if base else None
    if one is None:
        line["note"] = line["note"] or "no recovery: Base as made was not measured"
        return
    chance = chance_of_half_b(base["splits"])
    line |= {"chance": chance.accuracy, "chance_of": chance.of}
    level = {"filtered": chance.accuracy, "base": one, "error": chance.error}
    if not differs({}, base["facts"], level):
        line["note"] = add_note(
            line["note"], f"no recovery: Base is not clearly {GAP} above chance"
        )
        return
    value = recovery_from_chance(line["heldout_accuracy"], chance.accuracy, one)
    ends = interval([Cell(cell["facts"], {}, base["facts"], level)])
    fill(line, "recovery_from_chance", value, ends)


def fill(line, column, value, ends):
    """Fill in a recovery and the ends of its interval."""
    line |= {column: value, f"{column}_low": ends[0], f"{column}_high": ends[1]}


def average(table, column):
    """{(method, attack): mean over the seeds that have a value}."""
    values_of = {}
    for line in table:
        if line[column] is not None:
            values_of.setdefault((line["method"], line["attack"]), []).append(line[column])
    return {key: sum(values) / len(values) for key, values in values_of.items()}


def plot(table, title):
    """Heat maps, methods down and attacks across.

    They show held-out recovery, and beside it the retain accuracy left.
    """
    import numpy as np

    from brittle.base import figures

    methods, attacks = (
        list(dict.fromkeys(line[key] for line in table)) for key in ("method", "attack")
    )
    size = {"columns": 2, "height": 0.42 * len(methods) + 1.9}
    figure, axes = figures.figure("What each attack brings back", title, **size)
    recovery = ("heldout_recovery", "held-out recovery (0 Filtered, 1 Base)", "viridis")
    if "filtered" not in methods:
        recovery = ("recovery_from_chance", "recovery from chance (0 chance, 1 Base)", "plasma")
    panels = (recovery, ("retain_accuracy", "retain accuracy after the attack", "viridis"))
    for axis, (column, name, colours) in zip(axes, panels, strict=True):
        values = average(table, column)
        grid = np.array(
            [[values.get((m, a), np.nan) for a in attacks] for m in methods], dtype=float
        )
        cmap = figures.plt.get_cmap(colours).with_extremes(bad="0.9")
        axis.imshow(np.clip(grid, 0, 1), vmin=0, vmax=1, cmap=cmap, aspect="auto")
        for (y, x), value in np.ndenumerate(grid):
            shown = (
                "–"
                if np.isnan(value)
                else f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")
            )
            axis.text(
                x,
                y,
                shown,
                ha="center",
                va="center",
                fontsize=9,
                color="black" if not value < 0.6 else "white",
            )
        axis.set_xticks(range(len(attacks)), attacks, rotation=40, ha="right")
        axis.set_yticks(range(len(methods)), methods if axis is axes[0] else [""] * len(methods))
        axis.set_title(name)
        axis.grid(False)
    return figure


@options.spread
def main(
    base: options.Base = MINI_BASE,
    filtered: options.Filtered = None,
    unlearned: Annotated[
        list[str] | None,
        typer.Option(
            "--unlearned",
            help="Unlearned model (repeatable); without, every <root>/<base>__<method> there is.",
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Methods, with commas (all that have a model).")
    ] = "",
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with a table a method, such as unlearn/search.py's best.toml: its "
            "models are made first where they are missing or have other settings."
        ),
    ] = None,
    attacks: Annotated[str, typer.Option(help="Attacks, with commas (all).")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds of the attacks, with commas.")] = "0",
    data: options.Data = Path("data/mini"),
    root: options.Root = Path("outputs"),
    max_items: Annotated[
        int, typer.Option(min=5, help="Items a split to measure on, but for half B: all of it.")
    ] = 200,
    device: options.Device = "auto",
    reading: Reading = DEFAULT,
    claims: Annotated[
        bool,
        typer.Option(
            "--claims", help="Also measure what the table of claims needs beside the cells."
        ),
    ] = False,
    keep_weights: options.KeepWeights = "yes",
    force: Annotated[bool, typer.Option("--force", help="Make every cell anew.")] = False,
    accept_older_code: options.AcceptOlderCode = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Models side by side (2 on CPU, 1 on GPU).")
    ] = None,
):
    """Every attack on every model, in one table."""
    from brittle.attacks import chosen
    from brittle.base import disk
    from brittle.base.layout import model_name
    from brittle.base.record import Run, say
    from brittle.models.twin import check_twin
    from brittle.pipeline import runner
    from brittle.pipeline.methods import how_to_make, unlearned_models
    from brittle.report import attacks as attack_sections

    names = chosen(attacks)
    ends = ends_of(base, filtered)
    keep = disk.check_keep(keep_weights)
    if unlearned and not keep:
        raise UserError(
            "--keep-weights no is for the models of methods, not for those given with --unlearned."
        )
    numbers = options.read_seeds(seeds)
    making = (base, data, root, reading.arguments())
    makers = makers_of(config, methods, unlearned, making)
    compared, absent = {name: str(task.output.parent) for name, task in makers.items()}, []
    if not makers:
        compared, absent = unlearned_models(root, base, methods, unlearned)
    if not compared:
        names = absent if methods else []
        make = how_to_make(root, base, names, ends.get("filtered"), data)
        raise UserError(
            f"no unlearned model of {base} in {root}. Name models that lie elsewhere with "
            f"--unlearned, or make them with: {make}"
        )
    models = {**ends, **compared}
    check_twin(base, ends.get("filtered"), list(compared.values()))
    check_folders({name: model for name, model in models.items() if name not in makers})
    arguments = ["--data", str(data), "--attacks", ",".join(names)]
    arguments += ["--seeds", ",".join(map(str, numbers))]
    arguments += ["--max-items", str(max_items)]
    arguments += reading.arguments()
    if device != "auto":
        arguments += ["--device", device]
    work = tasks(models, root, arguments)
    claimed = claim_tasks(models, root, data, reading) if claims else []
    wait_for(makers.values(), [*work, *claimed])
    due = [
        task for task in [*work, *claimed] if force or task.why(accept_older_code=accept_older_code)
    ]
    as_found = {name: model for name, model in compared.items() if name not in makers}
    check_weights(due, as_found, root, base, data)
    for task in work if force else []:
        shutil.rmtree(task.output.parent / "cells", ignore_errors=True)
    if "relearn_lora" in names and due:
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as in runner.preload
        import peft  # noqa: F401  (once here, not once in every child)
    status = runner.run(
        [*makers.values(), *work, *claimed],
        root,
        force=force,
        jobs=jobs,
        accept_older_code=accept_older_code,
    )
    done = {
        name: task.output.parent
        for name, task in zip(models, work, strict=True)
        if status == 0 or not task.why(accept_older_code=accept_older_code)
    }
    for role in ends:
        if role not in done:
            raise UserError(
                f"the attacks on {role} failed, so nothing can be compared with it. "
                f"See {root}/logs."
            )
    tables = ("attacks.csv", "attacks_items.csv", "attacks_notes.csv")
    files = [folder / name for folder in done.values() for name in tables]
    files += [
        path for path in attack_sections.sources(root) if path.is_file() and path.parent != root
    ]
    settings = {"models": models, "attacks": names, "seeds": numbers, "absent_methods": absent}
    with Run(root, files, seed=numbers[0], settings=settings) as run:
        boards = {name: read(folder) for name, folder in done.items()}
        table = list(rows(boards, names, numbers, costs_of(models)))
        title = f"{model_name(base)}, {len(compared)} methods, {len(numbers)} seed(s)"
        run.figure(plot(table, title), "scoreboard.png")
        page = attack_sections.board_page(table, absent, run.path("scoreboard.png"), root)
        run.path("scoreboard.html").write_text(page, encoding="utf-8")
        run.csv("scoreboard.csv", COLUMNS, table)
    if status == 0 and not keep:
        freed = sum(disk.remove_weights(model) for model in compared.values())
        print(
            f"weights removed: {disk.shown(freed)}" if freed else "all weights were removed before"
        )
    say(root / "scoreboard.csv", f"{len(table)} cells; {root}/scoreboard.html")
    if absent:
        make = how_to_make(root, base, absent, ends.get("filtered"), data)
        print(f"no model in {root}, so not in it: {', '.join(absent)}. Make them with: {make}")
    failed = [name for name in models if name not in done]
    if failed:
        print(f"their attacks failed, so not in it: {', '.join(failed)}")
    return status


def ends_of(base, filtered):
    """{base: model, filtered: model}, without the second where there is none.

    The Filtered of the mini family needs no name where its Base is meant.
    """
    from brittle.base.layout import is_same

    if filtered is None and is_same(base, MINI_BASE):
        filtered = MINI_FILTERED
    return {"base": base} | ({"filtered": filtered} if filtered else {})


def makers_of(config, names, unlearned, making):
    """{method: the task that makes its model by its table of the file `config`}; {} without one.

    making: (base, data, root, flags for reading).
    """
    from brittle.methods import chosen
    from brittle.pipeline import methods

    if config is None:
        return {}
    if unlearned:
        raise UserError("--config makes the models of methods: leave --unlearned out.")
    asked = chosen(names) if names else []
    return methods.by_config(config, asked, *making)


def wait_for(makers, tasks):
    """Let the tasks wait for those of `makers` whose models they read."""
    for task in tasks:
        task.needs += [make.name for make in makers if str(make.output.parent) in task.command]


def check_folders(models):
    """Raise UserError where a model of {name: model} is not there."""
    from brittle.base.disk import has_removed_weights
    from brittle.models.find import model_folder

    for model in models.values():
        # without its weights a model that was measured before still has its cells
        model_folder(model, weights=not has_removed_weights(model))


HELP_GROUPS = {
    "What runs": (
        "attacks",
        "seeds",
        "max_items",
        "claims",
        "keep_weights",
        "force",
        "accept_older_code",
        "jobs",
    ),
}


if __name__ == "__main__":
    command.run(main, HELP_GROUPS)
