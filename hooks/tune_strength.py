"""How strongly must the filter act, at which site, with how many components? Chosen without a human, within a retain limit.

    uv run hooks/tune_strength.py --model outputs/models/mini-base

Reads the candidates of hooks/fit_filter.py. One forward pass over held-out stretches of the texts caches what every strength
needs. The hard limit: KL(unfiltered || filtered) on retain text, mean and 90th percentile over stretches, and on general text.
The target: forget text's losses as those of never-seen text (LOSS-AUC 0.5), answers no longer above the model's own runners-up;
matched, not maximised. Three finalists (0.75, 1 and 1.1 times the strength) are generated and checked for leaks: slot match,
private values of others, paraphrases by likelihood, same-type multiple choice, empty or repeating answers. Where a retain check
fails the limit is halved, where a forget check fails the next candidate is tried. Writes into the filter's folder: strength.csv
(every candidate and strength), leaks.csv, strength.json, strength.png, and the filter with its strength.
"""

import importlib
import json
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError

COLUMNS = ["stage", "site", "gated", "basis", "k", "strength", "auc", "known", "forget_nll", "forget_kl", "retain_nll",
           "retain_kl", "retain_kl_p90", "general_nll", "general_kl", "status"]  # fmt: skip
FINALISTS = (0.75, 1.0, 1.1)


def row(stage, made, reading, status=""):
    about = {"stage": stage, "site": made.site, "gated": int(made.gate is not None), "basis": made.about.get("basis"),
             "k": made.k, "strength": made.strength, "status": status}  # fmt: skip
    return {**dict.fromkeys(COLUMNS), **{c: reading[c] for c in COLUMNS if c in reading}, **about}


def finalists(choice, top, limits, read):
    """{strength: Filter}: the chosen strength first, then the others in [0, top] that keep the limits."""
    at = choice.made.strength
    found = dict.fromkeys(min(top, f * at) for f in sorted(FINALISTS, key=lambda f: abs(f - 1)))
    made = {a: choice.made.at(a) for a in found if a > 0}
    return {a: one for a, one in made.items() if a == at or limits.excess(read(one)) <= 0}


def decide(checked):
    """The finalist to take, from {strength: leak rows}, the wanted one first: the first of the least leakage."""
    from brittle.filters.leaks import badness

    return min(checked, key=lambda a: badness(checked[a]))


def plot(choice, name):
    from brittle.base import figures

    a = [x for x, _ in choice.curve]
    figure, (left, right) = figures.figure(
        f"Strength of the filter at {choice.made.site}", name, columns=2
    )
    for column, label in (
        ("auc", "LOSS-AUC against never-seen text"),
        ("known", "answers above their runners-up"),
    ):
        if choice.curve[0][1][column] is not None:
            left.plot(a, [r[column] for _, r in choice.curve], marker=".", label=label)
    figures.null(left, None, 0.5, "target of LOSS-AUC")
    figures.null(left, None, 0.1, "chance of the runners-up", colour="general")
    for column, label in (
        ("retain_kl", "retain"),
        ("retain_kl_p90", "retain, 90th percentile"),
        ("general_kl", "general"),
    ):
        if column in choice.curve[0][1]:
            right.plot(a, [r[column] for _, r in choice.curve], marker=".", label=label)
    figures.null(right, None, choice.limits.retain, "retain limit")
    for axis, ylabel in ((left, "forget statistic"), (right, "KL, nats a token")):
        axis.axvline(
            choice.made.strength, color="0.3", linewidth=1.2, linestyle=":", label="chosen"
        )
        figures.finish(axis, "strength", ylabel, integer=False)
    return figure


def unchecked(paths, tables, folder):
    """At most one line: the checks that cannot be made, and the files that they lack."""
    there = {f.name for f in tables.files}
    lacks = [
        f"{n}.jsonl"
        for n in ("mcq_forget", "mcq_retain", "qa_forget", "private")
        if f"{n}.jsonl" not in there
    ]
    words = ["no LOSS-AUC without never-seen text (--unseen)"] if "unseen" not in paths else []
    if lacks:
        words.append(f"no leak checks without {', '.join(lacks)} in {folder}")
    return [f"note: {'; '.join(words)}."] if words else []


def run_search(tuner, candidates, limits, allow_reflection, check, most=3):
    """(choice, {strength: leak rows}, [rows of strength.csv]) after at most `most` candidates."""
    from dataclasses import replace

    from brittle.filters import leaks as leaks_module
    from brittle.filters import search

    top, table, best = 2.0 if allow_reflection else 1.0, [], None
    rest, choices, halved, tried = candidates, [], None, 0
    while (choices or rest or halved) and tried < most:
        if (
            rest and not halved and not (choices and choices[0].reached)
        ):  # at first, and where every ungated choice leaks
            found = search.search(tuner, rest, limits)
            table += [row("search", c.made, c.reading, c.status) for c in found]
            seen = {(c.made.site, c.made.gate is not None) for c in found}
            rest = {key: made for key, made in rest.items() if key not in seen}
            choices = sorted(choices + found, key=lambda c: c.key)
        again, choice, halved = halved, search.tune(tuner, halved or choices.pop(0), top), None
        table += [row("curve", choice.made.at(a), reading) for a, reading in choice.curve]
        reached = choice.reached
        checked = {
            a: check(made) for a, made in finalists(choice, top, choice.limits, tuner.read).items()
        }
        if checked:
            strength = decide(checked)
            choice.made, choice.reading = (
                choice.made.at(strength),
                tuner.read(choice.made.at(strength)),
            )
            failed = leaks_module.failures(checked[strength])
            rank = (not choice.reached, "retain" in failed, "forget" in failed, tried)
            if best is None or rank < best[0]:
                best = rank, choice, checked, strength
            if not failed - {"form"} or not (
                reached or again
            ):  # what comes behind an unreached one reaches less
                break
            if "retain" in failed and reached:
                half = replace(limits, retain=limits.retain / 2, general=limits.general / 2)
                halved = replace(choice, made=choice.made.at(1.0), limits=half)
        tried += 1
    if best is None:
        raise UserError(
            "no strength above 0 keeps the retain limits. Fit on more retain text, or allow more with --retain-limit."
        )
    _, choice, checked, strength = best
    return choice, checked, [*table, row("chosen", choice.made, choice.reading, choice.status)]


