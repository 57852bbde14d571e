"""Who a question is about: its entity, its fact, and the half that both belong to."""

from collections import Counter

from brittle.base.errors import UserError
from brittle.data.items import entity_of
from brittle.data.world import Draws

HALVES = "halves 0"  # seed of the halves of questions that name none


def name_entities(rows, name, path, per_entity=1, seed=0):
    """The rows with `entity`, `fact` and `half`. All rows of an entity are in one half.

    The entity is the column `entity`; where no row has one, every `per_entity` rows in a row are an
    entity. Columns `fact` and `half` stay as they are where every row has them. Raises UserError
    where only some rows name their entity.
    """
    named = sum(1 for row in rows if row.get("entity"))
    if 0 < named < len(rows):
        raise UserError(
            f"{path}: {named} of {len(rows)} lines name an entity. "
            "Give the column entity in every line, or in none."
        )
    entities = [
        str(row["entity"]) if named else f"{name}/{number // per_entity:05d}"
        for number, row in enumerate(rows)
    ]
    own_facts = all(row.get("fact") for row in rows)
    own_halves = all(row.get("half") in ("A", "B") for row in rows)
    half = halves_of(entities, f"halves {name} {seed}")
    counts, filled = {}, []
    for row, entity in zip(rows, entities, strict=True):
        counts[entity] = counts.get(entity, -1) + 1
        filled.append(
            {
                **row,
                "entity": entity,
                "fact": str(row["fact"]) if own_facts else f"{entity}/{counts[entity]}",
                "half": row["half"] if own_halves else half[entity],
            }
        )
    return filled


def with_halves(items):
    """The forget questions with `half`: their own where one of them names its half, else drawn.

    Drawn are entities, each with all its questions, or single questions where fewer than two
    entities are named. The seed is fixed, so every script draws the same halves.
    """
    if any(item.get("half") for item in items):
        return items
    units = _units(items)
    half = halves_of(units, HALVES)
    return [{**item, "half": half[unit]} for item, unit in zip(items, units, strict=True)]


def drawn_over(items):
    """What the halves of forget questions were drawn over, in words; None where they are named."""
    if any(item.get("half") for item in items):
        return None
    units = _units(items)
    kind = "entities" if units == [entity_of(item) for item in items] else "questions"
    return f"{len(set(units))} {kind}"


def _units(items):
    entities = [entity_of(item) for item in items]
    if all(entities) and len(set(entities)) > 1:
        return entities
    return [item["question"] for item in items]


def halves_of(entities, seed):
    """{entity: A or B}: drawn by `seed`, the two halves of about as many rows."""
    sizes = Counter(entities)  # in the order of the rows
    half, total = {}, {"A": 0, "B": 0}
    for entity in Draws(seed).shuffled(list(sizes)):
        half[entity] = "A" if total["A"] <= total["B"] else "B"
        total[half[entity]] += sizes[entity]
    return half
