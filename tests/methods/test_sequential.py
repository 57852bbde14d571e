"""Sequential unlearning: its frozen suffix is the start's own forward pass, its losses have their
known values.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from brittle.methods.sequential import losses
from brittle.methods.sequential.passes import Originals, Passes
from brittle.models.blocks import blocks
from brittle.models.hooks import edit, hidden, residual_stream
from brittle.models.logprobs import nll, sequence_logprobs, target_mask
from support import tiny
from support.started import batches, gradients, moved, total
from support.started import start_sequential as start

N = 3


def last_phase(rule, **knobs):
    """In the phase of block 0, with blocks 2 and 1 trained (moved) before."""
    for progress in (0.0, 0.34):
        rule.phase(progress)
        moved(rule.model)
    rule.phase(0.7)
    return rule


# ---------------------------------------------------------------------------------------- the probe


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", tiny.MAKE)
def test_the_frozen_suffix_is_the_model_at_every_block(kind, attention):
    model = tiny.model(kind, attention=attention)
    for left in (False, True):
        batch = tiny.batch(tiny.ids(3), left=left)
        with torch.no_grad():
            whole = model(**batch).logits
        for block in range(N):
            originals = Originals(model)
            originals.keep(block)
            for below_fixed in (True, False):
                passes = Passes(model, originals, block, below_fixed)
                assert torch.equal(passes.probe(batch), whole), (
                    block,
                    left,
                )  # at N - 1: the final norm acts once
                if block:
                    assert torch.equal(passes.probe(batch, "block_input"), whole)
                now, before = passes.live_and_frozen(batch)
                assert torch.equal(now, whole) and torch.equal(before, whole)
    # no position sees a later token
    ids = torch.tensor([tiny.ids(1, shortest=8)[0][:8]])
    other = ids.clone()
    other[:, 5:] = (other[:, 5:] + 7) % tiny.VOCAB
    z = [passes.probe({"input_ids": i, "attention_mask": torch.ones_like(i)}) for i in (ids, other)]
    assert torch.allclose(z[0][:, :5], z[1][:, :5], atol=1e-6) and not torch.allclose(
        z[0][:, 5:], z[1][:, 5:], atol=1e-2
    )


def test_the_last_blocks_probe_is_the_final_norm_and_the_unembedding_alone():
    model, batch = tiny.model(), tiny.batch(tiny.ids(3))
    h = residual_stream(model, batch)[N]
    passes = Passes(model, Originals(model), N - 1, True)
    passes.reference.keep(N - 1)
    written = model.get_output_embeddings()(model.gpt_neox.final_layer_norm(h))
    assert torch.equal(passes.probe(batch), written)
    assert not torch.allclose(
        model.get_output_embeddings()(
            model.gpt_neox.final_layer_norm(model.gpt_neox.final_layer_norm(h))
        ),
        written,
        atol=1e-3,
    )


@pytest.mark.parametrize("kind", tiny.MAKE)
def test_gradients_flow_through_the_starts_weights_not_the_trained_ones(kind):
    """Against the definition: a second whole model that stays at the start, its block's output
    replaced.
    """
    double = kind != "olmoe"  # whose grouped matrix products know no float64
    model, near = (
        tiny.model(kind, dtype=torch.float64 if double else torch.float32),
        {"rtol": 1e-6, "atol": 1e-10 if double else 1e-5},
    )
    reference = copy.deepcopy(model)
    rule = last_phase(start(model, retain_loss="kl"))
    forget, retain = batches(tiny.Data())
    assert [n for n, p in model.named_parameters() if p.requires_grad] == rule_names(model, 0)
    moved(model)
    h = hidden(model, forget, [0])[0]
    with edit(reference, {0: lambda _: h}):
        z = reference(**forget).logits
    written = losses.forget_loss("max_entropy", z, forget)
    got = rule.forget_term(forget, 0.7)
    assert got.item() == pytest.approx(written.item(), rel=1e-6)
    for a, b in zip(gradients(model, got), gradients(model, written), strict=True):
        assert torch.allclose(a, b, **near)
    with torch.no_grad():
        before = reference(**retain).logits
    now = model(**retain).logits
    kl = losses.kl(now, before, retain, "token")
    for a, b in zip(gradients(model, rule.retain_term(retain)), gradients(model, kl), strict=True):
        assert torch.allclose(a, b, **near)
    with rule.reference as frozen:
        assert torch.equal(frozen(**forget).logits, reference(**forget).logits)


def rule_names(model, block):
    inside = {id(p) for p in blocks(model)[block].parameters()}
    return [n for n, p in model.named_parameters() if id(p) in inside]


def test_gradient_checkpointing_recomputes_the_starts_blocks():
    """Blocks of the probe are run again in the backward pass, when theta is back in its place."""
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    for retain_loss in ("l2", "kl"):
        rule = last_phase(start(model, retain_loss=retain_loss))
        moved(model)
        plain = gradients(model, total(rule.losses(*batches(data), 0.9)))
        model.train().gradient_checkpointing_enable({"use_reentrant": False})
        checkpointed = gradients(model, total(rule.losses(*batches(data), 0.9)))
        model.gradient_checkpointing_disable()
        model.eval()
        for a, b in zip(plain, checkpointed, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-12) and a.any()


# ------------------------------------------------------------------------------------------- losses


def test_forget_losses_start_at_their_values_and_have_their_floors():
    model, data = tiny.model(), tiny.Data()
    forget, retain = batches(data)
    logp = torch.cat(
        [model(input_ids=torch.tensor([i])).logits[0] for i in data.forget.ids[:4]]
    ).log_softmax(-1)
    log_v = math.log(tiny.VOCAB)
    top = logp.topk(10, -1).values
    known = {
        "max_entropy": (-logp.mean(-1).mean() / log_v).item(),  # (KL(uniform || p) + ln V) / ln V
        "entropy_topk": ((top.logsumexp(-1) - top.mean(-1)).mean() / math.log(10)).item(),
        "entropy_rev": (1 + (logp.exp() * logp).sum(-1).mean() / log_v).item(),
        "npo_probe": math.log(2),
    }
    floor = {"max_entropy": 1, "ce_random": 1, "entropy_topk": 1, "entropy_rev": 0}
    flat = torch.full((4, forget["input_ids"].size(1), tiny.VOCAB), 0.3)
    for kind in ("max_entropy", "ce_random", "entropy_topk", "entropy_rev", "npo_probe"):
        rule = start(model, data=data, forget_loss=kind, top_k=10)
        rule.losses(forget, retain, 0.0)
        if kind in known:
            assert rule.measured["forget_loss"].item() == pytest.approx(known[kind], rel=1e-5), kind
        if kind in floor:
            at_uniform = losses.forget_loss(kind, flat, forget, top_k=10).item()
            assert at_uniform == pytest.approx(floor[kind], abs=1e-5)
            assert rule.measured["forget_loss"].item() > at_uniform


def test_random_targets_give_maximum_entropy_in_expectation():
    model, data = tiny.model(), tiny.Data()
    forget, _ = batches(data)
    with torch.no_grad():
        z = model(**forget).logits
    draws = torch.tensor(
        [losses.forget_loss("ce_random", z, forget, 0, k / 997) for k in range(400)]
    )
    exact = losses.forget_loss("max_entropy", z, forget).item()
    assert abs(draws.mean().item() - exact) < 4 * draws.std().item() / 20 and draws.std() > 0.01
    padded = [
        losses.random_targets(tiny.batch(data.forget.ids[:4], left=left), 61, 0, 0.1)
        for left in (False, True)
    ]
    assert all(
        sorted(a[a > 0].tolist()) == sorted(b[b > 0].tolist()) for a, b in zip(*padded, strict=True)
    )


def test_parts_of_long_texts_make_the_same_loss(monkeypatch):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2, 7, 11, generator=g, dtype=torch.float64).requires_grad_()
    batch = tiny.batch([[3] * 7, [4] * 5])
    kinds = {
        k: (lambda k=k: losses.forget_loss(k, z, batch))
        for k in ("max_entropy", "ce_random", "entropy_rev")
    }
    kinds["kl"] = lambda: losses.kl(z, z.detach().flip(0), batch, "sum")
    kinds["nll"] = lambda: losses.nll(z, batch)
    for kind, loss in kinds.items():
        (whole,) = torch.autograd.grad(loss(), z)
        with monkeypatch.context() as patch:
            for size in (60, 1):  # of three positions, and of one that is larger than a part
                patch.setattr(losses, "PART", size)
                (parts,) = torch.autograd.grad(loss(), z)
                assert torch.allclose(whole, parts, rtol=1e-12), kind


def test_log_probabilities_of_logits_are_those_of_the_model():
    """npo_probe off its start, also for texts of two tokens and of one; nll has nll's sign."""
    model, beta = tiny.model(dtype=torch.float64), 0.7
    data = tiny.Data(forget=[[5, 6, 7, 8], [9, 10], [11], [12, 13, 14]])
    forget, retain = batches(data)
    knobs = {"forget_loss": "npo_probe", "probe": "live", "beta": beta, "retain_loss": "nll"}
    rule = start(model, data=data, l2sp_coef=3.0, **knobs)

    def a_token():
        counts = target_mask(forget).sum(1).clamp_min(1)
        return sequence_logprobs(model, forget).detach() / counts

    before = a_token()
    rule.phase(0.0)
    origin = [p.detach().clone() for p in blocks(model)[N - 1].parameters()]
    moved(model)
    rule.losses(forget, retain, 0.0)
    written = -F.logsigmoid(-beta * (a_token() - before)).mean()
    assert rule.measured["forget_loss"].item() == pytest.approx(written.item(), rel=1e-6)
    assert rule.measured["retain_loss"].item() == pytest.approx(nll(model, retain).item(), rel=1e-9)
    pairs = zip(blocks(model)[N - 1].parameters(), origin, strict=True)
    far = sum((now - old).square().sum().item() for now, old in pairs)
    l2sp = rule.losses(forget, retain, 0.0)["l2sp"].item()
    assert l2sp == pytest.approx(3 * far, rel=1e-6)


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"retain_blocks": "current"},
        {"retain_blocks": "0,2"},
        {"retain_loss": "kl"},
        {"retain_loss": "kl", "kl_reduction": "sum"},
    ],
)
def test_retain_terms_are_zero_at_the_start(knobs):
    model, data = tiny.model(), tiny.Data()
    rule = start(model, data=data, retain_ramp="const", **knobs)
    assert rule.losses(*batches(data), 0.0)["retain"].item() == pytest.approx(0, abs=1e-6)
    moved(model)
    assert rule.losses(*batches(data), 0.0)["retain"].item() > 1e-3


