"""The gate: a linear detector that lets the filter act on forget-like tokens alone."""

import torch

from brittle.filter_basis import ridged

FALSE_ALARMS = 0.01  # of retain and general tokens that may trip the gate


def direction(forget, retain):
    """[d] unit: Fisher's linear discriminant of two Moments, (Sigma_F + Sigma_R + ridge)^-1 (mean_F - mean_R)."""
    pooled = ridged((forget.covariance + retain.covariance) / 2)
    w = torch.linalg.solve(pooled, forget.mean - retain.mean)
    return w / torch.linalg.vector_norm(w)


def threshold(w, quiet, rate=FALSE_ALARMS):
    """The number to add to w . h so that it is positive on at most `rate` of each set of tokens in `quiet` [[n, d], ...]."""
    from brittle.losses import wide

    ends = []
    for tokens in quiet:
        scores = (wide(tokens) @ w.to(wide(tokens))).sort().values
        ends.append(float(scores[min(len(scores) - 1, int((1 - rate) * len(scores)))]))
    return -max(ends)
