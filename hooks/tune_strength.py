"""How strongly must the filter act, at which site, with how many components?

    uv run hooks/tune_strength.py --model outputs/models/mini-base

Chosen without a human, within a retain limit, from the candidates of hooks/fit_filter.py. One
forward pass over held-out stretches of the texts caches what every strength needs.

The hard limit is KL(unfiltered || filtered): on retain text its mean and its 90th percentile over
stretches, on general text its mean. The target: forget text's losses are those of never-seen text
(LOSS-AUC 0.5), and answers are no longer above the model's own runners-up; matched, not maximised.
Three finalists (0.75, 1 and 1.1 times the strength) are checked for leaks in generated answers:
values, private values of others, paraphrases by likelihood, same-type multiple choice, empty or
repeating answers. Where a retain check fails the limit is halved; where a forget check fails the
next candidate is tried.

Writes into the filter's folder: strength.csv (every candidate and strength), leaks.csv,
strength.json, strength.png, and the filter with its strength.
"""

import importlib
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, groups, options
from brittle.data.examples import DEFAULT, Reading


def text_files(forget, retain, general, unseen):
    """{name of the set: file}; general and never-seen text are taken where they lie beside."""
    paths = {"forget": forget, "retain": retain}
    for name, given, beside in (
        ("general", general, retain.with_name("neutral.txt")),
        ("unseen", unseen, forget.with_name("holdout.txt")),
    ):
        if given or beside.is_file():
            paths[name] = given or beside
    return paths


def unchecked(paths, tables, folder):
    """At most one line: the checks that cannot be made, and the files that they lack."""
    reasons = []
    if "unseen" not in paths:
        reasons.append("no LOSS-AUC without never-seen text (--unseen)")
    if tables.missing:
        reasons.append(f"no leak checks without {', '.join(tables.missing)} in {folder}")
    return [f"note: {'; '.join(reasons)}."] if reasons else []


def plot(choice, name):
    """Forget statistics and retain KL at every strength."""
    from brittle.base import figures

    strengths = [strength for strength, _ in choice.curve]
    figure, (left, right) = figures.figure(
        f"Strength of the filter at {choice.filter.site}", name, columns=2
    )

    def draw(axis, column, label):
        values = [reading.get(column) for _, reading in choice.curve]
        if values[0] is not None:
            axis.plot(strengths, values, marker=".", label=label)

    draw(left, "auc", "LOSS-AUC against never-seen text")
    draw(left, "known", "answers above their runners-up")
    figures.null(left, None, 0.5, "target of LOSS-AUC")
    figures.null(left, None, 0.1, "chance of the runners-up", colour="general")
    draw(right, "retain_kl", "retain")
    draw(right, "retain_kl_p90", "retain, 90th percentile")
    draw(right, "general_kl", "general")
    figures.null(right, None, choice.limits.retain, "retain limit")
    for axis, label in ((left, "forget statistic"), (right, "KL, nats a token")):
        chosen = choice.filter.strength
        axis.axvline(chosen, color="0.3", linewidth=1.2, linestyle=":", label="chosen")
        figures.finish(axis, "strength", label, integer=False)
    return figure


def summary(choice, interval, failed, seconds):
    """What strength.json says of a Choice; `interval`: over which strengths its verdict holds."""
    low, high = interval
    strength = choice.filter.strength
    return {
        "site": choice.filter.site,
        "gated": choice.gated,
        "k": choice.filter.k,
        "strength": strength,
        "status": choice.status,
        "reason": choice.reason(),
        "reading": choice.reading,
        "strength_limit": choice.strength_limit,
        "limits": vars(choice.limits),
        "stable_interval": [low, high],
        "stable_width": (high - low) / strength if strength else 0.0,
        "fails": failed,
        "seconds": seconds,
    }


def show(choice, told, checks):
    """Print the verdict, the leak checks, and how far the verdict holds."""
    from brittle.base.tables import show_interval

    chosen = choice.filter
    gate = " gated," if choice.gated else ""
    print(
        f"{choice.status}: {chosen.site},{gate} {chosen.k} components, "
        f"strength {chosen.strength:.4g}. {choice.reason()}."
    )
    for row in checks:
        fails = f"  fails: {row['fails']}" if row["fails"] else ""
        ends = show_interval(row["low"], row["high"])
        print(f"  {row['check']:<14} {row['value']:.3f} {ends}{fails}")
    width, (low, high) = told["stable_width"], told["stable_interval"]
    if chosen.strength and width < 0.1:
        print(
            f"note: the verdict holds only from strength {low:.4g} to {high:.4g} "
            f"({width:.0%} of it): slight changes change it."
        )