def test_retain_terms_against_their_formulas():
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    reference = copy.deepcopy(model)
    rules = {
        reduction: start(model, retain_loss="kl", kl_reduction=reduction)
        for reduction in ("token", "sum")
    }
    rules |= {"all": start(model), "current": start(model, retain_blocks="current")}
    for rule in rules.values():
        rule.phase(0.5)
    moved(model)
    assert not torch.equal(
        model.gpt_neox.layers[1].mlp.dense_4h_to_h.weight,
        reference.gpt_neox.layers[1].mlp.dense_4h_to_h.weight,
    )
    texts, retain = data.retain.ids[:4], batches(data)[1]
    kls, distances = [], []
    for ids in texts:
        x = {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        }
        p, q = (m(**x).logits[0].log_softmax(-1) for m in (reference, model))
        kls.append((p.exp() * (p - q)).sum(-1))
        now, before = (residual_stream(m, x)[1:] for m in (model, reference))
        distances.append(
            torch.stack([(a - b).norm(dim=-1)[0] for a, b in zip(now, before, strict=True)])
        )
    written = {
        "token": torch.cat(kls).mean(),
        "sum": torch.stack([k.sum() for k in kls]).mean(),
        "all": torch.cat(distances, 1).mean(),
        "current": torch.cat(distances, 1)[1].mean(),
    }
    for kind, rule in rules.items():
        assert rule.retain_term(retain).item() == pytest.approx(written[kind].item(), rel=1e-7), (
            kind
        )
