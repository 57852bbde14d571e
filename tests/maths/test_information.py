"""Leak bits of planted distributions."""

import math

import numpy as np
import pytest

from brittle.maths.information import as_choices, fit_sharpness, leak_bits, told

M = 12


def planted(c, count=400, seed=0):
    """Scores [M] that single out one value by c, and truths drawn from their softmax."""
    rng = np.random.default_rng(seed)
    scores = np.zeros((count, M))
    scores[np.arange(count), rng.integers(M, size=count)] = c
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    truths = np.array([rng.choice(M, p=row) for row in p])
    return as_choices(scores, truths)


def information(c):
    """Bits that such a distribution tells: log2 m less its entropy."""
    q = np.full(M, 1.0)
    q[0] = math.exp(c)
    q /= q.sum()
    return math.log2(M) + (q * np.log2(q)).sum()


@pytest.mark.parametrize("c", [4.0, 2.0, -4.0])
def test_a_planted_leak_is_measured_whatever_its_sign(c):
    bits, sharpness, _ = leak_bits(planted(c, 4000), planted(c, 4000, seed=1))
    assert bits == pytest.approx(information(c), abs=0.05)
    assert sharpness == pytest.approx(1, rel=0.25)
    # a model that avoids the truth tells as much, with the sign of t turned over
    turned = [one._replace(scores=-one.scores) for one in (planted(c, 4000), planted(c, 4000, 1))]
    same, opposite, _ = leak_bits(*turned)
    assert same == pytest.approx(bits, abs=1e-4)
    assert opposite == pytest.approx(-sharpness, rel=1e-3)


@pytest.mark.parametrize("c", [1.0, 30.0, -1.0])
def test_knowing_tells_all_bits_and_no_more(c):
    """Also knowing by avoiding: one value that is always ruled out, and always true."""
    truths = [number % M for number in range(60)]
    items = as_choices([c * np.eye(M)[truth] for truth in truths], truths)
    bits, sharpness, each = leak_bits(items, items)
    assert bits == pytest.approx(math.log2(M), abs=1e-6)
    assert each.max() <= math.log2(M) + 1e-9 and np.sign(sharpness) == np.sign(c)


def test_chance_tells_nothing():
    rng = np.random.default_rng(3)

    def noise():
        return as_choices(rng.normal(size=(2000, M)), rng.integers(M, size=2000))

    bits, sharpness, _ = leak_bits(noise(), noise())
    assert abs(bits) < 0.01 and abs(sharpness) < 0.1
    assert told(noise(), 0.0) == pytest.approx(0, abs=1e-12)


def test_permuted_truths_are_the_null():
    items = planted(4.0, 1000)
    permuted = items._replace(truths=np.random.default_rng(5).permutation(items.truths))
    assert abs(fit_sharpness(permuted)) < 0.15 < fit_sharpness(items)


def test_items_may_have_pools_of_different_sizes():
    """Each is measured against its own log2 m."""
    items = as_choices([[0.0, 5.0], [1.0, 1.0, 1.0, 1.0]], [1, 2])
    p = 1 / (1 + math.exp(-5))
    assert told(items, 1.0) == pytest.approx([1 + math.log2(p), 0])
