"""First and second moments of token states, streamed in float64: memory O(width^2), whatever the
number of texts.
"""

import torch

from brittle.base.errors import UserError


class Moments:
    """Count, sum and second moments of vectors [.., d], streamed in float64; mergeable, so data can
    be sharded.

    `mean` is E[y], `second` E[y y^T] (not centred), `covariance` E[(y - mean)(y - mean)^T].
    """

    def __init__(self, width, device="cpu"):
        self.n = 0
        self.total = torch.zeros(width, dtype=torch.float64, device=device)
        self.products = torch.zeros(width, width, dtype=torch.float64, device=device)

    def update(self, states, mask=None):
        """Add states [.., d]; with mask [..] only those where it is true. Returns self."""
        states = states.flatten(0, -2) if mask is None else states[mask.bool()]
        rows = states.to(self.total.device, torch.float64)
        self.n += len(rows)
        self.total += rows.sum(0)
        self.products.addmm_(rows.T, rows)
        return self

    def merge(self, other):
        """Add another set's moments. Returns self."""
        if len(other.total) != len(self.total):
            raise UserError(
                f"moments of width {len(other.total)} cannot be added to moments of width "
                f"{len(self.total)}."
            )
        self.n += other.n
        self.total += other.total.to(self.total.device)
        self.products += other.products.to(self.total.device)
        return self

    @property
    def width(self):
        return len(self.total)

    @property
    def mean(self):
        return self.total / self.n

    @property
    def second(self):
        return self.products / self.n

    @property
    def covariance(self):
        return self.second - torch.outer(self.mean, self.mean)

    def tensors(self):
        """What a safetensors file holds of it; `Moments.of` is the way back."""
        return {
            "n": torch.tensor(self.n),
            "total": self.total.cpu(),
            "products": self.products.cpu(),
        }

    @classmethod
    def of(cls, tensors):
        moments = cls(len(tensors["total"]))
        moments.n = int(tensors["n"])
        moments.total = tensors["total"].double()
        moments.products = tensors["products"].double()
        return moments
