"""Floating-point precision: when to compute in float32 or wider, and when a change is lost to rounding."""

import math
import re

import torch


def wide(x):
    """x in float32, or as it is where it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def natural(name):
    """Sort key that puts layer 2 before layer 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def norm_below_ulp(dtype, count, size, change):
    """True where dW is not zero but its typical entry lies below one unit in the last place of W's typical entry.

    size, change: the Frobenius norms of W, stored in `dtype` with `count` entries, and of dW; typical is the root mean square.
    Such a dW is what rounding to that dtype left of an update, and so is its rank.
    """
    import torch

    size, change = (float(norm) / count**0.5 for norm in (size, change))
    unit = torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(max(size, torch.finfo(dtype).tiny)))
    return 0 < change < unit


def below_ulp(w, dw):
    """`norm_below_ulp` of tensors."""
    import torch

    return norm_below_ulp(
        w.dtype, w.numel(), *(torch.linalg.vector_norm(x.double()) for x in (w, dw))
    )
