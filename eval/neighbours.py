"""What else goes when a fact is forgotten: near and far facts, by their distance from the targets.

    uv run eval/neighbours.py --model outputs/mini-base__cb_lat/unlearned_model \\
        --outdir outputs/mini-base__cb_lat/neighbours

Facts are asked by their distance from the targets, which are attributes of the forget domain, or of
half A or B of it:
  target         the targets
  same_subject   other attributes of the same subjects (only where a half is the target)
  relation       the same subjects' relations
  private        their private data
  conclusion     what follows about them
  object         attributes of the entities that those relations lead to, where they are no targets
  same_domain    attributes of other subjects of the domain, where they are no targets
  other          attributes of other domains

Known means right as a question and as a sentence (metrics/knowledge). With --reference, the model
before unlearning, `drop` is how much less is known than before, paired by entity. Unlearning that
is as narrow as its targets leaves every ring but the first alone.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.data.examples import DEFAULT, Reading

COLUMNS = [
    "ring",
    "known",
    "ci_low",
    "ci_high",
    "n",
    "n_entities",
    "reference_known",
    "drop",
    "drop_low",
    "drop_high",
    "seed",
]
ITEM_COLUMNS = ["fact", "entity", "ring", "known", "right", "reference_known"]
RINGS = (
    "target",
    "same_subject",
    "relation",
    "private",
    "conclusion",
    "object",
    "same_domain",
    "other",
)


def rings(facts, domain, half):
    """{id: ring} of the facts that have one."""
    targets = [
        f
        for f in facts.values()
        if (f.domain, f.kind) == (domain, "attribute") and half in ("all", f.half)
    ]
    subjects, ids = {f.entity for f in targets}, {f.id for f in targets}
    objects = {
        f.value
        for f in facts.values()
        if f.domain == domain and f.kind == "relation" and f.entity in subjects
    }
    placed = {}
    for f in facts.values():
        if f.id in ids:
            placed[f.id] = "target"
        elif f.domain != domain:
            if f.kind == "attribute":
                placed[f.id] = "other"
        elif f.entity in subjects:
            placed[f.id] = "same_subject" if f.kind == "attribute" else f.kind
        elif f.kind == "attribute":
            placed[f.id] = "object" if f.entity in objects else "same_domain"
    return placed


def items(facts, placed, answers, reference=None):
    from brittle.data.facts import entity_key

    for identity, ring in sorted(placed.items(), key=lambda pair: RINGS.index(pair[1])):
        if identity in answers:
            before = None if reference is None else int(reference[identity].known)
            now = answers[identity]
            yield dict(
                zip(
                    ITEM_COLUMNS,
                    (
                        identity,
                        entity_key(facts[identity]),
                        ring,
                        int(now.known),
                        now.right,
                        before,
                    ),
                    strict=True,
                )
            )


def rows(table, seed=0):
    """A row a ring."""
    from brittle.metrics.knowledge import share

    for ring in (r for r in RINGS if any(row["ring"] == r for row in table)):
        asked = [row for row in table if row["ring"] == ring]
        units = [row["entity"] for row in asked]
        known, low, high, n = share([row["known"] for row in asked], units)
        before, drop = None, (None, None, None)
        if asked[0]["reference_known"] is not None:
            before = share([row["reference_known"] for row in asked], units)[0]
            drop = share([row["reference_known"] - row["known"] for row in asked], units)[:3]
        yield dict(
            zip(
                COLUMNS,
                (ring, known, low, high, n, len(set(units)), before, *drop, seed),
                strict=True,
            )
        )


def plot(table, name):
    from brittle.base import figures

    figure, (axis,) = figures.figure("Facts by their distance from the targets", name, height=3.6)
    for i, row in enumerate(table):
        if row["ci_low"] is not None:
            axis.plot([i, i], [row["ci_low"], row["ci_high"]], color=figures.CYCLE[0])
        axis.plot(
            i, row["known"], "o", color=figures.CYCLE[0], label="this model" if i == 0 else None
        )
        if row["reference_known"] is not None:
            axis.plot(
                i,
                row["reference_known"],
                "D",
                color=figures.COLOURS["model_a"],
                label="before" if i == 0 else None,
                mfc="none",
            )
    figures.null(axis, None, 1 / 16, "guessing (at least)")
    axis.set_xticks(range(len(table)), [row["ring"].replace("_", "\n") for row in table])
    figures.finish(axis, "", "share known", integer=False)
    axis.set_ylim(0, 1.03)
    return figure


@options.spread
def main(
    model: options.Model,
    outdir: options.Outdir,
    data: options.Data = Path("data/mini"),
    domain: options.Domain = "forget",
    half: Annotated[
        str,
        typer.Option("--half", help="The targets: half A or B of the domain's attributes, or all."),
    ] = "all",
    reference: Annotated[
        str | None, typer.Option("--reference", help="The model before unlearning.")
    ] = None,
    others: options.OtherEntities = 20,
    batch_size: options.BatchSize = 256,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    reading: Reading = DEFAULT,
    revision: options.Revision = None,
    wrapper: options.Wrapper = None,
    wrapper_rules: options.WrapperRules = None,
):
    """What a model knows of facts near to and far from those that were to be forgotten."""
    from brittle.base.tables import show_interval
    from brittle.data.facts import files, read_facts, some_entities
    from brittle.metrics import knowledge
    from brittle.models.evaluation import Subject, evaluation

    if half not in ("A", "B", "all"):
        raise UserError(f"--half {half}: choose A, B or all.")
    facts = some_entities(read_facts(data), domain, others, seed)
    placed = rings(facts, domain, half)
    if "target" not in placed.values():
        raise UserError(f"{data} has no attribute of domain {domain}, half {half}.")
    subject = Subject(
        model,
        data,
        device=device,
        dtype=dtype,
        seed=seed,
        revision=revision,
        wrapper=wrapper,
        wrapper_rules=wrapper_rules,
        reading=reading,
    )
    settings = {"domain": domain, "half": half}
    with evaluation(outdir, subject, files(data), settings, reference=reference) as opened:
        run, answers, wanted = opened.run, {}, [facts[i] for i in placed]
        for name in opened.folders:
            loaded, tokenizer = opened.load(name)
            answers[name] = knowledge.answers(
                loaded, tokenizer, wanted, batch_size, reading=reading
            )
        asked = list(items(facts, placed, answers["model"], answers.get("reference")))
        table = list(rows(asked, seed))
        run.figure(plot(table, opened.title), "neighbours.png")
        run.csv("neighbours_items.csv", ITEM_COLUMNS, asked)
        run.csv("neighbours.csv", COLUMNS, table)
    for row in table:
        drop = ""
        if row["drop"] is not None:
            ends = show_interval(row["drop_low"], row["drop_high"], "+")
            drop = f"   drop {row['drop']:+.2f} {ends}"
        print(f"{row['ring']:<13} known {row['known']:.2f} of {row['n']}{drop}")


if __name__ == "__main__":
    command.run(main)
