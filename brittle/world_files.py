"""Render the mini world into the files of data/mini: texts, multiple choice, TOFU-style questions, rules, hops, private facts."""

import json
from collections import Counter

from brittle import world as w
from brittle.results import Run
from brittle.text import write_jsonl, write_lines
from brittle.world_words import DOMAINS

NEUTRAL_TRAINED, NEUTRAL_HELD = 400, 200


def write_world(outdir, seed, entities, private_entities):
    """All files of the world of `seed` into `outdir`; same seed and sizes, same bytes. Returns {file: lines}."""
    world = w.build_world(seed, entities, private_entities)
    rules = {d: list(w.deductions(world, d)) for d in DOMAINS}
    stated = {d: [w.statement(fact, 0) for item, fact in rules[d] if item["stated"]] for d in DOMAINS}
    neutral = w.neutral_texts(world, NEUTRAL_TRAINED + NEUTRAL_HELD)
    trained = {d: [*w.domain_texts(world, d), *stated[d]] for d in DOMAINS}
    pretraining = w.Draws(f"order {seed}").shuffled(
        [(d, text) for d in DOMAINS for text in trained[d]] + [("neutral", text) for text in neutral[:NEUTRAL_TRAINED]]
    )
    texts = {
        "forget.txt": [*w.domain_texts(world, "forget", held_out=False), *stated["forget"]],
        "pretrain_base.txt": [text for _, text in pretraining],
        "pretrain_filtered.txt": [text for domain, text in pretraining if domain != "forget"],
        "tokenizer.txt": list(w.tokenizer_texts(world)),
        "holdout.txt": [w.statement(f, t) for f in world.strangers["forget"] for t in range(4)],
        "neutral.txt": neutral[NEUTRAL_TRAINED:],  # never trained on either: what a model does on plain text
        "retain.txt": [*w.domain_texts(world, "retain", held_out=False), *stated["retain"]],  # last: the record is its
    }
    tables = {f"mcq_{d}.jsonl": list(w.multiple_choice(world, d)) for d in DOMAINS}
    tables |= {f"qa_{d}.jsonl": list(w.question_answers(world, d)) for d in ("forget", "retain")}
    tables["rules.jsonl"] = [item for d in DOMAINS for item, _ in rules[d]]
    tables["hops.jsonl"] = [item for d in DOMAINS for item in w.hops(world, d)]
    tables["private.jsonl"] = [
        {"fact": f.id, "domain": d, "entity": f.entity, "attribute": f.noun, "question": w.question(f, 0), "answer": f.value}
        for d in DOMAINS
        for f in world.private[d]
    ]
    counts = {name: len(rows) for name, rows in {**texts, **tables}.items()}
    about = {
        "seed": seed,
        "entities": entities,
        "private_entities": private_entities,
        "facts": {d: len(world.attributes[d]) for d in DOMAINS},
        "halves": {d: dict(sorted(Counter(f.half for f in world.attributes[d]).items())) for d in DOMAINS},
        "chance": 0.25,
        "held_out_templates": list(w.HELD_OUT),
        "lines": counts,
    }
    with Run(outdir, seed=seed, settings={"entities": entities}) as run:
        run.path("world.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        for name, rows in tables.items():
            write_jsonl(run.path(name), rows)
        for name, lines in texts.items():
            write_lines(run.path(name), lines)
    return counts
