"""Rounding the weights to few bits: a gentle update is rounded away (arXiv:2410.16454).

Quantisation is round-to-nearest, as in Zhang et al. 2024:

    Q(w) = s round(w / s),    s = max |w| / (2^(bits-1) - 1)

with the maximum over a row, a group of inputs in a row, or the whole matrix.

Symmetric, without a zero point: 2 bits leave -s, 0 and s; 16 bits change nothing. Weights are
quantised and dequantised in place, so every evaluation runs on them as on any others.
"""

from dataclasses import dataclass

from brittle.attacks.base import Attack, kept, matrices
from brittle.base.errors import UserError
from brittle.base.knobs import knob

IDENTITY = 16  # bits from which on nothing is rounded


def rounded(w, bits, group="row"):
    """w [..., out, in] on its grid: one scale a row, a matrix (`tensor`), or `group` neighbouring
    inputs.
    """
    from brittle.models.quantize import quantize

    if group == "tensor":
        return quantize(w.flatten(-2), bits).view(w.shape)
    return quantize(w, bits, 0 if group == "row" else int(group))


def codes(w, bits, group="row"):
    """The whole numbers w / s (float64) behind `rounded`, in w's shape."""
    import torch

    w = w.double()
    in_groups = group not in ("row", "tensor")
    if in_groups:
        width, size = w.shape[-1], int(group)
        parts = torch.nn.functional.pad(w, (0, -width % size)).unflatten(-1, (-1, size))
    else:
        parts = w if group == "row" else w.flatten(-2)
    scale = parts.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    whole = (parts / scale.where(scale > 0, 1)).round()
    return whole.flatten(-2)[..., :width] if in_groups else whole.view(w.shape)


def quantize_model(model, bits, group="row"):
    """Round every attention and MLP matrix in place."""
    import torch

    with torch.no_grad():
        for _, w in matrices(model):
            w.copy_(rounded(w, bits, group))


def bucket_agreement(model, other, bits, group="row"):
    """Share of the entries of all matrices that get the same code in both models, each with scales
    of its own.
    """
    same = count = 0
    theirs = dict(matrices(other))
    for name, w in matrices(model):
        same += int((codes(w, bits, group) == codes(theirs[name].to(w.device), bits, group)).sum())
        count += w.numel()
    return same / count


@dataclass
class Quantize(Attack):
    """Every number of bits in every grouping. `base`: a model to compare codes with; it changes no
    weight.
    """

    bits: tuple = knob((8, 6, 4, 3, 2), "Bits a weight, 2 to 16.", low=2, high=IDENTITY)
    group: tuple = knob(("row",), "Weights that share a scale: row, tensor, or a number of inputs.")
    base: object = None

    def check(self):
        for group in self.group:
            if group not in ("row", "tensor") and not (group.isdigit() and int(group) > 1):
                raise UserError(
                    f"--group {group}: row, tensor, or a number of inputs (2 or more) such as 64."
                )

    def run(self, model, tokenizer, material, measure):
        for group in self.group:
            for bits in self.bits:
                compared = self.base is not None and bits < IDENTITY
                share = bucket_agreement(model, self.base, bits, group) if compared else None
                with kept(model):
                    quantize_model(model, bits, group)
                    measure(f"{bits} bits, {group}", bits=bits, group=group, bucket_agreement=share)
