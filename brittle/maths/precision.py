"""Floating-point precision: computing in float32 or wider, and changes that rounding has lost."""

import math
import re

import torch


def wide(x):
    """x in float32, or as it is where it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def natural(name):
    """Sort key that puts layer 2 before layer 10."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", name)]


def norm_below_ulp(dtype, count, size, change):
    """Is dW so small that its typical entry lies below one unit in the last place of W's?

    size, change: the Frobenius norms of W, stored in `dtype` with `count` entries, and of dW. The
    typical entry is the root mean square. Such a dW is what rounding to that dtype left of an
    update, and so is its rank. False for dW = 0.
    """
    size, change = (float(norm) / count**0.5 for norm in (size, change))
    unit = torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(max(size, torch.finfo(dtype).tiny)))
    return 0 < change < unit


def below_ulp(w, dw):
    """`norm_below_ulp` of the tensors W and dW."""
    size, change = (torch.linalg.vector_norm(x.double()) for x in (w, dw))
    return norm_below_ulp(w.dtype, w.numel(), size, change)
