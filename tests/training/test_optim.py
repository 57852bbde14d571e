"""Muon: orthogonalisation by its theorem, steps by their length, and agreement with torch's own
implementation.
"""

import pytest
import torch

from brittle.training.optim import NEWTON_SCHULZ, Muon, orthogonalize

torch.set_num_threads(1)


@pytest.mark.parametrize("shape", [(5, 5), (4, 9), (9, 4)])
def test_orthogonalize_keeps_singular_vectors_and_levels_singular_values(shape):
    g = torch.Generator().manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(shape[0], shape[0], generator=g))
    v, _ = torch.linalg.qr(torch.randn(shape[1], shape[1], generator=g))
    k = min(shape)
    w = u[:, :k] @ torch.diag(torch.linspace(0.2, 1, k)) @ v[:, :k].T
    out = orthogonalize(w[None])[0]
    inner = u[:, :k].T @ out @ v[:, :k]  # diagonal in the same singular basis
    assert (inner - inner.diagonal().diag()).abs().max() < 1e-4
    assert (inner.diagonal() > 0.6).all() and (inner.diagonal() < 1.3).all()


def test_orthogonalize_is_the_quintic_on_each_singular_value():
    a, b, c = NEWTON_SCHULZ
    s = torch.tensor([0.8, 0.5, 0.1])
    x = s / s.norm()
    for _ in range(5):
        x = a * x + b * x**3 + c * x**5
    assert torch.allclose(orthogonalize(s.diag()[None])[0].diagonal(), x, atol=1e-5)


def test_a_stack_is_its_matrices_one_by_one():
    w = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(
        orthogonalize(w), torch.cat([orthogonalize(m[None]) for m in w]), atol=1e-6
    )


def test_muon_step_against_its_definition():
    g = torch.Generator().manual_seed(2)
    start = torch.randn(6, 4, generator=g)
    p = torch.nn.Parameter(start.clone())
    optimizer, moment, expected = (
        Muon([p], lr=0.1, momentum=0.9, weight_decay=0.5),
        torch.zeros(6, 4),
        start.clone(),
    )
    for _ in range(3):
        gradient = torch.randn(6, 4, generator=g)
        p.grad = gradient
        optimizer.step()
        moment = 0.9 * moment + 0.1 * gradient
        update = orthogonalize((0.1 * gradient + 0.9 * moment)[None])[0]
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * (6 / 4) ** 0.5 * update
    assert torch.allclose(p.data, expected, atol=1e-5)


def test_muon_agrees_with_torch():
    g = torch.Generator().manual_seed(3)
    start, gradients = (
        torch.randn(8, 8, generator=g),
        [torch.randn(8, 8, generator=g) for _ in range(3)],
    )
    made = []
    for kind in (Muon, torch.optim.Muon):
        p = torch.nn.Parameter(start.clone())
        optimizer = kind([p], lr=0.02, momentum=0.95, weight_decay=0.0)
        for gradient in gradients:
            p.grad = gradient.clone()
            optimizer.step()
        made.append((p.detach() - start).flatten())
    assert torch.nn.functional.cosine_similarity(*made, dim=0) > 0.995  # torch's runs in bfloat16
    assert 0.95 < made[0].norm() / made[1].norm() < 1.05
