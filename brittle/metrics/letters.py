"""A model that always answers "A" is not "at chance": do the choices of an evaluation vary at all?

`letter` is the index of the choice given most, `letter_share` how often it is given, and
`letter_entropy` the entropy of the choices in bits. `letter_accuracy` is what giving that choice
always would score. `ties` is the share of items whose best choices are exactly equal (the first is
then taken, as lm-eval does).

`constant_letter` is 1 where letter_share or ties is above CONSTANT: there is no accuracy at all. It
is None where the right choice is always the same one (there knowing the answers and repeating a
letter look alike), and for fewer than FEWEST items.
"""

import math
from collections import Counter

from brittle.base.errors import UserError
from brittle.metrics.mcq import BROKEN, likeliest

CONSTANT, FEWEST = 0.9, 5


def scores(sample):
    """Log-probability of each choice of an lm-eval sample; None where it is not multiple choice."""
    responses = sample["filtered_resps"]
    if len(responses) < 2:
        return None
    if not all(isinstance(r, (tuple, list)) and len(r) == 2 for r in responses):
        return None
    values = [float(value) for value, _ in responses]
    if not all(map(math.isfinite, values)):
        raise UserError(f"the model {BROKEN}")
    return values


def prediction(sample):
    """Index of the likeliest choice, or None where the task is not multiple choice."""
    values = scores(sample)
    return values and likeliest(values)


def letters(samples):
    """The letter columns of `samples`, as the module says; {} where none is multiple choice."""
    scored = [values for values in map(scores, samples) if values is not None]
    if not scored:
        return {}
    n = len(scored)
    given = Counter(map(likeliest, scored))
    wanted = Counter(s["target"] for s in samples if isinstance(s.get("target"), int))
    letter, count = given.most_common(1)[0]
    share = count / n
    ties = sum(sorted(values)[-1] == sorted(values)[-2] for values in scored) / n
    one_answer = bool(wanted) and max(wanted.values()) > CONSTANT * wanted.total()
    if ties > CONSTANT and n >= FEWEST:
        constant = 1
    elif n < FEWEST or one_answer:
        constant = None
    else:
        constant = int(share > CONSTANT)
    return {
        "letter": letter,
        "letter_share": share,
        "letter_entropy": -sum(c / n * math.log2(c / n) for c in given.values()) + 0.0,
        "letter_accuracy": wanted[letter] / wanted.total() if wanted else None,
        "ties": ties,
        "constant_letter": constant,
    }
