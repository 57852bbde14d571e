"""The gate: a detector in closed form that lets the filter act on forget-like tokens alone."""

import torch

from brittle.filters.basis import ridged

RATES = (0.01, 0.003, 0.001)  # shares of retain and general tokens that may trip the gate


def quadratic(forget, everything):
    """(gate [d], curve [d, d]): the log-ratio of two Gaussians, but for its constant (quadratic discriminant analysis).

    `forget` are the moments of what the gate is to catch, `everything` those of all tokens of text that it must leave alone.
    h^T curve h + gate . h, with curve = (C^-1 - A^-1) / 2 and gate = A^-1 mean_A - C^-1 mean_C, A forget, C the rest.
    """
    inverse = [torch.linalg.inv(ridged(m.covariance)) for m in (forget, everything)]
    curve = (inverse[1] - inverse[0]) / 2
    return inverse[0] @ forget.mean - inverse[1] @ everything.mean, (curve + curve.T) / 2


def threshold(scores, rate):
    """The number to add to a score so that at most `rate` of each set of `scores` [[n], ...] is above 0."""
    ends = []
    for found in scores:
        ranked = found.sort().values
        ends.append(float(ranked[min(len(ranked) - 1, int((1 - rate) * len(ranked)))]))
    return -max(ends)
