"""Every method: closed forms at the start, gradients of the written formula, and that padding never matters."""

import math

import pytest
import tiny
import torch
import torch.nn.functional as F

from brittle import activations, losses
from brittle.methods import METHODS, method_class
from brittle.methods.base import build, knobs
from brittle.train import Frozen

torch.set_num_threads(1)
SMALL = {"layer_id": (1,), "lat_layer": 0, "lat_eps": 0.3, "lat_steps": 3}


def start(name, model, seed=0, data=None, **given):
    """The method `name`, started on `model`, with knobs that fit three blocks."""
    cls = method_class(name)
    rule = build(cls, name, {**{k: v for k, v in SMALL.items() if k in knobs(cls)}, **given}, seed)
    rule.start(model, Frozen(model) if rule.needs_reference else None, data or tiny.Data())
    return rule


def batches(rule_data, rows=slice(0, 4), **padding):
    made = []
    for stream in (rule_data.forget, rule_data.retain):
        picked = list(range(len(stream.ids)))[rows]
        batch = tiny.batch([stream.ids[i] for i in picked], **padding)
        batch.index = torch.tensor(picked)
        made.append(batch)
    return made


def moved(model, size=0.05):
    """The model a little off its start, so that no term sits at a special point."""
    g = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * torch.randn(p.shape, generator=g).to(p.dtype))


def total(terms):
    return sum(terms.values())


def gradients(model, loss):
    trained = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, trained, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(trained, found, strict=True)]


def logprobs(model, ids):
    """log p of one unpadded text's tokens, [T-1], straight from the definition."""
    x = torch.tensor([ids])
    return model(input_ids=x).logits[0, :-1].log_softmax(-1).gather(1, x[0, 1:, None])[:, 0]


def mean_nll(model, lists):
    return -torch.cat([logprobs(model, ids) for ids in lists]).mean()


# ------------------------------------------------------------------------------------------------ what holds for all


@pytest.mark.parametrize("kind", tiny.MAKE)
@pytest.mark.parametrize("name", METHODS)
def test_runs_on_every_architecture(name, kind):
    model = tiny.model(kind)
    data = tiny.Data()
    rule = start(name, model, data=data)
    moved(model)
    terms = rule.losses(*batches(data), 0.5)
    assert all(t.ndim == 0 and torch.isfinite(t) for t in terms.values())
    total(terms).backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_padding_does_not_matter(name):
    model, data = tiny.model(), tiny.Data()
    rule = start(name, model, data=data)
    moved(model)
    plain = rule.losses(*batches(data), 0.5)
    for padding in ({"extra": 5}, {"left": True}, {"left": True, "extra": 3}):
        padded = rule.losses(*batches(data, **padding), 0.5)
        for term in plain:
            assert padded[term].item() == pytest.approx(plain[term].item(), rel=1e-4, abs=1e-6), (term, padding)


@pytest.mark.parametrize("name", METHODS)
def test_two_micro_batches_are_one_batch(name):
    model, data = tiny.model(dtype=torch.float64), tiny.Data(batch_size=2, micro_batches=2)
    rule = start(name, model, data=data)
    moved(model)
    whole = tiny.Data(batch_size=4)
    pairs = zip(data.forget.batches(0), data.retain.batches(0), strict=True)
    parts = [gradients(model, total(rule.losses(f, r, 0.5)) / 2) for f, r in pairs]
    one = gradients(model, total(rule.losses(whole.forget.batches(0)[0], whole.retain.batches(0)[0], 0.5)))
    for a, b, c in zip(*parts, one, strict=True):
        assert torch.allclose(a + b, c, rtol=1e-5, atol=1e-6 * float(c.abs().max()) + 1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_random_draws_depend_on_the_seed_alone(name):
    def terms(seed, noise):
        model = tiny.model()
        torch.manual_seed(noise)
        data = tiny.Data()
        rule = start(name, model, seed=seed, data=data)
        torch.rand(noise)
        return {k: v.item() for k, v in rule.losses(*batches(data), 0.25).items()}

    assert terms(0, 3) == terms(0, 8)
    if any(hasattr(start(name, tiny.model()), a) for a in ("target", "noise")):
        assert terms(0, 3) != terms(1, 3)


@pytest.mark.parametrize("name", METHODS)
def test_reference_stays(name):
    model, data = tiny.model(), tiny.Data()
    rule = start(name, model, data=data)
    if not rule.needs_reference:
        return
    batch = batches(data)[0]
    with rule.reference as frozen:
        before = frozen(**batch).logits
        assert not before.requires_grad
    total(rule.losses(*batches(data), 0.5)).backward()
    moved(model)
    with rule.reference as frozen:
        assert torch.equal(frozen(**batch).logits, before)
    assert not torch.equal(model(**batch).logits, before)


# ------------------------------------------------------------------------------------------------ closed forms


def test_ga_is_the_difference_of_nlls():
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    rule = start("ga", model, data=data, forget_weight=0.7, retain_weight=2.0)
    terms = rule.losses(*batches(data), 0.0)
    written = {"forget": -0.7 * mean_nll(model, data.forget.ids[:4]), "retain": 2 * mean_nll(model, data.retain.ids[:4])}
    for key in written:
        assert terms[key].item() == pytest.approx(written[key].item(), rel=1e-9)
    for a, b in zip(gradients(model, total(terms)), gradients(model, total(written)), strict=True):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-9)


