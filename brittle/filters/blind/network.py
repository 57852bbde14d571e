"""The network that maps states of anonymised text to states of the original, and its worth.

The same anonymised text stands for many originals, so any regression tends to E[state(T) | T~],
where T is the original and T~ the anonymised text: what is particular to the entity cannot be in
its output. `scores` therefore reports R^2 beside the identity's and the template mean's, and the
R^2 within one anonymised text, which is 0 at best.
"""

import json
from collections import Counter

import torch
from torch import nn

from brittle.base.errors import UserError
from brittle.maths.intervals import generator
from brittle.maths.precision import wide
from brittle.models.logprobs import kl_rows

LOSSES = ("mse", "kl")


class Translator(nn.Module):
    """x [n, d] -> x + f(x) [n, d]: two hidden layers of 2 d with ReLU, on standardised inputs."""

    def __init__(self, width):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, 2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, width),
        )
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x):
        x = wide(x)
        return x + self.scale * self.net((x - self.mean) / self.scale)


def fit(x, y, head=None, loss="mse", epochs=30, lr=1e-3, batch_size=256, seed=0):
    """A Translator g trained on pairs x -> y [n, d].

    Its loss is mse, or kl, KL(p(head y) || p(head g(x))), which needs the unembedding `head`.
    Raises UserError for another loss, and for fewer than two pairs.
    """
    if loss not in LOSSES:
        raise UserError(f"--loss {loss}: choose {', '.join(LOSSES)}.")
    if len(x) < 2:
        raise UserError("the network needs at least two pairs of states. Give more --public text.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Translator(x.shape[1])
    nn.init.zeros_(network.net[-1].weight)  # it starts as the identity
    nn.init.zeros_(network.net[-1].bias)
    network.mean = x.mean(0)
    network.scale = x.std(0, correction=0).square().mean().sqrt().clamp_min(1e-6)
    network = network.to(x.device)
    order = generator(seed, "pairs")
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=1e-2)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=order).split(batch_size):
            guess, target = network(x[rows]), wide(y[rows])
            if loss == "mse":
                value = (guess - target).square().mean() / network.scale**2
            else:
                base = wide(head(target)).log_softmax(-1)
                value = kl_rows(base, wide(head(guess)).log_softmax(-1)).mean()
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
    return network.eval().requires_grad_(requires_grad=False)


def r_squared(y, guess, mean):
    """1 - |y - guess|^2 / |y - mean|^2, over all rows and coordinates."""
    return 1 - float((y - guess).square().sum() / (y - mean).square().sum())


def group_mean(keys, y, wanted, rest):
    """[len(wanted), d]: the mean of y [n, d] over the rows of each wanted key.

    `rest` [d] stands where there is none.
    """
    sums, counts = {}, Counter()
    for key, row in zip(keys, y, strict=True):
        sums[key] = sums.get(key, 0) + row
        counts[key] += 1
    return torch.stack([sums[key] / counts[key] if key in sums else rest for key in wanted])


def scores(network, train, test):
    """{r2, r2_identity, r2_template, r2_within, cosine} on the Pairs `test`.

    The template's mean is that of the Pairs `train`. r2_within is None where the states of one
    anonymised text do not differ.
    """
    x, y, keys = test
    guess, mean = network(x), train.original.mean(0)
    template = group_mean(train.keys, train.original, keys, mean)
    inside = y - group_mean(keys, y, keys, mean)
    moved = guess - group_mean(keys, guess, keys, mean)
    spread, within = inside.square().sum(), None
    if spread > 1e-9 * y.square().sum():
        within = 1 - float((inside - moved).square().sum() / spread)
    return {
        "r2": r_squared(y, guess, mean),
        "r2_identity": r_squared(y, x, mean),
        "r2_template": r_squared(y, template, mean),
        "r2_within": within,
        "cosine": float(torch.cosine_similarity(y, guess).mean()),
    }


def save(network, path, about):
    """As safetensors, with `about` as its metadata."""
    from safetensors.torch import save_file

    tensors = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    save_file(tensors, path, metadata={"about": json.dumps(about, default=str)})


def load(path):
    """The Translator of a safetensors file.

    Raises UserError for anything else: no pickle is ever read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        network = Translator(len(tensors["mean"]))
        network.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{path} is no network of hooks/blind.py in safetensors ({str(error)[:100]})."
        ) from None
    return network.eval().requires_grad_(requires_grad=False)
