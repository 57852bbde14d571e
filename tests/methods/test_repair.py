"""Repair after a corruption, and NPO in a flat minimum."""

import pytest
import torch

from brittle.models.architectures import layer_of
from brittle.models.initial import fresh
from support import tiny
from support.started import batches, gradients, moved, start, total

torch.set_num_threads(1)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# ------------------------------------------------------------------------------------------- repair


@pytest.mark.parametrize("corruption", ["attenuate", "dropout", "reset", "freeze", "none"])
def test_a_corruption_of_no_strength_is_the_identity(corruption):
    model = tiny.model()
    before = weights(model)
    start("repair", model, corruption=corruption, strength=0.0)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_each_corruption_does_what_it_says():
    def corrupted(kind, strength, seed=0):
        model = tiny.model()
        start("repair", model, seed=seed, corruption=kind, strength=strength)
        return model

    before = weights(tiny.model())
    halved = weights(corrupted("attenuate", 0.25))
    assert all(torch.equal(halved[n], 0.75 * before[n]) for n in before)
    dropped = weights(corrupted("dropout", 0.2))
    kept = torch.cat([(dropped[n] == before[n]).flatten() for n in before])
    zero = torch.cat([(dropped[n] == 0).flatten() for n in before])
    assert bool((kept | zero).all()) and zero.float().mean() == pytest.approx(0.2, abs=0.02)
    other = weights(corrupted("dropout", 0.2, seed=1))
    assert any(not torch.equal(other[n], dropped[n]) for n in before)
    reset, drawn = corrupted("reset", 0.34), weights(fresh(tiny.model(), 0))
    frozen = corrupted("freeze", 0.34)
    for (name, p), (_, q) in zip(reset.named_parameters(), frozen.named_parameters(), strict=True):
        is_last = layer_of(name) == 2
        assert torch.equal(p, drawn[name] if is_last else before[name]), name
        assert p.requires_grad == q.requires_grad == is_last and torch.equal(q, before[name])


def test_the_l1_term_is_the_mean_absolute_weight():
    model, data = tiny.model(), tiny.Data()
    rule = start("repair", model, data=data, corruption="none", l1=2.0)
    values = torch.cat([p.detach().abs().flatten() for p in model.parameters()])
    losses = rule.losses(*batches(data), 0.0)
    assert losses["l1"].item() == pytest.approx(2 * values.mean().item(), rel=1e-5)


# ---------------------------------------------------------------------------------------------- SAM


def gradient_of(name, **given):
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    rule = start(name, model, data=data, **given)
    moved(model)
    before = weights(model)
    losses = rule.losses(*batches(data), 0.0)
    found = gradients(model, total(losses))
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    return losses["forget"].item(), torch.cat([g.flatten() for g in found]), rule, batches(data)[0]


@pytest.mark.parametrize("given", [{"smoothing": "plain"}, {"sam_radius": 0.0}])
def test_without_a_disturbance_it_is_npo_to_the_bit(given):
    value, gradient, *_ = gradient_of("sam", **given)
    base, expected, *_ = gradient_of("npo")
    assert value == base and torch.equal(gradient, expected)


def test_the_disturbance_undoes_forgetting():
    """forget(theta + eps) >= forget(theta), and the gradient there is the one that is used."""
    base, _, rule, batch = gradient_of("npo")
    value, gradient, rule, batch = gradient_of("sam", sam_radius=0.05)
    assert value == pytest.approx(base, rel=1e-12)
    trained = list(rule.model.parameters())
    _, own = rule.gradient_at(batch, trained)
    size = torch.cat([g.flatten() for g in own]).norm()
    with torch.no_grad():
        for p, g in zip(trained, own, strict=True):
            p.add_(0.05 * g / size)
    there, found = rule.gradient_at(batch, trained)
    assert there > base
    retain = gradient_of("sam", smoothing="plain")[1] - torch.cat([g.flatten() for g in own])
    written = torch.cat([g.flatten() for g in found]) + retain
    assert torch.allclose(gradient, written, rtol=1e-6, atol=1e-9)


def test_the_penalty_has_a_gradient():
    """It is lambda times the gradient of ||grad forget||, by autograd's second derivative."""
    model, data = tiny.model(dtype=torch.float64, attention="eager"), tiny.Data()
    given = {"smoothing": "gradnorm", "sam_radius": 1e-4, "sam_penalty": 0.7}
    rule = start("sam", model, data=data, **given)
    moved(model)
    batch = batches(data)[0]
    trained = list(model.parameters())
    loss = rule.forget_term(batch)
    first = torch.autograd.grad(loss, trained, create_graph=True, allow_unused=True)
    size = torch.sqrt(sum(g.square().sum() for g in first if g is not None))
    second = torch.autograd.grad(size, trained, allow_unused=True)
    smoothed = gradients(model, rule.smoothed(batch))

    def flat(tensors):
        pairs = zip(tensors, trained, strict=True)
        filled = [torch.zeros_like(p) if g is None else g.detach() for g, p in pairs]
        return torch.cat([g.flatten() for g in filled])

    penalty = flat(smoothed) - flat(first)
    assert penalty.norm() > 0.1 * flat(first).norm()
    assert (penalty - 0.7 * flat(second)).norm() < 0.01 * penalty.norm()


def test_random_smoothing_is_the_mean_over_its_draws():
    still = gradient_of("sam", smoothing="rs", sam_noise=0.0)[1]
    plain = gradient_of("npo")[1]
    assert torch.allclose(still, plain, rtol=1e-9, atol=1e-12)
    shaken = gradient_of("sam", smoothing="rs", sam_noise=0.05)[1]
    again = gradient_of("sam", smoothing="rs", sam_noise=0.05)[1]
    assert torch.equal(shaken, again) and not torch.allclose(shaken, plain, rtol=1e-3)
