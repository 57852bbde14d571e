"""Can what was forgotten still be reached through two facts ("the habitat of the prey of X")?

    uv run eval/multihop.py --model outputs/mini-base__cb_lat/unlearned_model \\
        --outdir outputs/mini-base__cb_lat/multihop

After MUNCH (arXiv:2410.13274). The questions of hops.jsonl, which no training text states, stand
against the two questions they consist of (gold decomposition), and against the model's own chain,
where its answer to the first hop is put into the second.

`category` is the domain of the first fact -> that of the second. Measures: two_hop, first_hop,
second_hop, both_hops, chain, survives (two_hop is right though a hop is wrong: the answer outlives
the facts it rests on), and chance. Intervals are over entities.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.data.examples import DEFAULT, Reading

COLUMNS = ["category", "measure", "value", "ci_low", "ci_high", "n", "seed"]
ITEM_COLUMNS = [
    "fact",
    "entity",
    "category",
    "two_hop",
    "first_hop",
    "second_hop",
    "both_hops",
    "chain",
    "survives",
    "chance",
]
MEASURES = ITEM_COLUMNS[3:]


def read_hops(path, facts):
    """The two-hop items whose two premises are known facts."""
    from brittle.data.items import read_items

    items = read_items(path)
    for item in items:
        missing = [p for p in item.get("premises", [None]) if p not in facts]
        if missing or len(item["premises"]) != 2:
            raise UserError(
                f"{path}: {item.get('fact')} needs two premises that are known facts; "
                f"{missing} are not."
            )
    return items


def rows(items, rights, facts, answers):
    """Yield a row for each two-hop question.

    rights: 1 where it is answered right, else 0. answers: {fact id: knowledge.Answer} of the hops.
    """
    from brittle.metrics import mcq

    by_name = {(f.domain, f.entity, f.noun): f.id for f in facts.values()}
    for item, right in zip(items, rights, strict=True):
        first, second = (facts[p] for p in item["premises"])
        hops = [answers[f.id].known for f in (first, second)]
        reached = by_name.get((second.domain, answers[first.id].value, second.noun))
        chain = None if reached not in answers else answers[reached].value == second.value
        yield {
            "fact": item["fact"],
            "entity": f"{first.domain}/{first.entity}",
            "category": f"{first.domain} -> {second.domain}",
            "two_hop": int(right),
            "first_hop": int(hops[0]),
            "second_hop": int(hops[1]),
            "both_hops": int(all(hops)),
            "chain": None if chain is None else int(chain),
            "survives": None if all(hops) else int(right),
            "chance": mcq.chance([item]),
        }


def summary(items, seed=0):
    from brittle.metrics.knowledge import share

    for category in dict.fromkeys(row["category"] for row in items):
        for measure in MEASURES:
            asked = [
                row for row in items if row["category"] == category and row[measure] is not None
            ]
            mean, low, high, n = share(
                [row[measure] for row in asked], [row["entity"] for row in asked]
            )
            yield dict(zip(COLUMNS, (category, measure, mean, low, high, n, seed), strict=True))


def plot(table, name):
    from brittle.base import figures

    categories = list(dict.fromkeys(row["category"] for row in table))
    figure, (axis,) = figures.figure("Two hops and the facts they rest on", name, height=3.8)
    for i, category in enumerate(categories):
        drawn = [
            r
            for r in table
            if r["category"] == category and r["measure"] != "chance" and r["value"] is not None
        ]
        for r in drawn:
            at = MEASURES.index(r["measure"]) + (i - (len(categories) - 1) / 2) * 0.15
            colour = figures.CYCLE[i % len(figures.CYCLE)]
            if r["ci_low"] is not None:
                axis.plot([at, at], [r["ci_low"], r["ci_high"]], color=colour)
            axis.plot(at, r["value"], "o", color=colour, label=category if r is drawn[0] else None)
    figures.null(axis, None, table[-1]["value"], "chance (two hops)")
    axis.set_xticks(range(len(MEASURES) - 1), [m.replace("_", "\n") for m in MEASURES[:-1]])
    figures.finish(axis, "", "share right", integer=False, legend=False)
    axis.set_ylim(0, 1.03)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, frameon=False)
    return figure


@options.spread
def main(
    model: options.Model,
    outdir: options.Outdir,
    data: options.Data = Path("data/mini"),
    max_items: Annotated[
        int, typer.Option(min=5, help="Two-hop questions a domain, drawn by --seed.")
    ] = 300,
    batch_size: options.BatchSize = 256,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    reading: Reading = DEFAULT,
    revision: options.Revision = None,
    wrapper: options.Wrapper = None,
    wrapper_rules: options.WrapperRules = None,
):
    """Two-hop accuracy against the accuracy of its single hops."""
    from brittle.data.facts import files, read_facts
    from brittle.data.items import subset
    from brittle.metrics import knowledge, mcq
    from brittle.models.evaluation import Subject, evaluation

    facts = read_facts(data)
    path = Path(data) / "hops.jsonl"
    hops, items = read_hops(path, facts), []
    for domain in dict.fromkeys(facts[item["premises"][0]].domain for item in hops):
        items += subset(
            [i for i in hops if facts[i["premises"][0]].domain == domain], max_items, seed
        )
    firsts = {i["premises"][0] for i in items}
    nouns = {facts[i["premises"][1]].noun for i in items}
    reachable = {(facts[p].domain, v) for p in firsts for v in [facts[p].value, *facts[p].pool]}
    needed = [
        f
        for f in facts.values()
        if f.id in firsts or (f.noun in nouns and (f.domain, f.entity) in reachable)
    ]
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
    with evaluation(outdir, subject, [path, *files(data)]) as opened:
        run, (loaded, tokenizer) = opened.run, opened.load()
        answers = knowledge.answers(
            loaded, tokenizer, needed, batch_size, sentences=False, reading=reading
        )
        outcomes = mcq.outcomes(loaded, tokenizer, items, batch_size=batch_size, reading=reading)
        asked = list(rows(items, [o.right for o in outcomes], facts, answers))
        table = list(summary(asked, seed))
        run.figure(plot(table, opened.title), "multihop.png")
        run.csv("multihop_items.csv", ITEM_COLUMNS, asked)
        run.csv("multihop.csv", COLUMNS, table)
    for row in table:
        if row["value"] is not None and row["measure"] in ("two_hop", "both_hops", "survives"):
            print(f"{row['category']:<20} {row['measure']:<10} {row['value']:.3f}   n {row['n']}")


if __name__ == "__main__":
    command.run(main)
