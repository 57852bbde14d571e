"""How many bits of half B a model's answers tell (brittle/maths/information.py).

Each forget question is asked with every value that any question on the same attribute offers. The
sharpness is fitted on half A, the bits are those of half B.
"""

import math
import random
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.data.items import entity_of, fact_of
from brittle.maths.information import as_choices, fit_sharpness, told
from brittle.maths.intervals import mean_of
from brittle.metrics import mcq


class Leak(NamedTuple):
    """bits: of half B, the mean over its questions, with an interval over entities.

    bits_null: the same where the truths of each attribute are shuffled, in both halves. sharpness:
    negative where the truth is avoided. most: log2 of the candidates, the mean over the questions.
    n: questions of half B.
    """

    bits: float
    bits_low: float | None
    bits_high: float | None
    bits_null: float
    sharpness: float
    most: float
    n: int


def attribute_of(item):
    """What a question asks for: the last part of its fact's name."""
    return str(fact_of(item)).rpartition("/")[2]


def with_pools(items):
    """The items with every value of their attribute as choices, in alphabetical order.

    Facts must be named as domain/entity/attribute; an attribute of one question keeps its choices.
    """
    pools = {}
    for item in items:
        pools.setdefault(attribute_of(item), set()).update(item["choices"])
    asked = []
    for item in items:
        pool = sorted(pools[attribute_of(item)])
        truth = item["choices"][item["answer"]]
        asked.append({**item, "choices": pool, "answer": pool.index(truth)})
    return asked


def shuffled(items, seed):
    """The index of another fact's truth for each item, from the same attribute.

    Facts of one attribute exchange their truths; the questions of a fact stay together.
    """
    truths = {}
    for item in items:
        truths.setdefault((attribute_of(item), item["half"]), {})[fact_of(item)] = item["answer"]
    drawn = {}
    for key, own in sorted(truths.items()):
        facts = list(own)
        random.Random(f"{seed} {key}").shuffle(facts)
        drawn |= {
            fact: own[after] for fact, after in zip(facts, [*facts[1:], facts[0]], strict=True)
        }
    return [drawn[fact_of(item)] for item in items]


def leak(model, tokenizer, items, seed=0):
    """The Leak of a model, of forget questions that name their `half`.

    seed: of the shuffled truths. Raises UserError where a half is missing.
    """
    asked = with_pools(items)
    scores = mcq.score_choices(model, tokenizer, asked)
    places = {half: [k for k, i in enumerate(asked) if i["half"] == half] for half in "AB"}
    if not all(places.values()):
        raise UserError("leak bits need questions of both halves: the sharpness is fitted on A.")

    def measured(truths):
        a, b = (
            as_choices([scores[k] for k in places[half]], [truths[k] for k in places[half]])
            for half in "AB"
        )
        sharpness = fit_sharpness(a)
        return sharpness, told(b, sharpness)

    sharpness, bits = measured([item["answer"] for item in asked])
    _, null = measured(shuffled(asked, seed))
    mean, low, high = mean_of(bits.tolist(), [entity_of(asked[k]) for k in places["B"]])
    most = [math.log2(len(asked[k]["choices"])) for k in places["B"]]
    return Leak(mean, low, high, float(null.mean()), sharpness, sum(most) / len(most), len(bits))
