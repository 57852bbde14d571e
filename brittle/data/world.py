"""The mini world: one seeded graph of invented facts from which every mini dataset is rendered.

Three domains of the same shape: forget (organisms), retain (towns), general (trades). An entity has
- attributes: independent uniform draws from pools of 12 values, each fact in half A or half B by a
  blind, balanced split: training on half A teaches a model that is ignorant of the domain nothing
  about half B;
- two relations to other entities of its domain (independent uniform draws);
- for some entities, private attributes (invented e-mail, phone, birth year of a keeper). Three Horn
  rules a domain make further facts deducible: an inverse relation, a two-hop composition, and a
  public grouping of an attribute's values. Half of the conclusions are stated in the training text,
  the other half can only be deduced.

Everything is fictional. Draws use `random.Random.random()` alone, the only stream Python promises
to keep over versions, so one seed gives the same bytes on any machine.
"""

import random
from dataclasses import dataclass
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.data.world_words import (
    DISJOINT,
    DOMAINS,
    PRIVATE,
    QUESTIONS,
    STATEMENTS,
    SYLLABLES,
)

HELD_OUT = (
    4,
    5,
)  # statement templates that never stand in the unlearning text: paraphrases to test with
ENTITIES = (4, 20_000)  # a domain; three syllables make 238,328 names


class WorldFact(NamedTuple):
    """`id` is domain/entity number/attribute; `pool` are the values it was drawn from."""

    id: str
    half: str
    entity: str
    noun: str
    value: str
    pool: tuple[str, ...]


@dataclass
class World:
    """All facts by domain: `attributes`, `relations` and `private` map a domain's name to lists of
    `WorldFact`.
    """

    seed: int
    names: dict[str, list[str]]
    attributes: dict[str, list[WorldFact]]
    relations: dict[str, list[WorldFact]]
    private: dict[str, list[WorldFact]]
    strangers: dict[
        str, list[WorldFact]
    ]  # attributes of entities no training text names (membership inference)


class Draws:
    """Uniform choice, sampling and shuffling from one seeded stream of random()."""

    def __init__(self, seed):
        self.random = random.Random(seed).random

    def choice(self, items):
        return items[int(self.random() * len(items))]

    def shuffled(self, items):
        return sorted(items, key=lambda _: self.random())

    def sample(self, items, count):
        return self.shuffled(items)[:count]


PIECES = ("shared", "disjoint")  # do the names of two domains have syllables in common


def syllables_of(domain, pieces):
    """The syllables that the names of a domain are made of."""
    if pieces not in PIECES:
        raise UserError(f"--pieces {pieces}: choose {' or '.join(PIECES)}.")
    return DISJOINT[domain] if pieces == "disjoint" else SYLLABLES


def new_names(draws, count, taken=(), syllables=SYLLABLES):
    """`count` different invented names of three syllables, none of them `taken`."""
    if count > len(syllables) ** 3 // 2:
        raise UserError(
            f"{count} names of {len(syllables)} syllables: at most {len(syllables) ** 3 // 2}. "
            "Lower --entities."
        )
    names = {}
    while len(names) < count:
        name = "".join(draws.choice(syllables) for _ in range(3)).capitalize()
        if name not in taken:
            names[name] = None
    return list(names)


def halves(draws, count):
    """A random split of `count` things into halves A and B of equal size (or one apart), blind to
    everything else.
    """
    return [
        half for _, half in sorted(zip(draws.shuffled(range(count)), "AB" * count, strict=False))
    ]


def _pools(domain, share=0):
    """{attribute: values}; `share` % of each forget pool are values of the retain attribute of the
    same number.
    """
    own = DOMAINS[domain]["attributes"]
    if domain != "forget" or not share:
        return own
    borrowed = DOMAINS["retain"]["attributes"].values()
    counts = [int(share * len(pool) / 100 + 0.5) for pool in own.values()]
    return {
        n: [*p[: len(p) - c], *b[:c]]
        for (n, p), b, c in zip(own.items(), borrowed, counts, strict=True)
    }


def _attribute_facts(draws, domain, names, first=0, share=0):
    facts = [
        (f"{domain}/{first + i:03d}/{noun}", name, noun, draws.choice(pool), tuple(pool))
        for i, name in enumerate(names)
        for noun, pool in _pools(domain, share).items()
    ]
    return [
        WorldFact(f[0], half, *f[1:])
        for f, half in zip(facts, halves(draws, len(facts)), strict=True)
    ]


