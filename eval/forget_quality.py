"""What does a model still say of the forget set, and is it like one that never saw it?

    uv run eval/forget_quality.py --model M --reference outputs/models/mini-filtered \\
        --outdir outputs/mini-base/forget_quality
    uv run eval/forget_quality.py --models A B C --reference R --outdir outputs/forget_quality

TOFU's and MUSE's metrics on any data folder of their schemas (--data: qa_*, verbmem_*, knowmem_*;
create_datasets.py makes them for the mini world, TOFU and MUSE): probability, ROUGE-L, truth ratio,
exact memorisation, extraction strength, degeneracy, model utility, perplexity and forget quality.

Forget quality is the KS test of truth ratios against --reference, a model that never saw the forget
set (or the TOFU_EVAL.json of one). `forget_quality` is its p over items (TOFU's),
`forget_quality_entities` the p of a permutation of entities, `forget_quality_d` the distance.

forget_quality.csv has a row for each metric, set and definition, with the 95 % interval over
entities. forget_quality_items.csv has all items. --definitions tofu|muse|open-unlearning adds rows
that are computed as they do (brittle/metrics/definitions.py). TOFU_EVAL.json and MUSE_EVAL.json are
written in open-unlearning's format. --read FILE adds the rows of such a file, recomputed from its
items.

With --models, each model and the reference have these files in a folder of their own below
--outdir. models.csv and models.png set them side by side: forget quality against utility.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.data.examples import DEFAULT, Reading

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

    metrics = list(DRAWN)
    frame = pd.DataFrame(table)
    first_definition = frame["definition"] == frame["definition"].iloc[0]
    frame = frame[frame["metric"].isin(metrics) & first_definition]
    figure, axes = figures.figure("What a model says of the forget set and of the rest", name)
    sets = list(dict.fromkeys(frame["set"]))
    width = 0.8 / len(sets)
    for place, name_of_set in enumerate(sets):
        rows = frame[frame["set"] == name_of_set].set_index("metric").reindex(metrics)
        rows = rows.astype({"value": float, "reference": float})
        x = [i + (place - len(sets) / 2 + 0.5) * 0.8 / len(sets) for i in range(len(metrics))]
        low, high = (rows[c].astype(float).fillna(rows["value"]) for c in ("ci_low", "ci_high"))
        errors = [(rows["value"] - low).clip(lower=0), (high - rows["value"]).clip(lower=0)]
        axes[0].bar(x, rows["value"], width, yerr=errors, label=name_of_set)
        label = "reference" if place == 0 else None
        axes[0].plot(x, rows["reference"], "_", color="black", markersize=10, label=label)
    axes[0].set(ylabel="score", ylim=(0, 1.08))
    axes[0].set_xticks(range(len(metrics)), DRAWN.values())
    axes[0].legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@options.spread
def main(
    outdir: options.Outdir,
    model: Annotated[
        str | None, typer.Option("--model", help="Model folder or Hugging Face id.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--models", help="Several models instead, side by side: --models A B C."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="A model that never saw the forget set, or its TOFU_EVAL.json."),
    ] = None,
    data: options.Data = Path("data/mini"),
    definitions: Annotated[
        str, typer.Option(help="Also by the definitions of: tofu, muse, open-unlearning.")
    ] = "paper",
    template: Annotated[
        str | None,
        typer.Option(
            help="The prompt, in place of a chat template; {question} is the question (a model "
            "without a chat template: 'Question: {question} Answer:')."
        ),
    ] = None,
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
    reading: Reading = DEFAULT,
    batch_size: options.BatchSize = 64,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    revision: options.Revision = None,
    wrapper: options.Wrapper = None,
    wrapper_rules: options.WrapperRules = None,
):
    """TOFU's and MUSE's metrics of one model or several, beside one that never saw the forget
    set.
    """
    from brittle.metrics import forget_quality, forget_quality_rows
    from brittle.metrics.definitions import named
    from brittle.models.evaluation import Subject

    chosen = named(definitions)
    if answers not in ("auto", "short", "full"):
        raise UserError(f"--answers {answers}: choose auto, short or full.")
    if bool(model) == bool(models):
        raise UserError("one of --model M and --models A B is wanted, and not both.")
    if template is not None:
        reading = replace(reading, raw=True)
    settings = forget_quality.AskSettings(
        template=template or forget_quality.TEMPLATE,
        answers=answers,
        new_tokens=new_tokens,
        icl=icl,
        batch_size=batch_size,
        max_samples=max_samples,
        reading=reading,
    )
    question = Question(
        data,
        settings,
        chosen,
        reference,
        forget_quality.find(data, max_samples),
        tuple(read or ()),
        cache,
        {},
    )
    for path in question.read:
        list(forget_quality_rows.imported_rows(path))  # says what is wrong with the file
    forget_quality.asked([], "tofu", settings)  # says what is wrong with the template

    def subject(asked, guard):
        return Subject(
            asked,
            data,
            device=device,
            dtype=dtype,
            seed=seed,
            revision=revision,
            wrapper=guard,
            wrapper_rules=wrapper_rules,
        )

    if model:
        say(measure(question, outdir, subject(model, wrapper)), chosen)
        return
    measure_all(question, outdir, [subject(asked, wrapper) for asked in models])


class Question(NamedTuple):
    """What all models are asked, and what they are held against.

    reference: a model, the TOFU_EVAL.json of one, or None. sets: {set: rows}. read: files of
    others. controls: {reference: its Asker}, which the models share.
    """

    data: Path
    settings: object
    chosen: object
    reference: str | None
    sets: dict
    read: tuple
    cache: Path | None
    controls: dict

    def log(self):
        """The reference where it is a file, else None."""
        return self.reference if self.reference and self.reference.endswith(".json") else None


def measure(question, outdir, subject):
    """Measure one model into `outdir`. Returns the rows of its forget_quality.csv."""
    from brittle.data.items import text_files
    from brittle.metrics import forget_quality, forget_quality_rows, open_unlearning
    from brittle.metrics.definitions import DEFINITIONS
    from brittle.models.evaluation import evaluation

    data, settings, log = question.data, question.settings, question.log()
    texts = [data / f"{name}.txt" for name in forget_quality_rows.TEXTS]
    inputs = [data / forget_quality.SETS[name][0] for name in question.sets]
    inputs += text_files(*(path for path in texts if path.is_file()))
    inputs += [*question.read, *([log] if log else [])]
    about = {**asdict(settings), "definitions": question.chosen.name}
    other = None if log else question.reference
    of_device = {"device": subject.device, "dtype": subject.dtype}
    with evaluation(outdir, subject, inputs, about, reference=other) as opened:
        run, name, folders = opened.run, opened.name, opened.folders
        cache, controls = question.cache, question.controls
        asker = forget_quality.Asker(folders["model"], data, cache, guard=opened.guard, **of_device)
        if other and other not in controls:
            controls[other] = forget_quality.Asker(folders["reference"], data, cache, **of_device)
        table, every = [], []
        for definition in dict.fromkeys((DEFINITIONS["paper"], question.chosen)):
            items = items_of(asker, question.sets, settings, definition)
            others = None
            if log:
                ratios = open_unlearning.read(log).get("forget_truth_ratio", {})
                others = {"forget": open_unlearning.scores(ratios)}
            elif other:
                others = items_of(controls[other], question.sets, settings, definition)
            table += forget_quality_rows.rows(name, items, others, definition, subject.seed)
            every += items
        every_text = list(forget_quality_rows.perplexity_items(*asker.loaded, data, settings))
        table += forget_quality_rows.perplexity_rows(name, every_text)
        for schema, metrics in open_unlearning.make(items, *totals(table, definition)).items():
            open_unlearning.write(run.path(open_unlearning.FILES[schema]), metrics)
        run.figure(plot(table, name), "forget_quality.png")
        write_items(run, name, [*every, *every_text])
        imported = [
            row for path in question.read for row in forget_quality_rows.imported_rows(path)
        ]
        run.csv("forget_quality.csv", COLUMNS, [*table, *imported])
    return table


def measure_all(question, outdir, subjects):
    """Measure every `Subject` into a folder of its own below `outdir`, then all side by side.

    The reference is measured as well, without a guard; its p is 1 by construction.
    """
    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.base.record import say as say_at_the_end
    from brittle.metrics import quality_overview

    role_of = {}
    if question.reference and not question.log():
        of_reference = replace(subjects[0], model=question.reference, wrapper=None)
        role_of = {model_name(question.reference): quality_overview.REFERENCE}
        subjects = [s for s in subjects if model_name(s.model) not in role_of]
        subjects.append(of_reference)
    names = [model_name(subject.model) for subject in subjects]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two of the models are called {name}. Give their folders other names.")
    rows = []
    for name, subject in zip(names, subjects, strict=True):
        print(f"{name} ...", flush=True)
        table = measure(question, outdir / name, subject)
        rows.append(quality_overview.row_of(table, role_of.get(name, ""), question.chosen.name))
    files = [outdir / name / "forget_quality.csv" for name in names]
    with Run(outdir, files, seed=subject.seed) as run:
        run.figure(quality_overview.plot(rows), quality_overview.FIGURE)
        run.csv(quality_overview.FILE, quality_overview.COLUMNS, rows)
    print("\n".join(quality_overview.lines(rows)))
    figure = outdir / quality_overview.FIGURE
    say_at_the_end(outdir / quality_overview.FILE, f"{len(rows)} models; {figure}")


def items_of(asker, sets, settings, definition):
    """The items of all sets under one definition."""
    from brittle.metrics import forget_quality_items

    settings = replace(settings, boundary=definition.boundary)
    return [
        item
        for name, records in asker.records(sets, settings)
        for item in forget_quality_items.items(name, records, definition)
    ]


def write_items(run, name, items):
    """Write forget_quality_items.csv; an item of a text has empty cells for what answers have."""
    from brittle.metrics import forget_quality_items

    columns = ["model", *forget_quality_items.COLUMNS]
    empty = dict.fromkeys(columns)
    rows = ({**empty, "model": name, **item} for item in items)
    run.csv("forget_quality_items.csv", columns, rows)


def totals(table, definition):
    """(model utility, p of forget quality) of a definition; None for one that was skipped."""
    values = {
        row["metric"]: row["value"]
        for row in table
        if row["definition"] == definition.name and row["set"] in ("utility", "forget")
    }
    return values.get("model_utility"), values.get("forget_quality")


def say(table, chosen):
    """Print the main scores by the chosen definition: how each is read, and what the paper's
    definition gives.
    """
    from brittle.metrics.forget_quality_items import PRINTED
    from brittle.metrics.quality_overview import direction

    paper = {(r["metric"], r["set"]): r for r in table if r["definition"] == "paper"}
    for row in table:
        if row["metric"] not in (*PRINTED, "model_utility", "forget_quality"):
            continue
        if row["definition"] == "paper" and chosen.name != "paper":
            continue
        before = paper.get((row["metric"], row["set"]))
        texts = [f"{row['set']:<15} {row['metric']:<20} {shown(row):>7}"]
        if row["value"] is not None:
            texts.append(direction(row["metric"], row["set"]))
        if row["definition"] != "paper" and before and None not in (before["value"], row["value"]):
            texts.append(f"by the paper's definition {shown(before)}")
        texts.append(row["note"])
        print("   ".join(text for text in texts if text))


def shown(row):
    """The value of a row as it is printed."""
    if row["value"] is None:
        return "-"
    if row["metric"] == "forget_quality" and row["value"] == 1e-16:
        return "< 1e-16"  # what a smaller p is written as
    return f"{row['value']:.3g}"


HELP_GROUPS = {
    "How answers are asked and read": ("template", "answers", "new_tokens", "icl", "definitions"),
}


if __name__ == "__main__":
    command.run(main, HELP_GROUPS)
