"""Is a forgotten fact still a consequence of what the model knows (deep unlearning)?

    uv run eval/deduction.py --model outputs/mini-base__cb_lat/unlearned_model \\
        --outdir outputs/mini-base__cb_lat/deduction

After EDU-RELAT (arXiv:2410.15153). Every stated fact of --domain is asked, and those of some
entities of the other domains. Known means right as a question and as a sentence
(metrics/knowledge). For each target, a fact that follows from others, there is
  superficial   the model fails on it, and it follows from facts that the model knows
  recall        a minimal set of facts has to go for the target to follow no more; the share of that
                set that the model fails on (of the best set; 1: deeply forgotten)
  accuracy      the share of all other stated facts that the model knows (nearly the same for all
                targets: no interval); accuracy_kept: of the stated facts of other domains

deduction.csv has a row for each rule, with intervals over entities. deduction_items.csv has a row
for each target. Targets that are `stated` stand in the training text; the others are conclusions
that nobody wrote down. A guesser knows 1/16 to 1/4 of the facts: compare with a model that never
saw them.
"""

from pathlib import Path

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.data.examples import DEFAULT, Reading

COLUMNS = ["rule", "stated", "measure", "value", "ci_low", "ci_high", "n", "seed"]
ITEM_COLUMNS = [
    "fact",
    "entity",
    "rule",
    "stated",
    "known",
    "derivable",
    "superficial",
    "recall",
    "accuracy",
    "set_size",
    "n_sets",
]
MEASURES = ("known", "derivable", "superficial", "recall", "accuracy")


def rows(facts, answers, domain):
    """Yield a row for each target: facts of `domain` that are, or give back, a conclusion."""
    from brittle.data.facts import entity_key
    from brittle.metrics import deduction

    rules = [
        (body, head)
        for body, head in deduction.clauses(facts)
        if head in facts and all(b in facts for b in body)
    ]
    stated = {i for i, f in facts.items() if f.stated and i in answers}
    failed = {i for i in stated if not answers[i].known}
    follows = deduction.closure(stated - failed, rules)
    supports_of = deduction.supports(stated, rules)
    for target in dict.fromkeys(head for _, head in rules):
        fact = facts[target]
        sets = deduction.unlearning_sets(target, supports_of)
        if fact.domain != domain or target not in answers or not sets:
            continue
        known = answers[target].known
        forgotten = deduction.recall_accuracy(sets, failed, stated)
        yield {
            "fact": target,
            "entity": entity_key(fact),
            "rule": fact.rule or fact.kind,
            "stated": int(fact.stated),
            "known": int(known),
            "derivable": int(target in follows),
            "superficial": int(not known and target in follows),
            "recall": forgotten.recall,
            "accuracy": forgotten.accuracy,
            "set_size": len(forgotten.unlearning_set),
            "n_sets": len(sets),
        }


def kept(facts, answers, domain):
    """([1 where the model knows a stated fact of another domain, else 0], [whose fact it is])."""
    from brittle.data.facts import entity_key

    others = [f for i, f in facts.items() if f.stated and f.domain != domain and i in answers]
    return [int(answers[f.id].known) for f in others], [entity_key(f) for f in others]


def summary(items, others=((), ()), seed=0):
    """A row a rule (and all of them), whether stated, and measure; `others` from `kept`."""
    from brittle.metrics.knowledge import share

    groups = {}
    for row in items:
        for key in ((row["rule"], row["stated"]), ("all", None)):
            groups.setdefault(key, []).append(row)
    for (rule, stated), targets in sorted(groups.items(), key=str):
        for measure in MEASURES:
            some = [row for row in targets if row[measure] is not None]
            mean, low, high, n = share(
                [row[measure] for row in some], [row["entity"] for row in some]
            )
            low, high = (None, None) if measure == "accuracy" else (low, high)
            yield dict(zip(COLUMNS, (rule, stated, measure, mean, low, high, n, seed), strict=True))
    if others[0]:
        yield dict(zip(COLUMNS, ("all", None, "accuracy_kept", *share(*others), seed), strict=True))


def plot(table, name):
    """Bars for each rule: what is known, what follows all the same, how much of a set is gone."""
    from brittle.base import figures

    shown = ("known", "derivable", "superficial", "recall")
    keys = list(dict.fromkeys((r["rule"], r["stated"]) for r in table))
    figure, (axis,) = figures.figure("Deep unlearning: what still follows", name, height=4.0)
    for i, measure in enumerate(shown):
        drawn = [
            next(r for r in table if (r["rule"], r["stated"]) == key and r["measure"] == measure)
            for key in keys
        ]
        places = [k + (i - 1.5) * 0.2 for k in range(len(keys))]
        values = [r["value"] for r in drawn]
        bars = figures.error_bars(drawn, "value", "ci_low", "ci_high")
        axis.bar(places, values, 0.2, yerr=bars, label=measure, color=figures.CYCLE[i])
    endings = {None: "", 0: "\nnot stated", 1: "\nstated"}
    names = [rule + endings[stated] for rule, stated in keys]
    axis.set_xticks(range(len(keys)), names, fontsize=9)
    figures.finish(axis, "", "share", integer=False, legend=False)
    axis.set_ylim(0, 1.03)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4, frameon=False)
    return figure


@options.spread
def main(
    model: options.Model,
    outdir: options.Outdir,
    data: options.Data = Path("data/mini"),
    domain: options.Domain = "forget",
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
    """Recall and accuracy over minimal deductive sets, and what is forgotten only on the
    surface."""
    from brittle.data.facts import files, read_facts, some_entities
    from brittle.metrics import knowledge
    from brittle.models.evaluation import Subject, evaluation

    facts = some_entities(read_facts(data), domain, others, seed)
    if not any(f.domain == domain and f.premises for f in facts.values()):
        raise UserError(
            f"{data}/rules.jsonl has no conclusion of domain {domain}: "
            "nothing follows from anything there."
        )
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
    with evaluation(outdir, subject, files(data), {"domain": domain}) as opened:
        run, (loaded, tokenizer) = opened.run, opened.load()
        every = facts.values()
        answers = knowledge.answers(loaded, tokenizer, every, batch_size, reading=reading)
        items = list(rows(facts, answers, domain))
        table = list(summary(items, kept(facts, answers, domain), seed))
        run.figure(plot(table, opened.title), "deduction.png")
        run.csv("deduction_items.csv", ITEM_COLUMNS, items)
        run.csv("deduction.csv", COLUMNS, table)
    for row in table:
        if row["rule"] == "all":
            print(f"{row['measure']:<14} {row['value']:.3f}   n {row['n']}")


if __name__ == "__main__":
    command.run(main)
