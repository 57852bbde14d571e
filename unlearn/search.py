"""Which settings does each method need on this model? A search with the same budget for every one.

    uv run unlearn/search.py --model outputs/models/mini-base --methods npo,rmu --trials 12
    uv run unlearn/search.py --model M --data DIR --filtered F --methods npo,rmu --minutes 20 \\
        --target "forget<=filtered+.05" --limits "retain>=.95*base general>=.95*base"

A method's knobs say where to look (`--method NAME --help` lists them), and so do the learning rate
and the steps. Optuna proposes settings, the first time a method's defaults; brittle/unlearning/
search.py says how. Wanted is a model that meets the target and the limits without a sign of
collapse, and of those the one with the lowest KL on neutral text.

What chooses is half A of the forget questions, the retain and general questions and neutral text.
Half B and attacks stay unseen. --robust adds one attack: a trial's model is relearned on a part of
half A (A1), and the target must hold on the rest of it (A2) as well.

Writes search.csv (a row a trial), search.png, best.toml (`unlearn.py --config best.toml` takes it)
and search.db, from which the same command goes on after a kill, or with more trials.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, groups, options
from brittle.base.errors import UserError
from brittle.base.layout import method_label
from brittle.data.examples import DEFAULT, TRAINING, TrainingReading

COLUMNS = [
    "method",
    "trial",
    "state",
    "settings",
    "forget_accuracy",
    "retain_accuracy",
    "general_accuracy",
    "attacked_accuracy",
    "neutral_kl",
    "forget_nll",
    "signs_of_collapse",
    "reached",
    "score",
    "quarters",
    "seconds",
    "best",
    "note",
]


def method_names(text):
    """The methods of `--methods`. Raises UserError for an unknown one."""
    from brittle.methods import chosen, method_class

    names = chosen(text)
    for name in names:
        method_class(name)
    return names


def read_budget(trials, minutes):
    """The Budget of each method. Raises UserError where both or neither is given."""
    from brittle.unlearning.search import Budget

    if (trials is None) == (minutes is None):
        raise UserError("--trials N or --minutes T is wanted, one of them: the budget of a method.")
    return Budget(trials, 60 * (minutes or 0.0))


def default_goal(target, limits, filtered, splits):
    """The Goal of the options; what is left out is the usual."""
    from brittle.unlearning.goal import read_goal

    target = target or f"forget<={'filtered' if filtered else 'chance'}+.05"
    if limits is None:
        kept = [split for split in ("retain", "general") if split in splits]
        limits = " ".join(f"{split}>=.95*base" for split in kept)
    goal = read_goal(target, limits)
    if "filtered" in goal.names() and not filtered:
        raise UserError(f"--target {target}: give the filtered model with --filtered.")
    return goal


def relearning(half_a, seed, reading=DEFAULT):
    """attack(model, tokenizer) -> the best accuracy on A2 that relearning A1 reaches."""
    from brittle.attacks.base import is_mini, kept, right_pairs
    from brittle.attacks.material import split_half_a
    from brittle.attacks.relearn import (
        FineTuning,
        Relearn,
        default_rates,
        encode_attack,
        fine_tune,
    )
    from brittle.metrics import mcq

    train, judging = split_half_a(half_a, seed)
    plan = Relearn()

    def attack(model, tokenizer):
        def judged():
            return mcq.accuracy(model, tokenizer, judging, reading)

        reached = [judged()]
        examples = encode_attack(model, tokenizer, right_pairs(train), reading)
        for lr in default_rates(mini=is_mini(model), lora=False):
            tuning = FineTuning(lr, plan.steps, plan.at, plan.batch_size, seed)
            with kept(model):
                try:
                    fine_tune(
                        model,
                        tokenizer.pad_token_id,
                        examples,
                        tuning,
                        lambda step: reached.append(judged()),
                    )
                except UserError:
                    continue  # this rate breaks the model; the others count
        return max(reached)

    return attack


def csv_rows(listed, goal, levels):
    """The rows of search.csv."""
    from brittle.unlearning.search import best

    chosen = {id(row) for row in best(listed).values()}
    numbers = {}
    for row in listed:
        numbers[row["method"]] = number = numbers.get(row["method"], -1) + 1
        line = dict.fromkeys(COLUMNS)
        line |= {
            "method": method_label(row["method"]),
            "trial": number,
            "state": row["state"],
            "settings": "; ".join(f"{name}={value}" for name, value in row["values"].items()),
            "score": row["score"],
            "quarters": row["quarter"],
            "seconds": row["seconds"],
            "best": int(id(row) in chosen),
            "note": row["why"],
        }
        measures = row["measures"]
        if measures:
            line |= {f"{split}_accuracy": value for split, value in measures.accuracy.items()}
            line |= {
                "neutral_kl": measures.neutral_kl,
                "forget_nll": measures.forget_nll,
                "signs_of_collapse": "; ".join(measures.signs),
                "reached": int(row["state"] == "complete" and goal.reached(measures, levels)),
            }
        yield line


def plot(table, goal, levels, name):
    """All trials: forget accuracy against KL on neutral text and against what is kept."""
    from brittle.base import figures

    figure, (left, right) = figures.figure("Search for settings", name, columns=2, height=4.4)
    measured = [row for row in table if row["neutral_kl"] is not None]
    looks = {"complete": {}, "pruned": {"alpha": 0.35}}
    for k, method in enumerate(dict.fromkeys(row["method"] for row in measured)):
        colour = figures.CYCLE[k % len(figures.CYCLE)]
        marker = "osD^vPX*"[k // len(figures.CYCLE) % 8]
        for row in (row for row in measured if row["method"] == method):
            splits = ("retain_accuracy", "general_accuracy")
            kept = [row[split] for split in splits if row[split] is not None]
            look = {"color": colour, "marker": marker, "linestyle": "", **looks[row["state"]]}
            if row["best"]:
                look |= {"markersize": 12, "markeredgecolor": "black", "label": method}
            left.plot(row["forget_accuracy"], max(row["neutral_kl"], 1e-6), **look)
            if kept:
                right.plot(row["forget_accuracy"], min(kept), **look)
    left.set_yscale("log")
    bounds = [c.bound(levels) for c in goal.target if c.split == "forget"]
    for axis in (left, right):
        axis.axvline(min(bounds), color="0.3", linestyle=":", linewidth=1.2)
    x = "forget accuracy, half A (dotted: target)"
    figures.finish(left, x, "KL on neutral text, nats a token", integer=False, zero=False)
    y = "lower of retain and general accuracy"
    figures.finish(right, x, y, integer=False, zero=False, legend=False)
    return figure


def best_toml(chosen, jobs, goal, levels):
    """The text of best.toml: a complete table a method, and above it what its model did."""
    lines = [
        "# Found by unlearn/search.py. unlearn.py --method NAME --config FILE takes a table.",
        "",
    ]
    for method, row in chosen.items():
        measures = row["measures"]
        shown = ", ".join(f"{split} {value:.3f}" for split, value in measures.accuracy.items())
        lines.append(f"# {shown}, neutral KL {measures.neutral_kl:.4f}")
        if not goal.reached(measures, levels):
            lines.append("# No trial met the target and the limits; this one came nearest.")
        lines.append(f"[{method_label(method)}]")
        for name, value in jobs(method, row["values"]).items():
            lines.append(f"{name} = {json.dumps(value)}")
        lines.append("")
    return "\n".join(lines)


def question_files(data):
    """{split: file} of the questions in the folder `data`. Raises UserError without forget ones."""
    from brittle.data.items import SPLITS

    files = {split: data / f"mcq_{split}.jsonl" for split in SPLITS}
    if not files["forget"].is_file():
        raise UserError(
            f"{files['forget']} not found: a search compares trials by how the forget questions "
            "are answered. docs/data.md says how to make some."
        )
    return {split: path for split, path in files.items() if path.is_file()}


def read_questions(files):
    """{split: items} of half A, and of the other splits."""
    from brittle.data.items import read_items
    from brittle.unlearning.bench import of_half_a

    items = {split: read_items(path) for split, path in files.items()}
    if not any("half" in item for item in items["forget"]):
        print(f"note: {files['forget']} names no halves: all of its questions choose.", flush=True)
    items["forget"] = of_half_a(items["forget"])
    if not items["forget"]:
        raise UserError(f"{files['forget']} holds no question outside half B.")
    return items


def make_plan(model, folder, data, preset, seed):
    """The Plan over the texts of the folder `data`."""
    from brittle.base.record import relative
    from brittle.data.items import read_text_rows
    from brittle.unlearning.job import TextSets
    from brittle.unlearning.plan import Plan

    paths = []
    for name in ("forget", "retain"):
        lines = data / f"{name}.jsonl"
        paths.append(lines if lines.is_file() else data / f"{name}.txt")
    texts = TextSets(*paths, data, *map(read_text_rows, paths))
    presets = relative(__file__).with_name("presets.toml")
    return Plan(model, folder, texts, presets, preset, Path("outputs"), seed)


def make_bench(plan, method, items, device, attack):
    """The TrialBench, with a job of `method` to begin with."""
    from brittle.training.loop import make_accelerator
    from brittle.unlearning.bench import TrialBench

    accelerator = make_accelerator(device)
    if accelerator.num_processes > 1:
        raise UserError("a search runs in one process. Leave accelerate launch out.")
    return TrialBench(
        job=plan.job(method, {}),
        accelerator=accelerator,
        device=device,
        items=items,
        resume=False,
        trust_remote_code=False,
        make_job=plan.job,
        attack=attack,
    )


def measure_levels(bench, filtered):
    """{base, chance, filtered: {split: accuracy}}, as the goal's conditions name them; printed."""
    from brittle.metrics import mcq
    from brittle.unlearning.goal import ATTACKED

    levels = {"base": bench.open()}
    levels["chance"] = {split: mcq.chance(rows) for split, rows in bench.items.items()}
    if bench.attack:
        levels["chance"][ATTACKED] = levels["chance"]["forget"]
    if filtered:
        levels["filtered"] = bench.level_of(filtered)
    for name, accuracy in levels.items():
        shown = ", ".join(f"{split} {value:.3f}" for split, value in accuracy.items())
        print(f"{name}: {shown}", flush=True)
    return levels