def test_npo_starts_at_two_over_beta_ln_two():
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    for beta in (0.05, 1.0):
        terms = start("npo", model, data=data, beta=beta).losses(*batches(data), 0.0)
        assert terms["forget"].item() == pytest.approx(2 / beta * math.log(2), rel=1e-6)


def test_npo_gradient_is_its_adaptive_weight_times_that_of_log_p():
    """d/dtheta = mean over texts of 2 r^beta / (1 + r^beta) d log p, r = p / p_ref (Zhang et al. 2024, eq. 5)."""
    model, data, beta = tiny.model(dtype=torch.float64), tiny.Data(), 0.3
    rule = start("npo", model, data=data, beta=beta, retain_weight=0.0)
    before = [logprobs(model, i).sum().item() for i in data.forget.ids[:4]]
    moved(model)
    got = gradients(model, total(rule.losses(*batches(data), 0.0)))
    now = [logprobs(model, i).sum() for i in data.forget.ids[:4]]
    ratios = [math.exp(n.item() - b) for n, b in zip(now, before, strict=True)]
    weights = [2 * r**beta / (1 + r**beta) for r in ratios]
    for a, b in zip(got, gradients(model, sum(w * n for w, n in zip(weights, now, strict=True)) / 4), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_npo_becomes_gradient_ascent_as_beta_goes_to_zero():
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    rule = start("npo", model, data=data, beta=1e-6, retain_weight=0.0)
    moved(model)
    got = torch.cat([g.flatten() for g in gradients(model, total(rule.losses(*batches(data), 0.0)))])
    ascent = gradients(model, sum(logprobs(model, i).sum() for i in data.forget.ids[:4]) / 4)
    assert F.cosine_similarity(got, torch.cat([g.flatten() for g in ascent]), dim=0) > 1 - 1e-6


@pytest.mark.parametrize("name, term", [("rmu", "retain"), ("cb_lat", "retain")])
def test_retain_terms_start_at_zero(name, term):
    model, data = tiny.model(), tiny.Data()
    rule = start(name, model, data=data)
    for progress in (0.0, 0.5, 1.0):
        assert rule.losses(*batches(data), progress)[term].item() == pytest.approx(0, abs=1e-9)


def test_rmu_against_its_formula_and_only_down_projections_train():
    model, data, c, alpha = tiny.model(dtype=torch.float64, layers=4), tiny.Data(), 3.0, 7.0
    rule = start("rmu", model, data=data, layer_id=(2,), steering_coeff=c, alpha=alpha)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained == [f"gpt_neox.layers.{k}.mlp.dense_4h_to_h.weight" for k in (0, 1, 2)]
    u = rule.target[2]
    assert u.norm().item() == pytest.approx(c, rel=1e-6) and (u > 0).all()
    before = [
        model(input_ids=torch.tensor([i]), output_hidden_states=True).hidden_states[3].detach() for i in data.retain.ids[:4]
    ]
    moved(model)

    def states(lists):
        return [model(input_ids=torch.tensor([i]), output_hidden_states=True).hidden_states[3] for i in lists]

    forget = torch.cat(states(data.forget.ids[:4]), 1)[0]
    retain = torch.cat(states(data.retain.ids[:4]), 1)[0]
    written = {"forget": (forget - u).pow(2).mean(), "retain": alpha * (retain - torch.cat(before, 1)[0]).pow(2).mean()}
    terms = rule.losses(*batches(data), 0.3)
    for key in written:
        assert terms[key].item() == pytest.approx(written[key].item(), rel=1e-6)
    for a, b in zip(gradients(model, total(terms)), gradients(model, total(written)), strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-9)


def test_cb_lat_forget_starts_at_its_schedule_without_an_adversary():
    """Without a perturbation the states are the reference's: cosine 1, so forget = alpha (1 - progress / 2)."""
    model, data = tiny.model(), tiny.Data()
    rule = start("cb_lat", model, data=data, alpha=6.0, lat_steps=0)
    for progress in (0.0, 0.5, 1.0):
        assert rule.losses(*batches(data), progress)["forget"].item() == pytest.approx(6 * (1 - progress / 2), rel=1e-5)


@pytest.mark.parametrize("name", ["rmu", "cb_lat"])
def test_blocks_above_the_deepest_one_never_run(name):
    model, data, calls = tiny.model(layers=5), tiny.Data(), []
    rule = start(name, model, data=data, layer_id=(1, 2), **({"lat_steps": 0} if name == "cb_lat" else {}))
    for k, block in enumerate(activations.blocks(model)):
        block.register_forward_pre_hook(lambda *_, k=k: calls.append(k))
    rule.losses(*batches(data), 0.5)
    assert max(calls) == 2


def test_losses_agree_with_the_models_own():
    for kind in tiny.MAKE:
        model, batch = tiny.model(kind), tiny.batch(tiny.ids(5), extra=3)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        with torch.no_grad():
            assert losses.nll(model, batch).item() == pytest.approx(model(**batch, labels=labels).loss.item(), rel=1e-5)
