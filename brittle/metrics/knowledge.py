"""Which of the facts behind the data a model knows, one fact at a time.

Evaluations that follow facts through a graph ask here. The facts themselves are read by data/facts.

A fact is asked in two forms, as a question and as a sentence to complete, among CHOICES values of
its pool. It is known where both are right. A model that guesses "knows" 1/CHOICES^2 to 1/CHOICES of
the facts (one bias may guess alike twice). So what is known stands beside a model that never saw
the facts.
"""

import random
from dataclasses import dataclass

from brittle.data.examples import DEFAULT
from brittle.data.facts import CHOICES

QUESTION = "Question: What is the {noun} of {entity}? Answer:"
SENTENCE = "The {noun} of {entity} is"


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
    """What a model answered of a fact.

    known: right in both forms. right: how many of the forms are right.
    value: what the model chose when asked the question.
    """

    known: bool
    right: int
    value: str


def answers(
    model, tokenizer, facts, batch_size=128, choices=CHOICES, *, sentences=True, reading=DEFAULT
):
    """{id: Answer} of the facts that have at least two choices.

    reading: whether a chat model is asked through its template. Without `sentences` only the
    question is asked.
    """
    from brittle.metrics import mcq

    forms = 2 if sentences else 1
    asked = [
        item
        for fact in facts
        for item in list(items(fact, choices))[:forms]
        if len(item["choices"]) > 1
    ]
    outcomes = []
    if asked:
        outcomes = mcq.outcomes(model, tokenizer, asked, batch_size=batch_size, reading=reading)
    answered = {}
    for first in range(0, len(asked), forms):
        right = sum(outcome.right for outcome in outcomes[first : first + forms])
        question, prediction = asked[first], outcomes[first].prediction
        answered[question["fact"]] = Answer(right == forms, right, question["choices"][prediction])
    return answered


def share(values, units):
    """(mean, low, high, n) of per-fact numbers, with an interval over `units` (entities).

    Without a number, the first three are None.
    """
    from brittle.maths.intervals import mean_of

    if not values:
        return None, None, None, 0
    return *mean_of(values, units), len(values)