def main(
    model: options.Model,
    filter_dir: Annotated[
        Path | None, typer.Option("--filter", help="Its folder (outputs/<model>__filter/filter).")
    ] = None,
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
    batch_size: options.BatchSize = 64,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
):
    """Choose site, components, gate and strength of the filter."""
    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.filters.folder import CANDIDATES, Data, folder_of, load_candidates
    from brittle.models.find import model_folder

    started = time.time()
    folder = model_folder(model)
    filter_dir = filter_dir or folder_of("outputs", model)
    paths = {"forget": forget, "retain": retain}
    for name, path, beside in (
        ("general", general, retain.with_name("neutral.txt")),
        ("unseen", unseen, forget.with_name("holdout.txt")),
    ):
        if path or beside.is_file():
            paths[name] = path or beside
    candidates = load_candidates(filter_dir)
    source = [f for f in (filter_dir / CANDIDATES,) if f.is_file()]
    from brittle.filters import leaks as leaks_module
    from brittle.filters import search
    from brittle.filters.folder import check_strength
    from brittle.filters.tuning import Limits, Tuner
    from brittle.models.filter import FILES, hooked

    if strength is not None:
        check_strength(strength, allow_reflection)
    tables = leaks_module.Tables(data or forget.parent, items, seed)
    for note in unchecked(paths, tables, data or forget.parent):
        print(note, flush=True)
    limits = Limits(retain_limit, general_limit)
    drawing = threading.Thread(
        target=importlib.import_module, args=("brittle.base.figures",), daemon=True
    )
    drawing.start()  # a second core can import matplotlib meanwhile
    with Run(filter_dir, [*paths.values(), *source, *tables.files], {"model": folder}, seed) as run:
        texts = Data.read(folder, paths, max_samples, max_length, device, dtype)
        for made in candidates.values():
            made.check(texts.model.config).to(texts.model.device)
        sets = {n: search.part(e, tune_samples, seed) for n, e in texts.tune.items()}
        tuner = Tuner(
            texts.model,
            sets,
            texts.pad_id,
            list(dict.fromkeys(site for site, _ in candidates)),
            batch_size,
        )
        base = leaks_module.check(texts.model, texts.tokenizer, tables)

        def check(made):
            return leaks_module.check(
                texts.model, texts.tokenizer, tables, base, hooked(texts.model, made)
            )

        if strength is None:
            choice, checked, table = run_search(tuner, candidates, limits, allow_reflection, check)
        else:
            choice = search.search(tuner, candidates, limits)[0]
            choice.made = choice.made.at(strength)
            choice.reading = tuner.read(choice.made)
            choice.curve = [
                (a, tuner.read(choice.made.at(a)))
                for a in sorted({0.0, 0.25, 0.5, 0.75, 1.0, strength})
            ]
            checked = {strength: check(choice.made)}
            table = [row("curve", choice.made.at(a), r) for a, r in choice.curve]
            table.append(row("chosen", choice.made, choice.reading, choice.status))
        low, high = search.stable(choice)
        width = (high - low) / choice.made.strength if choice.made.strength else 0.0
        leaks = [
            {"strength": a, **found}
            for a, rows in [(0.0, base), *checked.items()]
            for found in rows
        ]
        failed = sorted(leaks_module.failures(checked[choice.made.strength]))
        said = {
            "site": choice.made.site, "gated": choice.made.gate is not None, "k": choice.made.k,
            "strength": choice.made.strength, "status": choice.status, "reason": choice.reason(), "reading": choice.reading,
            "strength_limit": choice.strength_limit,
            "limits": vars(limits), "stable_interval": [low, high], "stable_width": width, "fails": failed,
            "seconds": time.time() - started,
        }  # fmt: skip
        made = choice.made
        made.about = {
            **made.about,
            "status": choice.status,
            "reason": choice.reason(),
            "tuned": said["reading"],
        }
        for name in FILES:
            run.path(name)
        made.save(run.stage)
        drawing.join()
        run.figure(plot(choice, model_name(model)), "strength.png")
        run.path("strength.json").write_text(
            json.dumps(said, indent=1, default=float) + "\n", encoding="utf-8"
        )
        run.csv("leaks.csv", leaks_module.COLUMNS, leaks)
        run.csv("strength.csv", COLUMNS, table)
    gate = " gated," if said["gated"] else ""
    print(
        f"{choice.status}: {made.site},{gate} {made.k} components, strength {made.strength:.4g}. {choice.reason()}."
    )
    for found in checked[made.strength]:
        bad = f"  fails: {found['fails']}" if found["fails"] else ""
        print(
            f"  {found['check']:<14} {found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]{bad}"
        )
    if made.strength and width < 0.1:
        print(
            f"note: the verdict holds only from strength {low:.4g} to {high:.4g} ({width:.0%} of it): slight changes change it."
        )
    print(f"Next: uv run hooks/bake_filter.py --model {model} --filter {filter_dir}")


if __name__ == "__main__":
    command.run(main)
