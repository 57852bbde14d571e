"""Round to nearest: on the grid, at most half a step away, idempotent; only the blocks' matrices
move.
"""

import pytest
import torch

from brittle.base.errors import UserError
from brittle.models.quantize import quantize, quantize_
from support import tiny


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 0), (4, 16), (3, 7), (2, 0)])
def test_grid(bits, group, dtype):
    w = torch.randn(5, 33, generator=torch.Generator().manual_seed(0)).to(dtype)
    q = quantize(w, bits, group)
    assert q.dtype == dtype and q.shape == w.shape
    assert torch.equal(quantize(q, bits, group), q)  # on the grid already
    for start in range(0, 33, group or 33):
        part, rounded = (x[:, start : start + (group or 33)].double() for x in (w, q))
        step = part.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((part - rounded).abs() <= step * (0.5 + 2**bits * torch.finfo(dtype).eps)).all()
        assert torch.equal(part.abs().amax(1), rounded.abs().amax(1))


def test_sixteen_bits_and_zeros_are_the_identity():
    w = torch.randn(4, 8)
    assert quantize(w, 16) is w and torch.equal(quantize(torch.zeros(2, 3), 4), torch.zeros(2, 3))


@pytest.mark.parametrize("kind", ["gpt_neox", "gpt2", "olmoe"])
def test_models(kind):
    model, old = tiny.model(kind), tiny.model(kind)
    count = quantize_(model, 8)
    moved = {
        name
        for (name, p), q in zip(model.named_parameters(), old.parameters(), strict=True)
        if not torch.equal(p, q)
    }
    assert len(moved) == count > 0
    assert all(".layers." in name or ".h." in name for name in moved)
    assert not any(word in name for name in moved for word in ("norm", "ln_", "bias"))
    if kind == "gpt2":  # Conv1D keeps [in, out]: one scale an output is one a column
        w = old.transformer.h[0].mlp.c_fc.weight
        assert torch.equal(model.transformer.h[0].mlp.c_fc.weight, quantize(w.mT, 8).mT)


@pytest.mark.parametrize("bits", [1, 17, -4])
def test_bits_that_are_none(bits):
    with pytest.raises(UserError, match="2 to 16"):
        quantize_(tiny.model(), bits)
