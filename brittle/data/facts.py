"""The facts of a data folder: who, which attribute, which value, and what follows from them."""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

from brittle.base.errors import UserError
from brittle.data.items import check_item
from brittle.data.texts import MAKE_DATA, numbered_jsonl, read_jsonl

CHOICES = 4
KEYS = ("fact", "domain", "kind", "entity", "noun", "value", "pool")
RULE_KEYS = (
    "fact",
    "question",
    "choices",
    "answer",
    "rule",
    "premises",
    "stated",
    "domain",
    "subject",
    "attribute",
)


@dataclass
class Fact:
    """Who (`entity`), which attribute (`noun`), which `value` of the `pool` it was drawn from.

    Of a conclusion, `premises` are the ids of the facts it follows from and `rule` says how.
    `stated`: the training text says it. `also`: other answers that are true as well.
    """

    id: str
    domain: str
    kind: str
    entity: str
    noun: str
    value: str
    pool: tuple[str, ...]
    half: str = ""
    rule: str = ""
    premises: tuple[str, ...] = ()
    stated: bool = True
    also: frozenset = field(default_factory=frozenset)


def read_facts(data):
    """{id: Fact} of the folder `data`.

    Facts come from its facts.jsonl, or are those of the mini world that its world.json describes.
    Conclusions come from its rules.jsonl. Raises UserError where the folder has neither file.
    """
    data = Path(data)
    if (data / "facts.jsonl").is_file():
        rows = read_jsonl(data / "facts.jsonl", KEYS)
        facts = [_fact_of_row(row) for row in rows]
    elif (data / "world.json").is_file():
        facts = list(_world_facts(_world(data / "world.json")))
    else:
        lacks = f"{data} has neither facts.jsonl nor world.json, so its facts are not known."
        raise UserError(f"{lacks} {MAKE_DATA}")
    by_id = {fact.id: fact for fact in facts}
    if (data / "rules.jsonl").is_file():
        by_id |= {fact.id: fact for fact in conclusions(data / "rules.jsonl", by_id)}
    return by_id


def _fact_of_row(row):
    return Fact(
        id=row["fact"],
        domain=row["domain"],
        kind=row["kind"],
        entity=row["entity"],
        noun=row["noun"],
        value=row["value"],
        pool=tuple(row["pool"]),
        half=row.get("half") or "",
    )


def files(data):
    """What `read_facts` reads."""
    names = (
        ("facts.jsonl", "rules.jsonl")
        if (Path(data) / "facts.jsonl").is_file()
        else ("world.json", "rules.jsonl")
    )
    return [Path(data) / name for name in names if (Path(data) / name).is_file()]


def _world(path):
    from brittle.data.world import build_world

    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        seed, entities, private = about["seed"], about["entities"], about["private_entities"]
        overlap = about.get("overlap") or {"of": "entities", "shared": 0, "overlap": 0}
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}). {MAKE_DATA}") from None
    names = overlap["shared"] if overlap["of"] != "values" else 0
    return build_world(
        seed, entities, private, names, overlap["overlap"] if overlap["of"] != "entities" else 0
    )


def _world_facts(world):
    for kind in ("attribute", "relation", "private"):
        for domain, facts in getattr(world, "private" if kind == "private" else kind + "s").items():
            values = {}
            for f in facts:
                values.setdefault(f.noun, []).append(f.value)
            for f in facts:
                pool = f.pool or tuple(
                    dict.fromkeys(values[f.noun])
                )  # private values: those of the others
                yield Fact(f.id, domain, kind, f.entity, f.noun, f.value, tuple(pool), f.half)


def conclusions(path, facts):
    """Yield the facts that follow from others, from rules.jsonl. `facts` {id: Fact} are the
    premises.

    Raises UserError where a conclusion follows from a fact that is not there.
    """
    numbered = numbered_jsonl(path, RULE_KEYS)
    for number, row in numbered:
        check_item(f"{path} line {number}", row["choices"], row["answer"])
    rows = [row for _, row in numbered]
    answers, pools = {}, {}
    for row in rows:
        answers.setdefault(row["question"], set()).add(row["choices"][row["answer"]])
        pool = pools.setdefault((row["domain"], row["rule"]), {})
        pool.update(dict.fromkeys(row["choices"]))
    for row in rows:
        missing = [premise for premise in row["premises"] if premise not in facts]
        if missing:
            unknown = f"{row['fact']} follows from {missing[0]}, which is no known fact."
            raise UserError(f"{path}: {unknown} {MAKE_DATA}")
        value = row["choices"][row["answer"]]
        also = answers[row["question"]] - {value}
        if row["rule"] == "inverse":
            also |= {row["subject"]}
        yield Fact(
            id=row["fact"],
            domain=row["domain"],
            kind="conclusion",
            entity=row["subject"],
            noun=row["attribute"],
            value=value,
            pool=tuple(v for v in pools[row["domain"], row["rule"]] if v not in also),
            rule=row["rule"],
            premises=tuple(row["premises"]),
            stated=row["stated"],
            also=frozenset(also),
        )


def some_entities(facts, domain, count, seed=0):
    """{id: Fact}: all facts of `domain`, and of each other domain those of `count` entities.

    The entities are drawn by `seed`.
    """
    names = {}
    for fact in facts.values():
        if fact.domain != domain and fact.kind != "conclusion":
            names.setdefault(fact.domain, {})[fact.entity] = None
    draw = random.Random(f"entities {seed}")
    drawn = {
        other: set(draw.sample(list(entities), min(count, len(entities))))
        for other, entities in sorted(names.items())
    }
    return {
        number: fact
        for number, fact in facts.items()
        if fact.domain == domain or fact.entity in drawn.get(fact.domain, ())
    }


def entity_key(fact):
    """The entity as the unit of statistics: names may be shared across domains."""
    return f"{fact.domain}/{fact.entity}"
