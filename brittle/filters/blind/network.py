"""The network that maps states of anonymised text to states of the original, and what it is worth beside doing nothing.

The same anonymised text stands for many originals, so any regression tends to E[state(T) | T~]: what is particular to the
entity cannot be in its output. `scores` therefore reports R^2 beside the identity's and the template mean's, and the R^2
within one anonymised text, which is 0 at best.
"""

import json

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
    """A Translator trained on pairs x -> y [n, d]. `kl` needs the unembedding `head`: KL(p(head y) || p(head g(x)))."""
    if loss not in LOSSES:
        raise UserError(f"--loss {loss}: choose {', '.join(LOSSES)}.")
    if len(x) < 2:
        raise UserError("the network needs at least two pairs of states. Give more --public text.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Translator(x.shape[1])
    nn.init.zeros_(made.net[-1].weight)  # it starts as the identity
    nn.init.zeros_(made.net[-1].bias)
    made.mean, made.scale = x.mean(0), x.std(0, correction=0).square().mean().sqrt().clamp_min(1e-6)
    made, order = made.to(x.device), generator(seed, "pairs")
    optimizer = torch.optim.AdamW(made.parameters(), lr=lr, weight_decay=1e-2)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=order).split(batch_size):
            guess, target = made(x[rows]), wide(y[rows])
            if loss == "mse":
                value = (guess - target).square().mean() / made.scale**2
            else:
                base = wide(head(target)).log_softmax(-1)
                value = kl_rows(base, wide(head(guess)).log_softmax(-1)).mean()
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
    return made.eval().requires_grad_(False)


def r_squared(y, guess, mean):
    """1 - |y - guess|^2 / |y - mean|^2, over all rows and coordinates."""
    return 1 - float((y - guess).square().sum() / (y - mean).square().sum())


def group_mean(keys, y, wanted, rest):
    """[len(wanted), d]: the mean of y [n, d] over the rows whose key is the wanted one; `rest` where there is none."""
    found = {}
    for key, row in zip(keys, y, strict=True):
        total, count = found.get(key, (0, 0))
        found[key] = total + row, count + 1
    return torch.stack([found[k][0] / found[k][1] if k in found else rest for k in wanted])


def scores(made, train, test):
    """{r2, r2_identity, r2_template, r2_within, cosine} on `test`; both are (x [n, d], y [n, d], keys: the anonymised text)."""
    (_, y0, keys0), (x, y, keys) = train, test
    guess, mean = made(x), y0.mean(0)
    inside = y - group_mean(keys, y, keys, mean)
    moved = guess - group_mean(keys, guess, keys, mean)
    spread = inside.square().sum()
    return {
        "r2": r_squared(y, guess, mean),
        "r2_identity": r_squared(y, x, mean),
        "r2_template": r_squared(y, group_mean(keys0, y0, keys, mean), mean),
        "r2_within": 1 - float((inside - moved).square().sum() / spread)
        if spread > 1e-9 * y.square().sum()
        else None,
        "cosine": float(torch.cosine_similarity(y, guess).mean()),
    }


def save(made, path, about):
    """As safetensors, with `about` as its metadata."""
    from safetensors.torch import save_file

    tensors = {name: t.detach().cpu().contiguous() for name, t in made.state_dict().items()}
    save_file(tensors, path, metadata={"about": json.dumps(about, default=str)})


def load(path):
    """The Translator of a safetensors file. Raises UserError for anything else: no pickle is ever read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        made = Translator(len(tensors["mean"]))
        made.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{path} is no network of hooks/blind.py in safetensors ({str(error)[:100]})."
        ) from None
    return made.eval().requires_grad_(False)
