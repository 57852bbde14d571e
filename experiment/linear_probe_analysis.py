"""At which layer is what a linear readout can use: the domain of a text, and whether a statement is
true?

    uv run experiment/linear_probe_analysis.py --model M --outdir outputs/M/linear_probes \
        --forget data/mini/forget.txt --retain data/mini/retain.txt --data data/mini

A logistic probe on the last token's residual stream of one model (0: embeddings, k: after block
k-1). Tasks:
  domain         forget against retain texts. bow_auc says what the words alone give: knowing the
                 topic is not knowledge.
  truth_forget   a question with its true answer against the same question with a wrong one (one
  truth_retain   drawn by --seed). Words alone cannot tell them apart; a model that knows the fact
                 can. Only where --data holds mcq_<split>.jsonl.
Texts and questions are drawn by --seed. Accuracy and AUC are of held-out texts: folds are stretches
that keep an entity together where the data name entities (truth_: a fact); else the lines next to a
held-out stretch are not learned from. selectivity is accuracy minus the majority class. null_: the
same probe with labels that mean nothing. Intervals hold over entities where the data name them,
else over texts. accuracy_low, accuracy_high: the texts of one entity count for fewer by their
design effect. auc_low, auc_high: DeLong with the texts of one entity taken together, on the logit
scale (brittle/maths/intervals.py). They do not hold what the choice of questions does: a value that
is by chance more often true among the texts learned from is less often so among the held-out ones,
so at chance auc lies somewhat below 0.5 where bow_auc does; --seeds draws others.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.data.examples import DEFAULT, Reading

COLUMNS = [
    "task",
    "layer",
    "accuracy",
    "selectivity",
    "auc",
    "majority_baseline",
    "accuracy_low",
    "accuracy_high",
    "auc_low",
    "auc_high",
    "null_accuracy",
    "null_auc",
    "length_auc",
    "bow_auc",
    "n_texts",
    "folds",
    "seed",
]


def truth_texts(items, seed, name):
    """(true, false) rows of multiple-choice items: the question with its answer, and with one
    wrong choice.
    """
    import torch

    from brittle.data.rows import Pair, unframed
    from brittle.maths.intervals import generator

    draw, true, false = generator(seed, name), [], []
    for item in items:
        wrong = [c for i, c in enumerate(item["choices"]) if i != item["answer"]]
        prompt = item["question"]
        true.append(Pair(prompt, item["choices"][item["answer"]], unframed(prompt)))
        choice = wrong[int(torch.randint(len(wrong), (1,), generator=draw))]
        false.append(Pair(prompt, choice, unframed(prompt)))
    return true, false


def rows(name, x, task, surface, settings, c, max_iter, device="cpu"):
    """A row a layer of one task; x [texts, N+1, D], class 1 first."""
    from brittle.maths.intervals import share

    n, ones = len(task.labels), int(task.labels.sum())
    majority = max(ones, n - ones) / n
    for layer in range(x.shape[1]):
        ((auc, low, high), scores), ((null_auc, _, _), null_scores) = task.auc(
            x[:, layer], c, max_iter, device
        )
        right = (scores > 0) == (task.labels == 1)
        accuracy, accuracy_low, accuracy_high = share(right, task.entities)
        yield {
            "task": name,
            "layer": layer,
            "accuracy": accuracy,
            "selectivity": accuracy - majority,
            "auc": auc,
            "majority_baseline": majority,
            "accuracy_low": accuracy_low,
            "accuracy_high": accuracy_high,
            "auc_low": low,
            "auc_high": high,
            "null_accuracy": float(((null_scores > 0) == (task.control == 1)).double().mean()),
            "null_auc": null_auc,
            "n_texts": n,
            **surface,
            **settings,
        }


def summary(table):
    """{task: the best layer and its numbers}."""
    best = {}
    for row in table:
        if row["task"] not in best or row["auc"] > best[row["task"]]["auc"]:
            best[row["task"]] = {
                key: row[key]
                for key in ("layer", "accuracy", "selectivity", "auc", "bow_auc", "null_auc")
            }
    return best


def plot(table, name):
    import pandas as pd

    from brittle.base import figures

    table = pd.DataFrame(table)
    fig, axes = figures.figure("Linear probes on the last token, held-out texts", name, columns=2)
    for ax, column in zip(axes, ("accuracy", "auc"), strict=True):
        for colour, (task, of_task) in zip(
            figures.CYCLE, table.groupby("task", sort=False), strict=False
        ):
            figures.line(
                ax,
                of_task.layer,
                of_task[column],
                task,
                low=of_task[f"{column}_low"],
                high=of_task[f"{column}_high"],
                color=colour,
            )
            ax.plot(of_task.layer, of_task[f"null_{column}"], "--", color=colour, linewidth=1.2)
        figures.null(ax, None, 0.5, "chance")
        figures.finish(ax, "layer (0: embeddings)", column, zero=False)
        ax.set_ylim(0.3, 1.03)
    return fig


@options.spread
def main(
    model: options.Model,
    outdir: options.Outdir,
    forget: options.ForgetText = Path("data/mini/forget.txt"),
    retain: options.RetainText = Path("data/mini/retain.txt"),
    data: options.Data = Path("data/mini"),
    c: Annotated[
        float, typer.Option("--C", min=1e-9, help="Inverse strength of the probe's L2 penalty.")
    ] = 1.0,
    max_iter: Annotated[
        int, typer.Option("--max-iter", min=1, help="Newton steps a probe.")
    ] = 1000,
    folds: Annotated[
        int, typer.Option(min=2, help="Stretches of each class; each is held out once.")
    ] = 5,
    max_samples: options.MaxSamples = 500,
    max_questions: Annotated[
        int, typer.Option(min=1, help="Questions a split for truth_, drawn by --seed.")
    ] = 300,
    max_length: options.TextLength = None,
    reading: Reading = DEFAULT,
    batch_size: options.BatchSize = 128,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    seed: options.Seed = 0,
    seeds: options.Seeds = None,
):
    """Linear probes of a model's layers: domain and truth, on held-out texts, against controls."""
    from brittle.base.tables import of_seed
    from brittle.data.batches import encode
    from brittle.data.items import entities_of, facts_of, read_items, subset, text_files
    from brittle.diagnostics.common import draw_splits, of_model
    from brittle.models.blocks import length_limit

    seeds = options.seed_list(
        seeds, seed, "questions and wrong choices of truth_ (the texts: by the first seed)"
    )
    files = {split: Path(data) / f"mcq_{split}.jsonl" for split in ("forget", "retain")}
    items = {split: path for split, path in files.items() if path.is_file()}
    inputs = [*text_files(forget, retain), *items.values()]
    with of_model(outdir, model, inputs, seeds, device, dtype, reading) as opened:
        from brittle.diagnostics import probes

        limit, pad = length_limit(max_length, opened.model.config), opened.tokenizer.pad_token_id
        paths = {"forget": forget, "retain": retain}
        drawn = draw_splits(opened.run, paths, max_samples, seeds[0]).values()
        classes = {("domain", seeds[0]): tuple(of.rows for of in drawn)}
        groups = {("domain", seeds[0]): [probes.fold_groups(of, folds) for of in drawn]}
        entities = {("domain", seeds[0]): [of.entities for of in drawn]}
        for split, path in items.items():
            questions = read_items(path)
            for s in seeds:
                asked, key = subset(questions, max_questions, s), (f"truth_{split}", s)
                classes[key] = truth_texts(asked, s, split)
                groups[key] = [facts_of(asked)] * 2  # both texts of an item lie in one fold
                entities[key] = [entities_of(asked)] * 2
        ids = {
            key: [
                encode(opened.tokenizer, texts, limit, f"{key[0]} texts", reading) for texts in pair
            ]
            for key, pair in classes.items()
        }
        every = [text for pair in ids.values() for texts in pair for text in texts]
        x = probes.features(opened.model, every, pad, batch_size, ["last"])["last"]
        table, start = [], 0
        for (name, s), (one, zero) in ids.items():
            named = groups[name, s], entities[name, s]
            task = probes.ProbeTask(len(one), len(zero), folds, *named)
            inside = x[start : start + len(one) + len(zero)]
            start += len(inside)
            surface, known = task.surface(one + zero), {"folds": folds, "seed": s}
            used = opened.model.device
            table += rows(name, inside, task, surface, known, c, max_iter, used)
        table += [row | {"seed": s} for s in seeds[1:] for row in table if row["task"] == "domain"]
        shown = of_seed(table, seeds[0])
        opened.run.figure(plot(shown, opened.title), "probes.png")
        opened.run.path("summary.json").write_text(
            json.dumps(summary(shown), indent=1) + "\n", encoding="utf-8"
        )
        opened.run.csv("probe_results.csv", COLUMNS, table)
    from brittle.report import results

    results.say("13", outdir)


if __name__ == "__main__":
    command.run(main)