def describe(out, goal, settings, reading):
    """What determines the search's trials beside their settings."""
    return {
        "read": {Path(path).name: about["sha256"] for path, about in out.read.items()},
        "goal": [list(condition) for condition in goal.conditions],
        "reading": asdict(reading),
        **{name: settings[name] for name in ("robust", "max_items")},
    }


def announce(method, row):
    """A line on a trial that ended."""
    values = " ".join(f"{name}={value}" for name, value in row["values"].items())
    measures, state = row["measures"], row["state"]
    shown = row["why"]
    if measures:
        shown = " ".join(f"{split} {value:.2f}" for split, value in measures.accuracy.items())
        shown += f" KL {measures.neutral_kl:.3f}"
    print(f"{method} {state}: {shown} score {row['score']:.3f} ({values})", flush=True)


def best_line(row, goal, levels):
    """What the best trial of a method reached, and how."""
    measures = row["measures"]
    shown = ", ".join(f"{split} {value:.3f}" for split, value in measures.accuracy.items())
    values = ", ".join(f"{name} {value}" for name, value in row["values"].items())
    missed = "" if goal.reached(measures, levels) else " (misses the target or a limit)"
    return f"{row['method']}: {shown}, neutral KL {measures.neutral_kl:.3f}{missed}; {values}"