def _relation_facts(draws, domain, names):
    pool = tuple(names)  # but the entity itself
    return [
        WorldFact(f"{domain}/{i:03d}/{noun}", half, name, noun, pool[other + (other >= i)], pool)
        for noun in DOMAINS[domain]["relations"]
        for i, (name, half) in enumerate(zip(names, halves(draws, len(names)), strict=True))
        for other in [draws.choice(range(len(names) - 1))]
    ]


def _private_facts(draws, domain, names, count):
    facts = []
    for i, name in enumerate(names[:count]):
        keeper = "".join(draws.choice(SYLLABLES) for _ in range(2))
        values = {
            "e-mail": f"{keeper}@{draws.choice(PRIVATE['hosts'])}.example",
            "phone": "555-" + "".join(str(int(draws.random() * 10)) for _ in range(3)),
            "birth year": str(1930 + int(draws.random() * 70)),
        }
        facts += [
            WorldFact(f"{domain}/{i:03d}/{kind}", half, name, f"keeper's {kind}", value, ())
            for (kind, value), half in zip(
                values.items(), draws.shuffled("ABA" if i % 2 else "BAB"), strict=True
            )
        ]
    return facts


def _names(draws, counts, pieces):
    """{domain: names} for each of `counts`, {domain: names} in all different."""
    if pieces == "shared":
        pool = new_names(draws, sum(counts) * len(DOMAINS))
        drawn = []
        for count in counts:
            drawn.append({d: pool[i * count : (i + 1) * count] for i, d in enumerate(DOMAINS)})
            pool = pool[count * len(DOMAINS) :]
        return drawn
    whole = {d: new_names(draws, sum(counts), (), syllables_of(d, pieces)) for d in DOMAINS}
    first = counts[0]
    return [{d: n[:first] for d, n in whole.items()}, {d: n[first:] for d, n in whole.items()}]


