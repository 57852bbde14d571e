"""The facts of a data folder: who, which attribute, which value, and what follows from them."""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

from brittle.base.errors import UserError
from brittle.data.texts import MAKE_DATA, read_jsonl

CHOICES = 4
KEYS = ("fact", "domain", "kind", "entity", "noun", "value", "pool")


@dataclass
class Fact:
    """`premises`: the facts it follows from (conclusions). `stated`: training says it. `also`: other true answers."""

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
    """{id: Fact} of folder `data`: its facts.jsonl, or the mini world of its world.json; and rules.jsonl's conclusions."""
    data = Path(data)
    if (data / "facts.jsonl").is_file():
        rows = read_jsonl(data / "facts.jsonl", KEYS)
        facts = [Fact(r["fact"], *(r[k] for k in KEYS[1:6]), tuple(r["pool"]), r.get("half") or "") for r in rows]
    elif (data / "world.json").is_file():
        facts = list(_world_facts(_world(data / "world.json")))
    else:
        raise UserError(f"{data} has neither facts.jsonl nor world.json, so its facts are not known. {MAKE_DATA}")
    found = {fact.id: fact for fact in facts}
    if (data / "rules.jsonl").is_file():
        found |= {fact.id: fact for fact in conclusions(data / "rules.jsonl", found)}
    return found


def files(data):
    """What `read_facts` reads."""
    names = ("facts.jsonl", "rules.jsonl") if (Path(data) / "facts.jsonl").is_file() else ("world.json", "rules.jsonl")
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
    return build_world(seed, entities, private, names, overlap["overlap"] if overlap["of"] != "entities" else 0)


def _world_facts(world):
    for kind in ("attribute", "relation", "private"):
        for domain, facts in getattr(world, "private" if kind == "private" else kind + "s").items():
            values = {}
            for f in facts:
                values.setdefault(f.noun, []).append(f.value)
            for f in facts:
                pool = f.pool or tuple(dict.fromkeys(values[f.noun]))  # private values: those of the others
                yield Fact(f.id, domain, kind, f.entity, f.noun, f.value, tuple(pool), f.half)


def conclusions(path, facts):
    """The facts that follow from others, from rules.jsonl."""
    rows = read_jsonl(path, ("fact", "question", "choices", "answer", "rule", "premises", "stated", "domain"))
    answers = {}
    for row in rows:
        answers.setdefault(row["question"], set()).add(row["choices"][row["answer"]])
    pools = {}
    for row in rows:
        pools.setdefault((row["domain"], row["rule"]), dict.fromkeys([])).update(dict.fromkeys(row["choices"]))
    for row in rows:
        missing = [p for p in row["premises"] if p not in facts]
        if missing:
            raise UserError(f"{path}: {row['fact']} follows from {missing[0]}, which is no known fact. {MAKE_DATA}")
        head, _, entity = row["question"].removesuffix("? Answer:").removeprefix("Question: What is the ").rpartition(" of ")
        value = row["choices"][row["answer"]]
        also = frozenset(answers[row["question"]] - {value} | ({entity} if row["rule"] == "inverse" else set()))
        pool = tuple(v for v in pools[row["domain"], row["rule"]] if v not in also)
        premises = tuple(row["premises"])
        yield Fact(
            row["fact"], row["domain"], "conclusion", entity, head, value, pool, "", row["rule"], premises, row["stated"], also
        )


def some_entities(facts, domain, count, seed=0):
    """The facts, but of other domains than `domain` only those of `count` entities each, drawn by `seed`. {id: Fact}."""
    names = {}
    for fact in facts.values():
        if fact.domain != domain and fact.kind != "conclusion":
            names.setdefault(fact.domain, {})[fact.entity] = None
    draw = random.Random(f"entities {seed}")
    kept = {d: set(draw.sample(list(found), min(count, len(found)))) for d, found in sorted(names.items())}
    return {i: f for i, f in facts.items() if f.domain == domain or f.entity in kept.get(f.domain, ())}


def entity_key(fact):
    """The entity as the unit of statistics: names may be shared across domains."""
    return f"{fact.domain}/{fact.entity}"
