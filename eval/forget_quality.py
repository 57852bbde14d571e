"""What does a model still say of the forget set, what of the rest, and is it like a model that never saw it?

    uv run eval/forget_quality.py --model M --reference outputs/models/mini-filtered --outdir outputs/mini-base/forget_quality

TOFU's and MUSE's metrics on any data folder of their schemas (--data: qa_*.jsonl, verbmem_*, knowmem_*; create_datasets.py makes
them for the mini world, TOFU and MUSE): probability, ROUGE-L, truth ratio, exact memorisation, extraction strength, degeneracy,
model utility, perplexity, and forget quality, the KS test of truth ratios against --reference, a model that never saw the forget
set (or the TOFU_EVAL.json of one): `forget_quality` is its p over items (TOFU's), `forget_quality_entities` that of a
permutation of entities, `forget_quality_d` the distance. One row a metric, set and definition, with the 95 % interval over
entities; one item file for all.
--definitions tofu|muse|open-unlearning adds rows computed as they do (brittle/metrics/definitions.py). TOFU_EVAL.json and
MUSE_EVAL.json are written in open-unlearning's format; --read FILE adds the rows of such a file, recomputed from its items.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError

COLUMNS = [
    "model",
    "metric",
    "set",
    "definition",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "entities",
    "reference",
    "note",
]


def plot(table, name):
    """The main scores of every set, with intervals; the reference model's as marks."""
    import pandas as pd

    from brittle.base import figures
    from brittle.metrics.forget_quality_items import DRAWN

    frame = pd.DataFrame(table)
    shown = list(DRAWN)
    frame = frame[
        frame["metric"].isin(shown) & (frame["definition"] == frame["definition"].iloc[0])
    ]
    figure, axes = figures.figure("What a model says of the forget set and of the rest", name)
    names = list(dict.fromkeys(frame["set"]))
    for place, of in enumerate(names):
        part = (
            frame[frame["set"] == of]
            .set_index("metric")
            .reindex(shown)
            .astype({"value": float, "reference": float})
        )
        x = [i + (place - len(names) / 2 + 0.5) * 0.8 / len(names) for i in range(len(shown))]
        ends = [part[c].astype(float).fillna(part["value"]) for c in ("ci_low", "ci_high")]
        errors = [(part["value"] - ends[0]).clip(lower=0), (ends[1] - part["value"]).clip(lower=0)]
        axes[0].bar(x, part["value"], 0.8 / len(names), yerr=errors, label=of)
        axes[0].plot(
            x,
            part["reference"],
            "_",
            color="black",
            markersize=10,
            label="reference" if place == 0 else None,
        )
    axes[0].set(ylabel="score", ylim=(0, 1.08))
    axes[0].set_xticks(range(len(shown)), DRAWN.values())
    axes[0].legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def main(
    model: options.Model,
    outdir: options.Outdir,
    reference: Annotated[
        str | None,
        typer.Option(help="A model that never saw the forget set, or its TOFU_EVAL.json."),
    ] = None,
    data: options.Data = Path("data/mini"),
    definitions: Annotated[
        str, typer.Option(help="Also by the definitions of: tofu, muse, open-unlearning.")
    ] = "paper",
    template: Annotated[
        str, typer.Option(help="The prompt; {question} is the question.")
    ] = "Question: {question} Answer:",
    answers: Annotated[
        str, typer.Option(help="full, or short: short_answer where a row has one (auto: short).")
    ] = "auto",
    new_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens to generate (TOFU: 200; MUSE: 128 and 32).")
    ] = 32,
    icl: Annotated[int, typer.Option(min=0, help="In-context examples of knowmem (MUSE: 10).")] = 0,
    read: Annotated[
        list[Path] | None,
        typer.Option(help="TOFU_EVAL.json or MUSE_EVAL.json of others, to stand beside."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder to keep raw answers in, by content of model, data, settings."),
    ] = None,
    max_samples: options.MaxSamples = 512,
    batch_size: options.BatchSize = 64,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    revision: options.Revision = None,
    wrapper: options.Wrapper = None,
    wrapper_rules: options.WrapperRules = None,
):
    """TOFU's and MUSE's metrics of one model, beside a model that never saw the forget set."""
    from dataclasses import replace

    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.metrics import (
        forget_quality,
        forget_quality_items,
        forget_quality_rows,
        open_unlearning,
    )
    from brittle.metrics.definitions import DEFINITIONS, named
    from brittle.models import guards

    chosen = named(definitions)
    if answers not in ("auto", "short", "full"):
        raise UserError(f"--answers {answers}: choose auto, short or full.")
    settings = forget_quality.Settings(
        template, answers, "together", new_tokens, icl, batch_size, max_samples
    )
    sets, extra = (
        forget_quality.find(data, max_samples),
        [r for path in read or [] for r in forget_quality_rows.imported_rows(path)],
    )
    forget_quality.asked([], "tofu", settings)
    from brittle.models.find import model_folder

    folder, name = model_folder(model, revision), model_name(model)
    log = reference if reference and reference.endswith(".json") else None
    other = model_folder(reference) if reference and not log else None
    inputs = [data / forget_quality.SETS[s][0] for s in sets]
    inputs += [
        data / f"{t}.txt" for t in forget_quality_rows.TEXTS if (data / f"{t}.txt").is_file()
    ]
    guard = guards.make(wrapper, data, wrapper_rules, seed)
    inputs += [
        *(read or []),
        *([log] if log else []),
        *(guards.files(wrapper, data, wrapper_rules) if guard else []),
    ]
    used = {"model": str(folder), **({"reference": str(other)} if other else {})}
    about = {**vars(settings), "definitions": definitions, **(guard.about if guard else {})}
    with Run(outdir, inputs, used, seed, about) as run:
        asker = forget_quality.Asker(folder, data, cache, device, dtype, guard)
        control = forget_quality.Asker(other, data, cache, device, dtype) if other else None
        table, every = [], []
        for d in dict.fromkeys((DEFINITIONS["paper"], chosen)):
            at, others = replace(settings, boundary=d.boundary), None
            found = [
                i for s, r in asker.records(sets, at) for i in forget_quality_items.items(s, r, d)
            ]
            if log:
                others = {
                    "forget": open_unlearning.scores(
                        open_unlearning.read(log).get("forget_truth_ratio", {})
                    )
                }
            elif control:
                others = [
                    i
                    for s, r in control.records(sets, at)
                    for i in forget_quality_items.items(s, r, d)
                ]
            table += forget_quality_rows.rows(name, found, others, d, seed)
            every += found
        texts = list(forget_quality_rows.perplexity_items(*asker.loaded, data, settings))
        table += forget_quality_rows.perplexity_rows(name, texts)
        for schema, made in open_unlearning.make(found, *totals(table, d)).items():
            open_unlearning.write(run.path(open_unlearning.FILES[schema]), made)
        run.figure(plot(table, name), "forget_quality.png")
        columns = ["model", *forget_quality_items.COLUMNS]
        empty = dict.fromkeys(columns)
        run.csv(
            "forget_quality_items.csv",
            columns,
            ({**empty, "model": name, **i} for i in [*every, *texts]),
        )
        run.csv("forget_quality.csv", COLUMNS, [*table, *extra])
    say(table, chosen)


