"""The facts behind the data, one by one, and which of them a model knows: for evaluations that follow facts through a graph.

A folder of the mini world names its seed in world.json, so its facts are drawn again; a folder of your own lists them in
facts.jsonl: {"fact": id, "domain", "kind", "entity", "noun", "value", "pool": [values], "half"} a line. Kinds: attribute,
relation (its value is another entity), private, and conclusion (rules.jsonl, which also says what it follows from and whether
training stated it).

A fact is asked in two forms, as a question and as a sentence to complete, among CHOICES values of its pool; it is known
where both are right. A model that guesses "knows" 1/CHOICES^2 to 1/CHOICES of the facts (the same bias may guess alike twice), so
what is known stands beside a model that never saw the facts.
"""

import random
from dataclasses import dataclass

from brittle.data.facts import CHOICES

QUESTION, SENTENCE = (
    "Question: What is the {noun} of {entity}? Answer:",
    "The {noun} of {entity} is",
)


def items(fact, choices=CHOICES):
    """The fact's question and its sentence, each with the same choices in an order of its own."""
    draw = random.Random(f"choices {fact.id}")
    others = [v for v in fact.pool if v != fact.value and v not in fact.also]
    for form in (QUESTION, SENTENCE):
        chosen = [fact.value, *draw.sample(others, min(choices - 1, len(others)))]
        chosen = draw.sample(chosen, len(chosen))
        asked = form.format(noun=fact.noun, entity=fact.entity)
        yield {
            "question": asked,
            "choices": chosen,
            "answer": chosen.index(fact.value),
            "fact": fact.id,
        }


@dataclass(frozen=True)
class Answer:
    """`known`: right in both forms; `right` of them; `value`: what the model chose when asked the question."""

    known: bool
    right: int
    value: str


def answers(model, tokenizer, facts, batch_size=128, choices=CHOICES, sentences=True):
    """{id: Answer} of the facts that have at least two choices; without `sentences` only the question is asked."""
    from brittle.metrics import mcq

    forms = 2 if sentences else 1
    asked = [
        item
        for fact in facts
        for item in list(items(fact, choices))[:forms]
        if len(item["choices"]) > 1
    ]
    outcomes = mcq.outcomes(model, tokenizer, asked, batch_size=batch_size) if asked else []
    answered = {}
    for first in range(0, len(asked), forms):
        right = sum(outcome.right for outcome in outcomes[first : first + forms])
        question, prediction = asked[first], outcomes[first].prediction
        answered[question["fact"]] = Answer(right == forms, right, question["choices"][prediction])
    return answered


def share(values, units, seed=0):
    """(mean, low, high, n) of per-fact numbers, interval over `units` (entities). None for nothing.

    That of a share where all numbers are 0 or 1, else a bootstrap over the means of the units.
    """
    from brittle.maths import intervals
    from brittle.maths.entities import bootstrap

    if not values:
        return None, None, None, 0
    if set(values) <= {0, 1}:
        return *intervals.share(values, units), len(values)
    groups = {}
    for value, unit in zip(values, units, strict=True):
        groups.setdefault(unit, []).append(float(value))
    low, high = bootstrap([[sum(g) / len(g) for g in groups.values()]], seed=seed)
    return sum(map(float, values)) / len(values), low, high, len(values)