@options.spread
def main(
    model: options.Model,
    methods: Annotated[str, typer.Option(help="Methods, with commas (all).")] = "",
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials of each method, those of earlier calls too.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Minutes of trials of each method, instead.")
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            help="What is to be forgotten, such as forget<=filtered+.05 (the default where there "
            "is --filtered; else forget<=chance+.05)."
        ),
    ] = "",
    limits: Annotated[
        str | None,
        typer.Option(
            help="What is to be kept (retain>=.95*base general>=.95*base, as far as there are "
            "questions)."
        ),
    ] = None,
    filtered: Annotated[
        str, typer.Option(help="The model that never saw the forget facts, for the target.")
    ] = "",
    robust: Annotated[
        bool, typer.Option("--robust", help="The target must hold after relearning too (on A2).")
    ] = False,
    data: options.Data = Path("data/mini"),
    outdir: Annotated[
        Path | None, typer.Option(help="Folder of the results (outputs/<model>/search).")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Defaults to start from: auto (the model's own), default, mini.")
    ] = "auto",
    max_items: Annotated[int, typer.Option(min=5, help="Questions a split that choose.")] = 200,
    reading: TrainingReading = TRAINING,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
):
    """Search each method's settings, all with one budget."""
    names, budget = method_names(methods), read_budget(trials, minutes)
    questions = question_files(data)
    goal = default_goal(target, limits, filtered, questions)
    goal = goal.under_attack() if robust else goal

    from brittle.base.layout import model_name
    from brittle.base.record import Run, say
    from brittle.data.items import subset
    from brittle.methods.own import file_of
    from brittle.models.find import model_folder
    from brittle.models.load import pick_device
    from brittle.unlearning.search import Searcher, best

    folder = model_folder(model, code=trust_remote_code)
    models = {"model": str(folder)}
    if filtered:
        models["filtered"] = str(model_folder(filtered))
    plan = make_plan(model, folder, data, preset, seed)
    plan.reading = reading
    outdir = outdir or plan.root / model_name(model) / "search"
    settings = {"methods": names, "trials": trials, "minutes": minutes, "robust": robust}
    settings |= {"target": target, "limits": limits, "max_items": max_items}
    own_files = [file for file in map(file_of, names) if file]
    inputs = [*plan.files(), *questions.values(), *own_files]
    with Run(outdir, inputs, models, seed, settings) as out:
        items = read_questions(questions)
        attack = relearning(items["forget"], seed, reading) if robust else None
        items = {split: subset(rows, max_items, seed) for split, rows in items.items()}
        bench = make_bench(plan, names[0], items, pick_device(device), attack)
        levels = measure_levels(bench, models.get("filtered"))
        goal.check(levels)
        searcher = Searcher(
            file=outdir / "search.db",
            spaces={name: plan.axes(name, bench.one_pass(name)) for name in names},
            objective=bench.trial,
            score=lambda measures: goal.score(measures, levels),
            seed=seed,
            about=describe(out, goal, settings, reading),
        )
        try:
            listed = searcher.run(budget, announce)
        except KeyboardInterrupt:
            raise UserError(
                f"interrupted. The trials that ended are in {searcher.file}; the same command "
                "goes on from them."
            ) from None
        table, chosen = list(csv_rows(listed, goal, levels)), best(listed)
        text = best_toml(chosen, plan.complete, goal, levels)
        out.path("best.toml").write_text(text, encoding="utf-8")
        out.figure(plot(table, goal, levels, model_name(model)), "search.png")
        out.csv("search.csv", COLUMNS, table)
    for row in chosen.values():
        print(best_line(row, goal, levels))
    say(outdir / "search.csv", f"{len(table)} trials; {outdir}/best.toml")


HELP_GROUPS = {
    groups.DATA: ("max_items",),
    "What is wanted": ("target", "limits", "filtered", "robust"),
    "Budget of each method": ("trials", "minutes"),
}


if __name__ == "__main__":
    command.run(main, HELP_GROUPS)