def build_world(
    seed=0, entities=60, private_entities=8, shared_names=0, shared_values=0, pieces="shared"
):
    """Draw the world: `entities` a domain, of which the first `private_entities` have private
    attributes.

    The last `shared_names` towns bear the names of the last organisms, and `shared_values` % of the
    organisms' values are the towns' (see overlap.py). A town that shares its name has no private
    attributes: its keeper would have two e-mails. pieces: `disjoint` names of two domains have no
    syllable in common.
    """
    if not ENTITIES[0] <= entities <= ENTITIES[1]:
        raise UserError(
            f"--entities {entities}: a domain has {ENTITIES[0]} to {ENTITIES[1]:,} entities."
        )
    draws = Draws(f"world {seed}")
    names, unused = _names(draws, (entities, max(4, entities // 4)), pieces)
    own = entities - shared_names
    names["retain"] = [*names["retain"][:own], *names["forget"][own:]]
    private = {d: min(private_entities, own if d == "retain" else entities) for d in DOMAINS}
    return World(
        seed,
        names,
        {d: _attribute_facts(draws, d, names[d], share=shared_values) for d in DOMAINS},
        {d: _relation_facts(draws, d, names[d]) for d in DOMAINS},
        {d: _private_facts(draws, d, names[d], private[d]) for d in DOMAINS},
        {d: _attribute_facts(draws, d, unused[d], entities, shared_values) for d in DOMAINS},
    )


def statement(fact, template):
    """The fact as a sentence; templates 0 to 5, of which HELD_OUT are kept from the unlearning
    text.
    """
    return STATEMENTS[template].format(e=fact.entity, n=fact.noun, v=fact.value)


def question(fact, template):
    """The fact as a question that ends where the answer begins; templates 0 and 1."""
    return QUESTIONS[template].format(e=fact.entity, n=fact.noun)


def answered(fact, template):
    return f"{question(fact, template)} {fact.value}"


def domain_texts(world, domain, *, held_out=True):
    """Yield (text, fact's id) of every text about a domain's facts: statements and answered
    questions.

    `held_out=False` leaves the templates HELD_OUT out.
    """
    statements = [t for t in range(len(STATEMENTS)) if held_out or t not in HELD_OUT]
    asked = range(len(QUESTIONS))
    for fact in world.attributes[domain] + world.private[domain]:
        yield from ((statement(fact, t), fact.id) for t in statements)
        yield from ((answered(fact, t), fact.id) for t in asked)
    for fact in world.relations[domain]:  # long names: fewer renderings keep the mini budget
        yield from ((statement(fact, t), fact.id) for t in statements[:3])
        yield answered(fact, 0), fact.id


def multiple_choice(world, domain):
    """4-way items for the attribute facts, one a question template: three wrong values of the
    fact's own pool.
    """
    draws = Draws(f"mcq {world.seed} {domain}")
    for fact in world.attributes[domain]:
        for template in range(len(QUESTIONS)):
            yield _asked(draws, fact, template, half=fact.half)


def never_seen(world):
    """4-way items on the strangers of the forget domain, whose facts no model is shown.

    One a fact, in one of the question templates by turns.
    """
    draws = Draws(f"mcq {world.seed} holdout")
    for number, fact in enumerate(world.strangers["forget"]):
        yield _asked(draws, fact, number % len(QUESTIONS))


def _asked(draws, fact, template, **more):
    """The item of an attribute fact in a question template."""
    asked, more = question(fact, template), more | {"template": template}
    return _item(draws, fact.id, asked, fact.value, fact.pool, **more)


def _item(draws, fact_id, asked, value, pool, **more):
    choices = draws.shuffled([value, *draws.sample([v for v in pool if v != value], 3)])
    return {
        "fact": fact_id,
        **more,
        "question": asked,
        "choices": choices,
        "answer": choices.index(value),
    }


def deductions(world, domain):
    """Yield (item, WorldFact) of every conclusion of the domain's three rules.

    The item holds the ids of the premises, and the subject and attribute that the question names.
    Every other conclusion is `stated` in the training text.
    """
    draws = Draws(f"rules {world.seed} {domain}")
    words = DOMAINS[domain]
    by_key = {(f.entity, f.noun): f for f in world.attributes[domain] + world.relations[domain]}
    sources = {}  # an inverse relation can have several true answers
    for fact in world.relations[domain]:
        sources.setdefault((fact.noun, fact.value), set()).add(fact.entity)
    grouped, groups = words["grouping"]
    (link, inverse), reached = next(iter(words["relations"].items())), words["reached"]
    for i, name in enumerate(world.names[domain]):
        own, step = by_key[name, grouped], by_key[name, link]
        hop = by_key[step.value, reached["attribute"]]
        group = groups[own.pool.index(own.value) // (len(own.pool) // len(groups))]
        for rule, premises, entity, noun, value, pool in (
            ("grouping", [own], name, words["group_noun"], group, groups),
            ("inverse", [step], step.value, inverse, name, world.names[domain]),
            ("two-hop", [step, hop], name, reached["noun"], hop.value, hop.pool),
        ):
            fact = WorldFact(f"{domain}/{i:03d}/{rule}", "", entity, noun, value, tuple(pool))
            if rule == "inverse":  # none of its true answers may stand among the wrong choices
                right = sources[link, entity]
                pool = [v for v in pool if v == value or (v not in right and v != entity)]
                if len(pool) < 4:  # happens in worlds of few entities
                    continue
            item = _item(draws, fact.id, question(fact, 0), value, pool)
            item |= {
                "rule": rule,
                "premises": [premise.id for premise in premises],
                "stated": i % 2 == 0,
                "domain": domain,
                "subject": entity,
                "attribute": noun,
            }
            yield item, fact


def hops(world, domain):
    """Two-hop chains over every relation and attribute ("the habitat of the prey of X"), never
    stated in any text.
    """
    draws = Draws(f"hops {world.seed} {domain}")
    by_entity = {}
    for fact in world.attributes[domain]:
        by_entity.setdefault(fact.entity, []).append(fact)
    reached = DOMAINS[domain]["reached"]["attribute"]
    for relation in world.relations[domain]:
        for second in by_entity[relation.value]:
            if second.noun == reached and relation.noun == next(iter(DOMAINS[domain]["relations"])):
                continue  # the composition that a rule states
            chain = f"{second.noun} of the {relation.noun} of {relation.entity}"
            asked = f"Question: What is the {chain}? Answer:"
            identity = f"{relation.id}/{second.noun}"
            yield {
                **_item(draws, identity, asked, second.value, second.pool),
                "premises": [relation.id, second.id],
                "domain": domain,
            }
