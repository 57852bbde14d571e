"""Does gradient ascent break a model sooner than NPO does?

    uv run experiment/collapse.py --model outputs/models/mini-base --outdir outputs/collapse

Both without a retain term, at the same rate, with the same batches, from the same start, several
seeds (Zhang et al. 2024, arXiv:2404.05868, section 3: GA diverges linearly, NPO logarithmically).
collapse.csv has the curves: the retain accuracy and the forget NLL a token. collapse_steps.csv has
the first step at which the retain accuracy is no more than half of the way from guessing to the
start; empty where that does not happen.
"""

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.data.examples import DEFAULT, Reading

COLUMNS = ["method", "beta", "lr", "seed", "step", "retain_accuracy", "forget_nll", "n"]
STEP_COLUMNS = ["method", "beta", "lr", "seed", "collapse_step", "threshold", "forget_nll_end"]
METHODS = ("ga_simple", "npo")


class Point(NamedTuple):
    """What is measured at one step."""

    step: int
    retain_accuracy: float
    forget_nll: float  # nats a token


def curve(folder, method, knobs, rows, settings, every, device, reading=DEFAULT):
    """[Point] of one run, a point every `every` steps.

    rows: {forget, retain: rows of texts, questions: multiple-choice items}.
    """
    from brittle.data.examples import encode_rows
    from brittle.methods import method_class
    from brittle.metrics import mcq
    from brittle.models.architectures import context_length
    from brittle.models.load import load_model, load_tokenizer
    from brittle.models.logprobs import mean_nll
    from brittle.training.fitting import make_streams
    from brittle.training.loop import make_accelerator, train
    from brittle.training.steps import AfterStep

    model, tokenizer = load_model(folder, device, "float32"), load_tokenizer(folder)
    limit = context_length(model.config)
    sets = {
        name: (
            encode_rows(tokenizer, rows[name], limit, reading, f"{name} texts", refuse=False),
            [],
        )
        for name in ("forget", "retain")
    }
    streams = make_streams(sets, tokenizer, settings.batch_size, 1, settings.seed, device)
    asked, points = sets["forget"][0][:400], []

    def measure(step, row=None):
        if step % every == 0:
            model.eval()
            accuracy = mcq.accuracy(model, tokenizer, rows["questions"], reading)
            points.append(Point(step, accuracy, mean_nll(model, asked, tokenizer.pad_token_id)))
            model.train()

    def terms(step, micro, progress):
        return rule.losses(
            streams.forget.batches(step)[0], streams.retain.batches(step)[0], progress
        )

    measure(0)
    rule = method_class(method)(**knobs)
    rule.start(model, None, streams)
    try:
        train(
            model,
            terms,
            settings,
            make_accelerator(device),
            hooks=[AfterStep(measure)],
            label=f"{method} seed {settings.seed}",
        )
    except UserError as error:  # NaN: what was measured until then stands
        print(f"note: {method}, seed {settings.seed}: {error}")
    return points


def collapse_step(points, chance):
    """(first measured step with retain accuracy at most half of the way from chance to the start,
    or None; that accuracy).
    """
    threshold = chance + (points[0].retain_accuracy - chance) / 2
    below = (point.step for point in points if point.retain_accuracy <= threshold)
    return next(below, None), threshold


def plot(table, name):
    """Retain accuracy and forget NLL over steps, one line a seed."""
    from brittle.base import figures

    figure, axes = figures.figure("Unlearning without a retain term", name, columns=2)
    for axis, column in zip(axes, ("retain_accuracy", "forget_nll"), strict=True):
        for colour, method in zip(figures.CYCLE, METHODS, strict=False):
            for seed in dict.fromkeys(row["seed"] for row in table):
                line = [row for row in table if row["method"] == method and row["seed"] == seed]
                label = method if seed == table[0]["seed"] else None
                axis.plot(
                    [r["step"] for r in line],
                    [r[column] for r in line],
                    color=colour,
                    alpha=0.7,
                    label=label,
                )
        figures.finish(axis, "step", column)
    return figure


@options.spread
def main(
    model: options.Model = "outputs/models/mini-base",
    outdir: options.Outdir = Path("outputs/collapse"),
    data: options.Data = Path("data/mini"),
    forget: options.ForgetText = Path("data/mini/forget.txt"),
    retain: options.RetainText = Path("data/mini/retain.txt"),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 48,
    every: Annotated[int, typer.Option(min=1, help="Steps between measurements.")] = 2,
    lr: Annotated[float, typer.Option(min=1e-9, help="Learning rate of both methods.")] = 3e-4,
    beta: Annotated[float, typer.Option(min=1e-6, help="NPO's beta.")] = 0.1,
    optimizer: Annotated[str, typer.Option(help="adamw or sgd.")] = "adamw",
    batch_size: options.BatchSize = 32,
    max_items: Annotated[int, typer.Option(min=20, help="Retain questions to measure on.")] = 200,
    reading: Reading = DEFAULT,
    seed: options.Seed = 0,
    seeds: options.ThreeSeeds = None,
    device: options.Device = "auto",
):
    """Gradient ascent and NPO side by side until the model breaks."""
    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.data.items import read_items, read_text_rows, subset, text_files
    from brittle.metrics import mcq
    from brittle.models.find import model_folder
    from brittle.models.load import pick_device
    from brittle.training.settings import Settings

    if optimizer not in ("adamw", "sgd"):
        raise UserError(f"--optimizer {optimizer}: adamw or sgd.")
    folder, picked = model_folder(model), pick_device(device)
    items = subset(read_items(data / "mcq_retain.jsonl"), max_items, seed)
    chance = mcq.chance(items)
    files = {"forget": read_text_rows(forget), "retain": read_text_rows(retain)}
    inputs = [*text_files(forget, retain), data / "mcq_retain.jsonl"]
    given = {
        "steps": steps,
        "lr": lr,
        "batch_size": batch_size,
        "schedule": "constant",
        "optimizer": optimizer,
    }
    numbers = options.seeds_from(seeds, seed, 3)
    if len(numbers) < 2:
        raise UserError(f"--seeds {seeds}: methods are compared over at least two seeds.")
    models = {"model": str(folder)}
    recorded = {**given, "beta": beta, "seeds": numbers, **reading.about()}
    with Run(outdir, inputs, models, numbers[0], recorded) as run:
        table, ends = [], []
        for one in numbers:
            for method in METHODS:
                knobs = {"beta": beta, "retain_weight": 0.0} if method == "npo" else {}
                points = curve(
                    folder,
                    method,
                    knobs,
                    {**files, "questions": items},
                    Settings(**given, seed=one),
                    every,
                    picked,
                    reading,
                )
                about = {"method": method, "beta": knobs.get("beta"), "lr": lr, "seed": one}
                table += [
                    about | dict(zip(COLUMNS[4:], (*point, len(items)), strict=True))
                    for point in points
                ]
                step, threshold = collapse_step(points, chance)
                ends.append(
                    about
                    | {
                        "collapse_step": step,
                        "threshold": threshold,
                        "forget_nll_end": points[-1].forget_nll,
                    }
                )
        run.figure(plot(table, model_name(model)), "collapse.png")
        run.csv("collapse_steps.csv", STEP_COLUMNS, ends)
        run.csv("collapse.csv", COLUMNS, table)
    for row in ends:
        when = (
            f"collapse at step {row['collapse_step']}"
            if row["collapse_step"] is not None
            else "no collapse"
        )
        end = f"forget NLL at the end {row['forget_nll_end']:.1f}"
        print(f"{row['method']:<10} seed {row['seed']}: {when}, {end}")


if __name__ == "__main__":
    command.run(main)
