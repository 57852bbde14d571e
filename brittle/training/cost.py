"""What a training costs: floating-point operations, counted where they run.

A matrix product of [m, k] by [k, n] is 2 m k n operations. Its backward pass costs as much again
for each factor that has a gradient. Attention is two products of T x T. Nothing else is counted:
look-ups, norms, softmax and the optimizer's own work are small beside it. So a model of N weights
that multiply takes 2N operations a token forward and 6N a token that it is trained on (Kaplan et
al. 2020, arXiv:2001.08361), low-rank adapters 4N and a little, a pass that ends at a block what it
ran. Padding runs through the model, so it counts.

`torch.utils.flop_counter.FlopCounterMode` counts the same (tests/training/test_cost.py), but it
stands in front of every kernel, and a mini model trains half as fast under it.
"""

import math
import resource
import sys
from contextlib import contextmanager, nullcontext
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

Tensor = torch.Tensor
PRODUCTS = {
    torch.matmul,
    torch.mm,
    torch.bmm,
    Tensor.matmul,
    Tensor.mm,
    Tensor.bmm,
    Tensor.__matmul__,
}
REVERSED = {Tensor.__rmatmul__}
ADDED = {torch.addmm, torch.baddbmm, Tensor.addmm, Tensor.baddbmm}
GROUPED = {
    getattr(place, name, None) for place in (torch, F) for name in ("_grouped_mm", "grouped_mm")
}


def product(a, b):
    """Operations of the matrix product a @ b, leading dimensions broadcast."""
    rows = a.shape[-2] if a.ndim > 1 else 1
    columns = b.shape[-1] if b.ndim > 1 else 1
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return 2 * math.prod(batch) * rows * a.shape[-1] * columns


def attention(query, key, value):
    """Operations of softmax(Q K^T) V; query [.., T, D], key [.., S, D], value [.., S, D']."""
    *heads, rows, width = query.shape
    return 2 * math.prod(heads) * rows * key.shape[-2] * (width + value.shape[-1])


def summation(equation, *factors):
    """Operations of an einsum of two factors in which every index is written out.

    The others (an ellipsis, more factors) are not counted.
    """
    factors = factors[0] if len(factors) == 1 and not isinstance(factors[0], Tensor) else factors
    if not isinstance(equation, str) or "." in equation or len(factors) != 2:
        return 0, ()
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    sizes = {}
    for letters, factor in zip(terms, factors, strict=True):
        sizes |= zip(letters, factor.shape, strict=True)
    return 2 * math.prod(sizes.values()), tuple(factors)


def argument(args, kwargs, place, *names):
    """What a call was given at a place, or by one of these names."""
    if place < len(args):
        return args[place]
    return next(kwargs[name] for name in names if name in kwargs)


def operations(function, args, kwargs):
    """(operations of a call of a torch function, the factors whose gradients cost as much each).

    Both factors of a product cost once each; the three of attention together twice.
    """

    def given(place, *names):
        return argument(args, kwargs, place, *names)

    if function is F.linear:
        x, weight = given(0, "input"), given(1, "weight")
        return 2 * x.numel() * weight.shape[0], (x, weight)
    if function in PRODUCTS:
        a, b = given(0, "input"), given(1, "mat2", "other")
        return product(a, b), (a, b)
    if function in REVERSED:
        return product(args[1], args[0]), (args[1], args[0])
    if function in ADDED:
        a, b = given(1, "mat1", "batch1"), given(2, "mat2", "batch2")
        return product(a, b), (a, b)
    if function is F.scaled_dot_product_attention:
        query, key, value = (given(i, name) for i, name in enumerate(("query", "key", "value")))
        return attention(query, key, value), (query, key)
    if function in GROUPED:  # each row of x meets one matrix of the stack
        x, stack = given(0, "input", "mat_a"), given(1, "mat2", "mat_b")
        return 2 * x.numel() * stack.shape[-1], (x, stack)
    if function is torch.einsum:
        return summation(*args)
    return 0, ()


class Cost(TorchFunctionMode):
    """Counts the operations of what runs inside `with cost:`, backward passes included.

    The backward pass itself may run later: it is counted when the gradient of a product arrives,
    each time that it does.

    flops: operations so far.
    """

    counting: ClassVar[list] = []  # those that are entered, the innermost last

    def __init__(self):
        super().__init__()
        self.flops = 0

    def __enter__(self):
        self.counting.append(self)
        return super().__enter__()

    def __exit__(self, *error):
        self.counting.pop()
        return super().__exit__(*error)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        count, factors = operations(function, args, kwargs)
        if count:
            self.flops += count
            sides = sum(factor.requires_grad for factor in factors)
            if sides and result.requires_grad:
                result.register_hook(lambda gradient: self.add(count * sides))
        return result

    def add(self, count):
        self.flops += count


@contextmanager
def again(cost):
    """Counts with `cost`, unless it counts already."""
    with nullcontext() if cost is None or cost in Cost.counting else cost:
        yield


def recomputing():
    """The two contexts of torch.utils.checkpoint: what is computed again counts again.

    The second is entered in the backward pass, on a GPU in another thread.
    """
    return nullcontext(), again(Cost.counting[-1] if Cost.counting else None)


def described(flops, seconds, label_share):
    """What a record says of a training's cost.

    flops: operations. seconds: of wall time. label_share: the share of its texts that had to be
    marked as forget texts; None where that is not known.
    """
    return {
        "flops": int(flops),
        "label_share": label_share,
        "train_seconds": round(seconds, 3),
        "peak_memory_mb": round(peak_memory(), 1),
    }


def peak_memory():
    """The most memory so far, in MiB: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
