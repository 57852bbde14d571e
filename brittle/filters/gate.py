"""The gate: a detector in closed form that lets the filter act on forget-like tokens alone."""

import torch

from brittle.filters.basis import ridged

RATES = (0.01, 0.003, 0.001)  # shares of retain and general tokens that may trip the gate


def quadratic(forget, everything):
    """(gate [d], curve [d, d]): the log-ratio of two Gaussians, but for its constant.

    This is quadratic discriminant analysis. `forget` are the Moments of what the gate is to catch,
    `everything` those of all tokens of text that it must leave alone. The score of a state h is
    h^T curve h + gate . h, with curve = (C^-1 - A^-1) / 2 and gate = A^-1 mean_A - C^-1 mean_C,
    where A is of forget tokens and C of everything.
    """
    forget_inverse = torch.linalg.inv(ridged(forget.covariance))
    other_inverse = torch.linalg.inv(ridged(everything.covariance))
    curve = (other_inverse - forget_inverse) / 2
    gate = forget_inverse @ forget.mean - other_inverse @ everything.mean
    return gate, (curve + curve.T) / 2


def threshold(scores, rate):
    """The number to add to a score so that at most `rate` of each set of `scores` is above 0.

    scores: [[n], ...], one tensor a set.
    """
    ends = []
    for values in scores:
        ranked = values.sort().values
        ends.append(float(ranked[min(len(ranked) - 1, int((1 - rate) * len(ranked)))]))
    return -max(ends)
