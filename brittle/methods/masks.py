"""Masks on weights: only chosen entries train. WAGLE chooses them by attribution.

The other entries stay as they are to the bit.
"""

import torch

from brittle.data.batches import batches
from brittle.models.logprobs import nll
from brittle.training.steps import StepHook


class Mask(StepHook):
    """Entries [True] of each parameter that may train.

    Gradients of the others are zeroed before clipping and stepping, and their values are put back
    behind the step: weight decay and momentum move them in no optimizer.
    """

    def __init__(self, pairs):
        """pairs: [(parameter, bool tensor of its shape), ...]"""
        self.pairs = pairs
        self.kept = [p.detach()[~keep].clone() for p, keep in pairs]

    def before_step(self):
        for p, keep in self.pairs:
            if p.grad is not None:
                p.grad.mul_(keep)

    @torch.no_grad()
    def after_step(self, step, row):
        for (p, keep), values in zip(self.pairs, self.kept, strict=True):
            p.masked_scatter_(~keep, values)

    def density(self):
        """The share of entries that train."""
        marked = sum(int(keep.sum()) for _, keep in self.pairs)
        return marked / sum(keep.numel() for _, keep in self.pairs)


def largest(scores, count):
    """Bool tensors that mark the `count` largest of all entries of `scores`, ties in order.

    scores: non-negative float32. The threshold is found by bisection over float32's bit patterns,
    which order as non-negative numbers do. That is exact, and needs no sorted copy of every weight,
    as a global sort would.
    """
    bits = [s.contiguous().view(torch.int32) for s in scores]
    # the largest threshold that at least `count` entries reach lies in [low, high)
    low, high = 0, 0x7F800000
    while high - low > 1:
        middle = (low + high) // 2
        if sum(int((b >= middle).sum()) for b in bits) >= count:
            low = middle
        else:
            high = middle
    masks = [b > low for b in bits]
    missing = count - sum(int(m.sum()) for m in masks)
    for mask, b in zip(masks, bits, strict=True):
        if missing > 0:
            ties = (b == low).flatten().nonzero()[:missing, 0]
            mask.view(-1)[ties] = True
            missing -= len(ties)
    return masks


def summed_gradient(model, trained, stream):
    """Gradients of the NLL over one pass of a stream's texts, summed over its batches."""
    total = [torch.zeros_like(p) for p in trained]
    for _, batch in batches(stream.examples, stream.pad_id, stream.batch_size, model.device):
        gradients = torch.autograd.grad(nll(model, batch), trained, allow_unused=True)
        for t, g in zip(total, gradients, strict=True):
            if g is not None:
                t.add_(g)
    return total


def wagle(model, streams, ratio, mu):
    """Keep the share `ratio` of trainable entries that matters most to forgetting.

    score = |(theta - g_retain / mu) g_forget|, with gradients of the NLLs summed over one pass, and
    one global ranking (Jia et al. 2024, arXiv:2410.17509).
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    forget, retain = (summed_gradient(model, trained, s) for s in (streams.forget, streams.retain))
    scores = []
    for p in trained:  # one at a time, so that three copies of the weights are never held
        f, r = forget.pop(0), retain.pop(0)
        scores.append(((p.detach() - r / mu) * f).abs().float())
    count = round(ratio * sum(s.numel() for s in scores))
    return Mask(list(zip(trained, largest(scores, count), strict=True)))