def totals(table, d):
    """(model utility, p of forget quality) of a definition."""
    of = {
        r["metric"]: r
        for r in table
        if r["definition"] == d.name and r["set"] in ("utility", "forget")
    }
    return tuple(of.get(metric, {}).get("value") for metric in ("model_utility", "forget_quality"))


def say(table, chosen):
    from brittle.metrics.forget_quality_items import PRINTED

    shown = (*PRINTED, "model_utility", "forget_quality")
    plain = {(r["metric"], r["set"]): r["value"] for r in table if r["definition"] == "paper"}
    for r in table:
        if r["metric"] not in shown or (r["definition"] == "paper" and chosen.name != "paper"):
            continue
        floor = (
            r["metric"] == "forget_quality" and r["value"] == 1e-16
        )  # what a smaller p is written as
        value = "-" if r["value"] is None else "< 1e-16" if floor else f"{r['value']:.3g}"
        before = plain.get((r["metric"], r["set"]))
        differs = r["definition"] != "paper" and None not in (before, r["value"])
        moved = f"   {r['value'] - before:+.3f} to the paper's" if differs else ""
        print(
            f"{r['set']:<15} {r['metric']:<20} {value:>7}{moved}"
            + (f"   {r['note']}" if r["note"] else "")
        )


if __name__ == "__main__":
    command.run(main)
