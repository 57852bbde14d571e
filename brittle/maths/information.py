"""Leak bits: how many bits of the truth a distribution over candidates still tells, sign included.

Of m candidates with the probabilities q, of which v* is true,

    I = log2 m - mean over items of -log2 (q(v*)^t / sum_v q(v)^t)

One exponent t, the sharpness, is fitted on other items. It may be negative: then the truth is
avoided, which tells it as well. Guessing has I = 0, knowing log2 m. Where nothing is told, a fitted
t costs a little: I lies below 0 by about 1 / (2 n ln 2) bits, n items that it was fitted on.
"""

import math
from typing import NamedTuple

import numpy as np

LIMIT = 64.0  # of |t|: knowing needs no more, and a larger one would stake all on one item


class Choices(NamedTuple):
    """Items as arrays. scores: [items, most candidates] log-probabilities, 0 beyond an item's own.
    real: 1 at its own candidates. truths: [items], the index of each truth.
    """

    scores: np.ndarray
    real: np.ndarray
    truths: np.ndarray


def as_choices(scores, truths):
    """The Choices of a list of log-probabilities an item and the index of the truth in each."""
    sizes = [len(one) for one in scores]
    table, real = np.zeros((len(sizes), max(sizes))), np.zeros((len(sizes), max(sizes)))
    for row, (one, size) in enumerate(zip(scores, sizes, strict=True)):
        table[row, :size], real[row, :size] = one, 1
    return Choices(table, real, np.asarray(truths))


def told(items, sharpness):
    """[items] bits that each item's distribution tells: log2 m + log2 of the truth's share."""
    powered = np.where(items.real > 0, sharpness * items.scores, -np.inf)
    powered = powered - powered.max(1, keepdims=True)
    truths = powered[np.arange(len(powered)), items.truths]
    nats = np.log(items.real.sum(1)) + truths - np.log(np.exp(powered).sum(1))
    return nats / math.log(2)


def fit_sharpness(items):
    """The t in [-LIMIT, LIMIT] that tells most of these items.

    The sum over items is concave in t: one maximum.
    """
    from scipy.optimize import minimize_scalar

    def lost(sharpness):
        return -told(items, sharpness).mean()

    return float(minimize_scalar(lost, bounds=(-LIMIT, LIMIT), method="bounded").x)


def leak_bits(fitted_on, measured_on):
    """(bits I, sharpness t, [items] bits of each item) of two Choices.

    t is fitted on the first, I is the mean over the second.
    """
    sharpness = fit_sharpness(fitted_on)
    bits = told(measured_on, sharpness)
    return float(bits.mean()), sharpness, bits
