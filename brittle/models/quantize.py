"""Round-to-nearest weight quantisation: weights move to a grid of `bits` bits and keep their dtype.

What is simulated is the loss of precision, not the saving of memory. The grid is symmetric, with
2^(bits-1) - 1 levels on either side of zero, scaled so that the largest entry of a group is a level
(absmax; Dettmers et al. 2022, arXiv:2208.07339, section 2.1).
"""

import torch

from brittle.base.errors import UserError
from brittle.models.architectures import as_rows, is_matrix, layer_of


def quantize(weight, bits, group=0):
    """`weight` [..., out, in] on its grid: one scale a row, or one for every `group` neighbouring
    inputs.

    Scales are float64, so that a group's largest entry is a level exactly: quantising twice changes
    nothing. A zero group stays zero, and 16 bits or more are the identity.
    """
    if bits >= 16:
        return weight
    width, wide = weight.size(-1), weight.double()
    if group and width % group:
        wide = torch.nn.functional.pad(wide, (0, group - width % group))
    parts = wide.unflatten(-1, (-1, group)) if group else wide
    levels = 2 ** (bits - 1) - 1
    scale = parts.abs().amax(-1, keepdim=True) / levels
    parts = (parts / scale.where(scale > 0, 1)).round() * scale
    return (parts.flatten(-2) if group else parts)[..., :width].to(weight.dtype)


def check_bits(bits):
    if not 2 <= bits <= 16:
        raise UserError(f"--quantize {bits}: 2 to 16 bits.")


@torch.no_grad()
def quantize_(model, bits, group=0):
    """Quantise the matrices of `model`'s blocks in place, and no others.

    Embeddings, unembedding, norms and biases stay. Returns how many matrices were quantised (a
    stack of experts counts as one).
    """
    check_bits(bits)
    count = 0
    for name, p in model.named_parameters():
        if layer_of(name) < 0 or not is_matrix(p.shape, name):
            continue
        rows = as_rows(p, name, model.config)
        rows.copy_(quantize(rows, bits, group))
        count += 1
    return count
