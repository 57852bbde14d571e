"""What is in a model's answers, by a rubric: leaked, refused, wrong, garbled? A judge reads them
without knowing whose they are.

    uv run eval/judge.py --responses cb_lat=outputs/mini-base__cb_lat/leakage/responses.csv \\
        --rubric target_leak --outdir DIR
    uv run eval/judge.py --responses cb_lat=outputs/inference --rubric reveals_unlearning \\
        --outdir DIR                                          (the answers of infer.py --sweep)
    uv run eval/judge.py --responses A=a.jsonl --responses B=b.jsonl --rubric answer_type \\
        --backend openai --endpoint http://localhost:8000/v1 --judge-model M --outdir DIR

Rubrics are files (eval/rubrics/*.toml, or your own); each result carries the hash of its own.
Backends: `rules` (deterministic, offline, says nothing where matching strings cannot decide), `hf`
(a local model scores the labels), `openai` (any compatible endpoint; key from OPENAI_API_KEY),
`replay` (replies.jsonl of an earlier run). Items are judged in an order drawn by --seed; no source
is shown. A judge that contradicts itself, answers nonsense or does not answer gives no label: an
empty cell with a note, never a guess. summary.csv has a row a source and label, the share of it
among the labelled with its 95 % interval (Wilson's), and how many are missing (not at random: a
judge is silent where it is hard); `gold_accuracy` is the judge's on the rubric's gold items, which
it was not shown: below .9 it is not `trusted`.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.metrics.judges import JUDGES, JudgeOptions, make_judge

COLUMNS = [
    "order",
    "source",
    "item",
    "rubric",
    "label",
    "note",
    "attempts",
    "judge",
    "rubric_sha256",
    "seed",
]
SUMMARY = [
    "source",
    "rubric",
    "label",
    "count",
    "n",
    "share",
    "ci_low",
    "ci_high",
    "missing",
    "gold_accuracy",
    "trusted",
    "judge",
]
TRUSTED = 0.9


def read_replies(path):
    """{key: reply} of an earlier run."""
    from brittle.data.texts import read_jsonl

    return {row["key"]: row["reply"] for row in read_jsonl(path, ("key", "reply"))}


def gold_accuracy(judge, rubric):
    """Share of the gold items the judge labels rightly; those that it leaves open count as wrong.
    None without gold items.
    """
    judgements = judge.judge(rubric, list(rubric.gold))
    if not judgements:
        return None
    pairs = zip(judgements, rubric.gold, strict=True)
    return sum(judged.label == item["label"] for judged, item in pairs) / len(judgements)


def rows(rubric, judge, items, seed):
    """A row an item, in the order of judging."""
    judgements = judge.judge(rubric, items)
    for order, (item, judged) in enumerate(zip(items, judgements, strict=True)):
        yield {
            "order": order,
            "source": item["source"],
            "item": item["item"],
            "rubric": rubric.id,
            "label": judged.label,
            "note": judged.note,
            "attempts": judged.attempts,
            "judge": judge.name,
            "rubric_sha256": rubric.sha256,
            "seed": seed,
        }


def subjects_of(items):
    """{(source, item): what a response is about}, the groups of an interval: the entity that it
    names, else itself.
    """
    from brittle.data.items import groups_of

    keys = [(item["source"], item["item"]) for item in items]
    return dict(zip(keys, groups_of(items), strict=True))


def summary(rubrics, table, gold, subjects):
    """A row a source, rubric and label; intervals are over `subjects`, from `subjects_of`."""
    from brittle.maths.intervals import share

    for rubric in rubrics:
        for source in dict.fromkeys(row["source"] for row in table):
            mine = [row for row in table if row["source"] == source and row["rubric"] == rubric.id]
            labelled = [row for row in mine if row["label"]]
            groups = [subjects[row["source"], row["item"]] for row in labelled]
            counts = Counter(row["label"] for row in labelled)
            n, accuracy = counts.total(), gold[rubric.id]
            for label in rubric.labels:
                chosen = [int(row["label"] == label) for row in labelled]
                value, low, high = share(chosen, groups) if n else (None, None, None)
                yield {
                    "source": source,
                    "rubric": rubric.id,
                    "label": label,
                    "count": counts[label],
                    "n": n,
                    "share": value,
                    "ci_low": low,
                    "ci_high": high,
                    "missing": len(mine) - n,
                    "gold_accuracy": accuracy,
                    "trusted": None if accuracy is None else int(accuracy >= TRUSTED),
                    "judge": mine[0]["judge"],
                }


def main(
    responses: Annotated[
        list[str],
        typer.Option(
            "--responses", help="NAME=FILE (CSV, JSONL) or NAME=FOLDER of CSVs; repeatable."
        ),
    ],
    outdir: options.Outdir,
    rubric: Annotated[
        list[str] | None, typer.Option("--rubric", help="Rubric name or .toml file, repeatable.")
    ] = None,
    backend: Annotated[str, typer.Option("--backend", help=f"{', '.join(JUDGES)}.")] = "rules",
    judge_model: Annotated[
        str | None, typer.Option("--judge-model", help="The judging model.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="openai: its base address.")
    ] = None,
    replies: Annotated[
        Path | None, typer.Option("--replies", help="replies.jsonl of an earlier run.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.01, help="openai: seconds to wait for a reply.")
    ] = 60.0,
    retries: Annotated[int, typer.Option(min=0, help="openai: how often to ask again.")] = 3,
    wait: Annotated[
        float, typer.Option(min=0.0, help="openai: seconds before asking again; doubled each time.")
    ] = 1.0,
    batch_size: options.BatchSize = 8,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    seed: options.Seed = 0,
):
    """Label responses by rubrics, blind to whose they are."""
    from brittle.base.record import Run
    from brittle.metrics.responses import blind, read_responses
    from brittle.metrics.responses import files as response_files
    from brittle.metrics.rubrics import read_rubric

    asked = [read_rubric(name) for name in rubric or ["target_leak", "answer_type"]]
    items = blind(read_responses(responses), seed)
    if backend == "replay" and not replies:
        raise UserError("--backend replay needs --replies, the replies.jsonl of an earlier run.")
    known = read_replies(replies) if replies else {}
    about = JudgeOptions(
        judge_model, endpoint, known, timeout, retries, wait, device, dtype, batch_size
    )
    judge = make_judge(backend, about)
    files = [*response_files(responses), *(rubric.path for rubric in asked)]
    if replies:
        files.append(replies)
    settings = {"judge": judge.name, "timeout": timeout, "retries": retries}
    with Run(outdir, files, seed=seed, settings=settings) as run:
        table = [row for rubric in asked for row in rows(rubric, judge, items, seed)]
        gold = {rubric.id: gold_accuracy(judge, rubric) for rubric in asked}
        shares = list(summary(asked, table, gold, subjects_of(items)))
        if known or backend == "openai":
            lines = "".join(
                json.dumps({"key": key, "reply": reply}) + "\n" for key, reply in known.items()
            )
            run.path("replies.jsonl").write_text(lines, encoding="utf-8")
        run.csv("judgements.csv", COLUMNS, table)
        run.csv("summary.csv", SUMMARY, shares)
    for row in shares:
        what = f"{row['source']:<20} {row['rubric']:<22} {row['label']:<12}"
        if row["share"] is None:
            print(f"{what} nothing labelled, {row['missing']} missing")
        elif row["count"]:
            missing = f", {row['missing']} missing" if row["missing"] else ""
            print(f"{what} {row['share']:.2f} of {row['n']}{missing}")
    for name, accuracy in gold.items():
        if accuracy is not None and accuracy < TRUSTED:
            print(
                f"{judge.name} is right on {accuracy:.2f} of the gold items of {name}: "
                "do not trust it there."
            )


if __name__ == "__main__":
    command.run(main)
