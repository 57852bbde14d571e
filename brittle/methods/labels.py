"""What a teacher tells of each next token, and how far a student is from it.

    soft      p_T, the whole distribution
    topk:K    p_T over its K likeliest tokens
    sampled   one token drawn from p_T
    argmax    the likeliest token
    seen      p_T over the tokens that stand in the texts: nothing of any other token

Labels are those of one labelled copy of the texts: what is random in them is drawn once for each
text, from the seed, whatever the batch and the epoch.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from brittle.maths.precision import wide

BLOCK = 16  # random numbers that torch draws at once


class Labels(NamedTuple):
    """A kind of labels. top: how many tokens of `topk`. temperature: divides the teacher's and the
    student's logits. noise: standard deviation of Gaussian noise on the teacher's logits.
    """

    kind: str = "soft"
    top: int = 0
    temperature: float = 1.0
    noise: float = 0.0
    seed: int = 0
    known: Tensor | None = None  # [V], of `seen`: is the token in the texts

    def of(self, logits, index):
        """log q [B, T, V] of a teacher's logits: -inf where q is 0.

        index [B]: the numbers of the texts in their set.
        """
        logits = wide(logits)
        if self.noise:
            logits = logits + self.noise * self.draws(index, logits, torch.randn)
        if self.kind == "argmax":
            return certain(logits.argmax(-1), logits)
        log_q = (logits / self.temperature).log_softmax(-1)
        if self.kind == "topk":
            count = min(self.top, log_q.shape[-1])
            values, tokens = log_q.topk(count, dim=-1)
            kept = torch.full_like(log_q, -torch.inf)
            return kept.scatter(-1, tokens, values.log_softmax(-1))
        if self.kind == "seen":
            unknown = ~self.known.to(logits.device)
            return log_q.masked_fill(unknown, -torch.inf).log_softmax(-1)
        if self.kind == "sampled":
            uniform = self.draws(index, logits[..., :1], torch.rand)
            below = (log_q.exp().cumsum(-1) < uniform).sum(-1)
            return certain(below.clamp_max(log_q.shape[-1] - 1), logits)
        return log_q

    def draws(self, index, like, function):
        """Random numbers of the shape of `like`, a row of them from the seed and the text.

        torch draws in blocks of 16, and the last block anew where it is not whole: whole ones are
        drawn, so that padding changes nothing before it.
        """
        rows, shape = [], like.shape[1:]
        whole = -(-shape.numel() // BLOCK) * BLOCK
        for number in index.tolist():
            generator = torch.Generator(like.device)
            generator.manual_seed(self.seed * 1_000_003 + number)
            drawn = function(whole, generator=generator, device=like.device)
            rows.append(drawn[: shape.numel()].view(shape))
        return torch.stack(rows).to(like.dtype)


def certain(tokens, like):
    """log q [B, T, V] of labels that are one token [B, T] each."""
    log_q = torch.full_like(like, -torch.inf)
    return log_q.scatter(-1, tokens[..., None], 0.0)


class Divergence(torch.autograd.Function):
    """KL(q || p) [B, T] in nats, of log q and a student's logits [B, T, V].

    Its gradient is p - q as it is written. So where the two agree to the bit it is exactly 0, and
    no optimizer that divides a gradient by its size moves a weight.
    """

    @staticmethod
    def forward(ctx, logits, log_q):
        log_p, q = logits.log_softmax(-1), log_q.exp()
        ctx.save_for_backward(log_p.exp() - q)
        return torch.where(q > 0, q * (log_q - log_p), 0.0).sum(-1)

    @staticmethod
    def backward(ctx, gradient):
        (difference,) = ctx.saved_tensors
        return gradient[..., None] * difference, None


def divergence(logits, log_q, temperature=1.0):
    """T^2 KL(q || p) [B, T-1] over the next-token positions, p = softmax(logits / T).

    The factor keeps the gradient's size (Hinton et al. 2015, arXiv:1503.02531).
    """
    now = wide(logits[:, :-1]) / temperature
    return temperature**2 * Divergence.apply(now, log_q[:, :-1])
