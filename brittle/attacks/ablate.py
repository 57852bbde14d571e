"""Ablating the forget direction: what unlearning added to the residual stream is projected out.

The attack is that of Lucki et al. 2024 (arXiv:2409.18025), the projection that of arXiv:2406.11717:

    h <- h - (h . d) d,    d = mean of h over forget texts - mean over reference texts

d is scaled to length 1 and belongs to one block.

The forget texts are half A's; the reference is the retain questions in the same model, or half A in
another one (`base`). Token vectors farther than 3 standard deviations from their mean (L1) are left
out of the means. Arithmetic in float32.
"""

from dataclasses import dataclass

import torch

from brittle.attacks.base import Attack, right_pairs
from brittle.data.batches import batches
from brittle.data.examples import DEFAULT, encode_rows
from brittle.models.architectures import context_length
from brittle.models.blocks import block_count
from brittle.models.hooks import edit, hidden

SITES = ("one", "all")


def without(h, direction):
    """h [..., D] without its part along `direction` [D] (length 1), in h's dtype."""
    wide = h.float()
    return (wide - (wide @ direction)[..., None] * direction).to(h.dtype)


def inlier_mean(h):
    """The mean of vectors h [n, D] without those more than 3 standard deviations farther out (L1)
    than is usual.
    """
    if len(h) <= 2:
        return h.mean(0)
    distance = (h - h.mean(0)).abs().sum(1)
    return h[distance <= distance.mean() + 3 * distance.std()].mean(0)


@torch.no_grad()
def means(model, tokenizer, rows, reading=DEFAULT, batch_size=64):
    """[blocks, D] float32: the mean output of every block over the real tokens of `rows`, the
    first of each left out.
    """
    layers = range(block_count(model))
    examples = encode_rows(tokenizer, rows, context_length(model.config), reading, refuse=False)
    streams = [[] for _ in layers]
    for _, batch in batches(examples, tokenizer.pad_token_id, batch_size, model.device):
        real = batch["attention_mask"].bool()
        real[:, 0] = False  # where models keep their largest activations
        for k, h in hidden(model, batch, layers).items():
            streams[k].append(h[real].float())
    return torch.stack([inlier_mean(torch.cat(outputs)) for outputs in streams])


def directions(forget, reference):
    """[blocks, D] unit vectors of forget - reference; None where the two are equal."""
    lengths = torch.linalg.vector_norm(forget - reference, dim=-1)
    return [d / n if n > 0 else None for d, n in zip(forget - reference, lengths, strict=True)]


def ablated(model, direction, blocks):
    """A `with` block in which no output of `blocks` has a part along `direction`."""
    return edit(model, dict.fromkeys(blocks, lambda h: without(h, direction)))


@dataclass
class Ablate(Attack):
    """Each block's direction, ablated behind that block alone (site one) or behind every block
    (all).
    """

    texts: int = 200
    sites: tuple = SITES
    base: object = None

    def run(self, model, tokenizer, material, measure):
        known = right_pairs(material.forget()[: self.texts])
        forget = means(model, tokenizer, known, self.reading)
        if self.base is not None:
            reference = means(self.base, tokenizer, known, self.reading).to(forget)
        else:
            others = right_pairs(material.retain()[: self.texts])
            reference = means(model, tokenizer, others, self.reading)
        every = range(block_count(model))
        for k, direction in enumerate(directions(forget, reference)):
            for site in self.sites:
                columns = {
                    "layer_id": k,
                    "site": site,
                    "reference": "base" if self.base is not None else "retain",
                }
                name = f"direction of block {k}, " + (
                    "behind it" if site == "one" else "everywhere"
                )
                if direction is None:
                    measure.broken(
                        name, "both means are equal, so there is no direction", **columns
                    )
                    continue
                with ablated(model, direction, [k] if site == "one" else every):
                    measure(name, **columns)