@options.spread
def main(
    model: options.Model,
    filter_dir: options.FilterFolder = None,
    forget: options.ForgetText = Path("data/mini/forget.txt"),
    retain: options.RetainText = Path("data/mini/retain.txt"),
    general: Annotated[
        Path | None, typer.Option(help="Plain text (neutral.txt beside --retain).")
    ] = None,
    unseen: Annotated[
        Path | None,
        typer.Option(help="Never-seen text of the forget kind (holdout.txt beside --forget)."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Tables for leak checks: mcq_*, qa_forget, private .jsonl (beside --forget)."
        ),
    ] = None,
    retain_limit: Annotated[
        float, typer.Option(min=1e-6, help="KL on retain text, nats a token.")
    ] = 0.05,
    general_limit: Annotated[
        float, typer.Option(min=1e-6, help="KL on general text, nats a token.")
    ] = 0.02,
    strength: Annotated[
        float | None,
        typer.Option(help="Take this strength; the limits and leaks are still measured."),
    ] = None,
    allow_reflection: Annotated[
        bool, typer.Option("--allow-reflection", help="Strengths up to 2.")
    ] = False,
    items: Annotated[int, typer.Option(min=4, help="Items a leak check.")] = 64,
    tune_samples: Annotated[
        int, typer.Option(min=4, help="Texts a set that strengths are read on.")
    ] = 128,
    max_samples: options.MaxSamples = 1200,
    max_length: options.TextLength = None,
    reading: Reading = DEFAULT,
    batch_size: options.BatchSize = 64,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
):
    """Choose site, components, gate and strength of the filter."""
    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.data.items import text_files as with_sidecars
    from brittle.filters import leaks, search
    from brittle.filters.data import FilterData
    from brittle.filters.folder import (
        CANDIDATES,
        check_strength,
        folder_of,
        load_candidates,
        save_tuned,
    )
    from brittle.filters.strength import stable
    from brittle.filters.target import Limits
    from brittle.filters.tuning import Tuner
    from brittle.models.filter import hooked
    from brittle.models.find import model_folder

    started = time.time()
    folder = model_folder(model)
    filter_dir = filter_dir or folder_of("outputs", model)
    paths = text_files(forget, retain, general, unseen)
    candidates = load_candidates(filter_dir)
    if strength is not None:
        check_strength(strength, allow_reflection=allow_reflection)
    tables = leaks.LeakTables(data or forget.parent, items, seed)
    for note in unchecked(paths, tables, data or forget.parent):
        print(note, flush=True)
    limits = Limits(retain_limit, general_limit)
    # a second core can import matplotlib meanwhile
    drawing = threading.Thread(
        target=importlib.import_module, args=("brittle.base.figures",), daemon=True
    )
    drawing.start()
    source = [path for path in (filter_dir / CANDIDATES,) if path.is_file()]
    inputs = [*with_sidecars(*paths.values()), *source, *tables.files]
    with Run(filter_dir, inputs, {"model": folder}, seed, quiet=True) as run:
        texts = FilterData.read(folder, paths, max_samples, max_length, device, dtype, reading)
        for candidate in candidates.values():
            candidate.check(texts.model.config).to(texts.model.device)
        sets = {name: search.sample(e, tune_samples, seed) for name, e in texts.tune.items()}
        sites = list(dict.fromkeys(site for site, _ in candidates))
        tuner = Tuner(texts.model, sets, texts.pad_id, sites, batch_size)
        base = leaks.check_leaks(texts.model, texts.tokenizer, tables, reading=reading)

        def check(chosen):
            hook = hooked(texts.model, chosen)
            return leaks.check_leaks(texts.model, texts.tokenizer, tables, base, hook, reading)

        if strength is None:
            top = 2.0 if allow_reflection else 1.0
            result = search.run_search(tuner, candidates, limits, check, top)
        else:
            result = search.take_strength(tuner, candidates, limits, check, strength)
        choice = result.choice
        checks = result.leaks[choice.filter.strength]
        failed = sorted(leaks.failures(checks))
        told = summary(choice, stable(choice), failed, time.time() - started)
        choice.filter.about = {
            **choice.filter.about,
            "status": choice.status,
            "reason": choice.reason(),
            "tuned": choice.reading,
        }
        drawing.join()
        run.figure(plot(choice, model_name(model)), "strength.png")
        save_tuned(run, choice.filter, told)
        run.csv("leaks.csv", leaks.COLUMNS, leaks.by_strength({0.0: base, **result.leaks}))
        run.csv("strength.csv", search.COLUMNS, result.table)
    show(choice, told, checks)
    print(f"Next: uv run hooks/bake_filter.py --model {model} --filter {filter_dir}")


HELP_GROUPS = {
    groups.DATA: ("forget", "retain", "general", "unseen", "data", "tune_samples"),
    "Limits and strength": (
        "retain_limit",
        "general_limit",
        "strength",
        "allow_reflection",
        "items",
    ),
}


if __name__ == "__main__":
    command.run(main, HELP_GROUPS)
