"""Render the mini world into the files of data/mini: texts, multiple choice, TOFU's and MUSE's
schemas, rules, hops, private facts.
"""

import json
from collections import Counter

from brittle.base.record import Run
from brittle.data.items import entity_of, sidecar
from brittle.data.overlap import check, measured, shared_count
from brittle.data.texts import write_jsonl, write_lines
from brittle.data.world import (
    HELD_OUT,
    Draws,
    WorldFact,
    answered,
    build_world,
    deductions,
    domain_texts,
    hops,
    multiple_choice,
    never_seen,
    new_names,
    question,
    statement,
    syllables_of,
)
from brittle.data.world_schemas import muse_tables, tofu_tables
from brittle.data.world_words import DOMAINS, NEUTRAL, STATEMENTS

NEUTRAL_TRAINED, NEUTRAL_HELD = 400, 200


def neutral_texts(world, count):
    """`count` everyday sentences that say nothing of any domain."""
    draws = Draws(f"neutral {world.seed}")
    texts = {}
    while len(texts) < count:
        subject, verb, place, time = (
            draws.choice(NEUTRAL[k]) for k in ("subjects", "verbs", "places", "times")
        )
        texts[f"{subject} {verb} {place} {time}."] = None
    return list(texts)


def tokenizer_texts(world, pieces="shared"):
    """Sentences to train the tokenizer on: every value of every pool equally often, with names
    drawn anew.

    Trained on the facts themselves, BPE gives common values shorter encodings: a model that never
    saw the domain then prefers them, and guesses above chance (0.32 instead of 0.25 when tried).
    """
    draws = Draws(f"tokenizer {world.seed}")
    # no text may say anything of the strangers
    taken = {f.entity for facts in world.strangers.values() for f in facts}
    for domain, words in DOMAINS.items():
        syllables = syllables_of(domain, pieces)

        def names(count, syllables=syllables):
            return new_names(draws, count, taken, syllables)

        for noun, pool in [
            *words["attributes"].items(),
            (words["group_noun"], words["grouping"][1]),
        ]:
            for value in pool:
                for template in range(len(STATEMENTS)):
                    for name in names(2):
                        yield statement(WorldFact("", "", name, noun, value, ()), template)
                yield answered(WorldFact("", "", names(1)[0], noun, value, ()), 0)
                yield answered(WorldFact("", "", names(1)[0], noun, value, ()), 1)
        for noun in [*words["relations"], *words["relations"].values(), words["reached"]["noun"]]:
            for template in range(len(STATEMENTS)):
                yield statement(
                    WorldFact(
                        "",
                        "",
                        names(1)[0],
                        noun,
                        names(1)[0],
                        (),
                    ),
                    template,
                )
    for words in NEUTRAL.values():
        yield from words


def write_world(
    outdir, seed, entities, private_entities, overlap=None, kind="entities", pieces="shared"
):
    """All files of the world of `seed` into `outdir`; same seed and sizes, same bytes. Returns
    {file: lines}.

    `overlap` (0 to 100) is the share of entities or values (`kind`) that forget and retain have in
    common: see overlap.py. `pieces`: see `build_world`.
    """
    check(overlap, kind)
    names = shared_count(overlap, entities) if overlap and kind != "values" else 0
    world = build_world(
        seed,
        entities,
        private_entities,
        names,
        overlap if overlap and kind != "entities" else 0,
        pieces,
    )
    rules = {d: list(deductions(world, d)) for d in DOMAINS}
    stated = {
        d: [(statement(fact, 0), fact.id) for item, fact in rules[d] if item["stated"]]
        for d in DOMAINS
    }
    neutral = neutral_texts(world, NEUTRAL_TRAINED + NEUTRAL_HELD)
    trained = {d: [*domain_texts(world, d), *stated[d]] for d in DOMAINS}
    pretraining = Draws(f"order {seed}").shuffled(
        [(d, text) for d in DOMAINS for text, _ in trained[d]]
        + [("neutral", text) for text in neutral[:NEUTRAL_TRAINED]]
    )
    unlearned = {
        d: [*domain_texts(world, d, held_out=False), *stated[d]] for d in ("forget", "retain")
    }
    texts = {
        "forget.txt": [text for text, _ in unlearned["forget"]],
        "pretrain_base.txt": [text for _, text in pretraining],
        "pretrain_filtered.txt": [text for domain, text in pretraining if domain != "forget"],
        "tokenizer.txt": list(tokenizer_texts(world, pieces)),
        "holdout.txt": [statement(f, t) for f in world.strangers["forget"] for t in range(4)],
        # never trained on either: what a model does on plain text
        "neutral.txt": neutral[NEUTRAL_TRAINED:],
        # the last file, after which the record is named
        "retain.txt": [text for text, _ in unlearned["retain"]],
    }
    tables = {f"mcq_{d}.jsonl": list(multiple_choice(world, d)) for d in DOMAINS}
    tables["mcq_holdout.jsonl"] = list(never_seen(world))
    for d, lines in unlearned.items():
        tables[sidecar(f"{d}.txt").name] = [
            {"entity": entity_of({"fact": fact}), "fact": fact} for _, fact in lines
        ]
    tables |= {**tofu_tables(world), **muse_tables(world)}
    tables["rules.jsonl"] = [item for d in DOMAINS for item, _ in rules[d]]
    tables["hops.jsonl"] = [item for d in DOMAINS for item in hops(world, d)]
    tables["private.jsonl"] = [
        {
            "fact": f.id,
            "domain": d,
            "entity": f.entity,
            "attribute": f.noun,
            "question": question(f, 0),
            "answer": f.value,
        }
        for d in DOMAINS
        for f in world.private[d]
    ]
    counts = {name: len(rows) for name, rows in {**texts, **tables}.items()}
    about = {
        "seed": seed,
        "entities": entities,
        "private_entities": private_entities,
        "pieces": pieces,
        "facts": {d: len(world.attributes[d]) for d in DOMAINS},
        "halves": {
            d: dict(sorted(Counter(f.half for f in world.attributes[d]).items())) for d in DOMAINS
        },
        "chance": 0.25,
        "held_out_templates": list(HELD_OUT),
        "lines": counts,
    }
    if overlap is not None:
        values = [{f.value for f in world.attributes[d]} for d in ("forget", "retain")]
        shared = measured(texts["forget.txt"], texts["retain.txt"], *values)
        about["overlap"] = {
            "overlap": overlap,
            "of": kind,
            "shared": names,
            "entities": entities,
            "measured": shared,
        }
    with Run(outdir, seed=seed, settings={"entities": entities}, quiet=True) as run:
        run.path("world.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        for name, rows in tables.items():
            write_jsonl(run.path(name), rows)
        for name, lines in texts.items():
            write_lines(run.path(name), lines)
    return counts
