"""Initial weights: those that a model's architecture draws before any training."""

import copy

import torch

# far from the seeds of create_models.py: a student must not start where its teacher started
# (subliminal learning needs shared initial weights, Cloud et al. 2025, arXiv:2507.14805)
OFFSET = 1_000_003


def fresh(model, seed):
    """A model like `model` with weights drawn by its architecture's own rule, from `seed` alone.

    It is on CPU, in float32. Other random streams stay as they are.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(OFFSET + seed)
        return type(model)(copy.deepcopy(model.config)).float()


def initial_weights(model, seed):
    """{name: (its mean, a draw)} of the initial distribution of each parameter, tied ones once.

    A tensor that two draws agree on is drawn from nothing: its value is its mean (gain 1 of a norm,
    bias 0). All others have the mean 0.
    """
    one, other = (
        {name: p.detach() for name, p in fresh(model, s).named_parameters()}
        for s in (seed, seed + 1)
    )
    return {
        name: (p if torch.equal(p, other[name]) else torch.zeros_like(p), p)
        for name, p in one.items()
    }


def xavier(model, seed):
    """{name: (0, a draw)}: matrices from U(-b, b), b = sqrt(6 / (inputs + outputs)), all else 0."""
    generator = torch.Generator().manual_seed(OFFSET + seed)
    drawn = {}
    for name, p in model.named_parameters():
        value = torch.zeros(p.shape)
        if p.ndim >= 2:
            bound = (6 / (p.shape[-1] + p.shape[-2])) ** 0.5
            value.uniform_(-bound, bound, generator=generator)
        drawn[name] = (torch.zeros(p.shape), value)
    return drawn


@torch.no_grad()
def corrupt(model, weights, drawn, alpha, beta):
    """Write (1 - alpha) theta + alpha (mean + beta (draw - mean)) into the parameters of `model`.

    weights: {name: theta}. drawn: {name: (mean, draw)}, of `initial_weights` or `xavier`. At alpha
    0 it is theta, at alpha = beta = 1 the draw.
    """
    for name, p in model.named_parameters():
        mean, draw = (value.to(p) for value in drawn[name])
        start = mean + beta * (draw - mean)
        p.copy_((1 - alpha) * weights[name].to(p) + alpha * start)
