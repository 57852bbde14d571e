"""The latent adversary of LAT.

It perturbs one block's output so that the model recalls the forget texts.
"""

import torch

from brittle.models.hooks import hidden, resume
from brittle.models.logprobs import nll


def descend(delta, gradient, eps, steps, norm):
    """One projected step of delta [B, T, D] down its gradient.

    l2: 2.5 eps / steps along each token's normalised gradient, then ||delta_t||_2 <= eps (Madry et
    al. 2018). linf: eps along the gradient's sign, then every entry within +-eps (the README's).
    """
    if norm == "linf":
        return (delta - eps * gradient.sign()).clamp(-eps, eps)
    delta = delta - 2.5 * eps / steps * gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(
        1e-12
    )
    return delta * (eps / delta.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp_max(1)


def attack(model, batch, block, eps, steps, norm="l2"):
    """delta [B, T, D] inside the ball of radius `eps` that *lowers* NLL(batch).

    It is zero on padding, and zero for eps 0. Projected gradient descent from zero (see `descend`).
    Blocks up to `block` run once. No gradient reaches the model, whose requires_grad flags are
    restored.
    """
    with torch.no_grad():
        h = hidden(model, batch, [block])[block]
    delta = torch.zeros_like(h, dtype=torch.float32)
    if not eps or not steps:
        return delta
    real = batch["attention_mask"][..., None]
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(requires_grad=False)
    try:
        for _ in range(steps):
            delta.requires_grad_(requires_grad=True)
            with resume(model, block, h + delta.to(h.dtype)):
                (gradient,) = torch.autograd.grad(nll(model, batch), delta)
            with torch.no_grad():
                delta = descend(delta, gradient, eps, steps, norm) * real
    finally:
        for p in trained:
            p.requires_grad_(requires_grad=True)
    return delta.detach()
