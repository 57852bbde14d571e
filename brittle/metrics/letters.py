"""A model that always answers "A" is not "at chance": what the choices of a multiple-choice evaluation have in common.

`letter` is the choice given most (its index), `letter_share` how often, `letter_entropy` the entropy of the choices in bits,
`letter_accuracy` what giving that choice always would score, `ties` the share of items whose best choices are exactly equal (the
first is then taken, as lm-eval does). `constant_letter` is 1 where letter_share or ties is above CONSTANT: no accuracy at all.
It is None where the right choice is always the same one (there knowing the answers and repeating a letter look alike) and for
fewer than FEWEST items.
"""

import math
from collections import Counter

from brittle.base.errors import UserError
from brittle.metrics.mcq import BROKEN, likeliest

CONSTANT, FEWEST = 0.9, 5


def scores(sample):
    """Log-probability of each choice, or None where the task is not multiple choice."""
    found = sample["filtered_resps"]
    if len(found) < 2 or not all(isinstance(r, (tuple, list)) and len(r) == 2 for r in found):
        return None
    values = [float(value) for value, _ in found]
    if not all(map(math.isfinite, values)):
        raise UserError(f"the model {BROKEN}")
    return values


def prediction(sample):
    """Index of the choice with the highest log-probability, or None where the task is not multiple choice."""
    values = scores(sample)
    return values and likeliest(values)


def letters(samples):
    """How far the choices of multiple-choice `samples` are one and the same: the letter columns, None where there are none."""
    values = [v for v in map(scores, samples) if v is not None]
    if not values:
        return {}
    given = Counter(map(likeliest, values))
    wanted = Counter(s["target"] for s in samples if isinstance(s.get("target"), int))
    (best, count), n = given.most_common(1)[0], len(values)
    share, ties = count / n, sum(sorted(v)[-1] == sorted(v)[-2] for v in values) / n
    blind = n < FEWEST or (bool(wanted) and max(wanted.values()) > CONSTANT * wanted.total())
    return {
        "letter": best, "letter_share": share, "letter_entropy": -sum(c / n * math.log2(c / n) for c in given.values()) + 0.0,
        "letter_accuracy": wanted[best] / wanted.total() if wanted else None, "ties": ties,
        "constant_letter": 1 if ties > CONSTANT and n >= FEWEST else None if blind else int(share > CONSTANT),
    }  # fmt: skip
