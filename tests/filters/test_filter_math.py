"""The filter's theorems: projections, moments, bases with planted answers, convexity, bisection.

The cache is held against the hooks.
"""

import pytest
import torch

from brittle.base.errors import UserError
from brittle.filters import bake, fit, strength, tuning
from brittle.filters.ablation import published
from brittle.filters.basis import BASES, leading, make_basis, ridged
from brittle.filters.gate import quadratic, threshold
from brittle.filters.states import FilterText, collect, parted, read_filter_texts, states
from brittle.filters.target import Limits
from brittle.maths.linalg import principal_angles
from brittle.maths.moments import Moments
from brittle.models.filter import Filter, at_site, hooked
from brittle.models.readout import check_unembedding
from support.families import make_family
from support.tiny_models import make_model, make_tokenizer, texts, write_texts


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments(x):
    return Moments(x.shape[-1]).update(x)


def orthonormal(d, k, seed=0):
    return torch.linalg.qr(normal(d, k, seed=seed))[0]


def test_moments_stream_merge_and_mask():
    x, mask = normal(5, 7, 6), normal(5, 7, seed=1) > 0
    one, other = Moments(6).update(x[:2], mask[:2]), Moments(6).update(x[2:], mask[2:])
    both, rows = one.merge(other), x[mask]
    assert both.n == len(rows)
    torch.testing.assert_close(both.mean, rows.mean(0))
    torch.testing.assert_close(both.covariance, torch.cov(rows.T, correction=0))
    torch.testing.assert_close(Moments.of(both.tensors()).second, both.second)
    with pytest.raises(UserError, match="width"):
        both.merge(Moments(5))


def test_a_filter_is_a_projection_and_removes_what_it_says():
    u, x = orthonormal(12, 3), normal(40, 12, seed=2)
    made = Filter("post_norm", u)
    torch.testing.assert_close(made(made(x)), made(x))  # idempotent
    assert (made(x) @ u).abs().max() < 1e-12
    torch.testing.assert_close(made.at(0.3)(x), x - 0.3 * (x @ u) @ u.T)
    torch.testing.assert_close(made.at(2)(made.at(2)(x)), x)  # a reflection
    assert made.at(0)(x) is x
    gate = Filter("post_norm", u, gate=x[0], threshold=-float(x[0] @ x[0]) / 2)
    fires = gate.fires(x)
    assert 0 < fires.sum() < len(x) and torch.equal(gate(x)[~fires], x[~fires])
    torch.testing.assert_close(gate(x)[fires], made(x)[fires])


def planted(n=4000, d=16, k=3, seed=0):
    """Forget and retain states that share a strong subspace.

    Forget alone has `k` weaker directions of its own.
    """
    basis = orthonormal(d, d, seed)
    common, own = basis[:, :4], basis[:, 4 : 4 + k]
    noise = 0.05
    retain = 5 * normal(n, 4, seed=seed + 1) @ common.T + noise * normal(n, d, seed=seed + 2)
    forget = (
        5 * normal(n, 4, seed=seed + 3) @ common.T
        + normal(n, k, seed=seed + 4) @ own.T
        + noise * normal(n, d, seed=seed + 5)
    )
    return forget, retain, common, own


def test_gep_finds_the_planted_subspace_and_leaves_what_is_shared():
    """With exact moments the planted directions are the answer to 1e-3 rad.

    pca takes the shared ones instead.
    """
    _, _, common, own = planted()
    forget, retain = Moments(16), Moments(16)
    for made, spread in (
        (retain, 25 * common @ common.T),
        (forget, 25 * common @ common.T + own @ own.T),
    ):
        made.n, made.products = 1, spread + 0.0025 * torch.eye(16, dtype=torch.float64)
    u, about = make_basis("gep", forget, retain)
    assert u.shape[1] == 3  # auto: the directions of ratio above 4
    assert principal_angles(u, own)[-1] < 1e-3 and about["ratio"] > 4
    p, about = make_basis("pca", forget, retain, 3)
    assert (common.T @ p).square().sum() > 2.99 and about["energy_retain"] > 0.5


@pytest.mark.parametrize("name", BASES)
def test_every_basis_is_orthonormal_and_says_its_energies(name):
    forget, retain, _, _ = planted(seed=3)
    u, about = make_basis(
        name, moments(forget), moments(retain), None if name == "nspu_released" else 2
    )
    torch.testing.assert_close(u.T @ u, torch.eye(u.shape[1], dtype=torch.float64))
    assert 0 <= about["energy_retain"] <= 1.000001 and about["ratio"] > 1
    if name == "nspu_released":  # what the released code builds is no projection
        assert about["eigenvalue_min"] < -0.5 and about["idempotence_error"] > 0.1


def test_leace_leaves_nothing_linear():
    """After strength 1 the class means agree.

    Then no linear predictor beats a constant (arXiv:2306.03819, theorem 3.1).
    """
    forget, retain, _, own = planted(seed=5)
    forget = forget + own[:, 0]
    f, r = moments(forget), moments(retain)
    u, about = make_basis("leace", f, r, 1)
    made = Filter("post_norm", u, read=about["read"], offset=about["offset"])
    assert (f.mean - r.mean).norm() > 0.9
    torch.testing.assert_close(made(forget).mean(0), made(retain).mean(0), atol=1e-10, rtol=0)
    torch.testing.assert_close(made(made(forget)), made(forget))


def test_the_quadratic_gate_is_the_log_ratio_of_two_gaussians():
    forget, retain, _, _ = planted(seed=7)
    f, r = moments(forget), moments(retain)
    w, curve = quadratic(f, r)
    made = Filter("post_norm", orthonormal(16, 2), gate=w, curve=curve)
    x = normal(20, 16, seed=8)
    one, other = (
        torch.distributions.MultivariateNormal(m.mean, ridged(m.covariance)) for m in (f, r)
    )
    difference = made.score(x) - (one.log_prob(x) - other.log_prob(x))
    assert difference.std() < 1e-8 * made.score(x).abs().max()  # but for the constant
    made.threshold = threshold([made.score(retain)], 0.01)
    assert made.fires(retain).double().mean() <= 0.01 < made.fires(forget).double().mean()


def make_tuner(model, sites=("post_norm", "pre_norm", "block:1")):
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3 if p.ndim > 1 else 1)
    draw = torch.Generator().manual_seed(1)
    sets = {
        name: [
            FilterText(torch.randint(3, 48, (9 + i % 4,), generator=draw).tolist(), 4, i // 3, True)
            for i in range(12)
        ]
        for name in ("forget", "retain", "general", "unseen")
    }
    return tuning.Tuner(model, sets, 1, sites, 5)


@pytest.fixture(scope="module")
def tuner():
    return make_tuner(make_model("gpt_neox"))


def hooked_nll(tuner, made, name):
    """Mean answer NLL an example, from whole forward passes of the hooked model."""
    found = []
    with hooked(tuner.model, made), torch.no_grad():
        for example in tuner.caches[name].examples:
            logits = tuner.model(torch.tensor([example.ids])).logits[0].double().log_softmax(-1)
            rows = range(example.start - 1, len(example.ids) - 1)
            found.append(-sum(float(logits[i, example.ids[i + 1]]) for i in rows) / len(rows))
    return sum(found) / len(found)


@pytest.mark.parametrize("site", ["post_norm", "pre_norm", "block:1"])
def test_the_cache_gives_what_the_hooked_model_gives(tuner, site):
    made = Filter(site, orthonormal(32, 5, 3).float(), 0.6, gate=normal(32, seed=4).float())
    curve = tuner.curve(made)
    for a in (0.0, 0.6, 1.0):
        reading = curve(a)
        for name in ("forget", "retain"):
            assert reading[f"{name}_nll"] == pytest.approx(
                hooked_nll(tuner, made.at(a), name), abs=2e-5
            )
    assert curve(0.0)["retain_kl"] == pytest.approx(0, abs=1e-6) and curve(1.0)["retain_kl"] > 1e-3


# what these families do behind their unembedding is no small thing here
CHANGED_LOGITS = {
    "gemma2": {"final_logit_softcapping": 2.0},
    "cohere": {"logit_scale": 0.3},
    "granite": {},
}


@pytest.mark.parametrize("name", CHANGED_LOGITS)
def test_scaled_and_capped_logits_are_the_models(name):
    """Strengths are read on the logits that the model gives, and `loss` on their gradients."""
    model = make_family(name, vocab_size=48, pad_token_id=1, **CHANGED_LOGITS[name])
    check_unembedding(model)
    tuner = make_tuner(model, ["post_norm", "block:1"])
    for site in ("post_norm", "block:1"):
        made = Filter(site, orthonormal(32, 6).float())
        for a in (0.4, 1.0):
            told = tuner.curve(made)(a)["forget_nll"]
            assert told == pytest.approx(hooked_nll(tuner, made.at(a), "forget"), abs=2e-5)
    assert tuner.is_convex("post_norm") == (name != "gemma2")
    examples = tuner.caches["forget"].examples[:3]
    told = fit.gradients(model, {"forget": examples, "retain": examples}, 1)["forget"]
    rows = []
    for example in examples:
        read = []

        def leaf(h, read=read):
            read.append(h.detach().requires_grad_())
            return read[-1]

        with at_site(model, "post_norm", leaf):
            logprobs = model(torch.tensor([example.ids])).logits[0].log_softmax(-1)
        places = range(example.start - 1, len(example.ids) - 1)
        nll = -sum(logprobs[i, example.ids[i + 1]] for i in places)
        rows.append(torch.autograd.grad(nll, read[0])[0][0, list(places)])
    torch.testing.assert_close(told.mean.float(), torch.cat(rows).mean(0), rtol=1e-3, atol=1e-6)


def test_an_unknown_step_behind_the_unembedding_is_refused(monkeypatch):
    model = make_model("llama")
    check_unembedding(model)
    forward = type(model).forward

    def squared(self, **batch):
        output = forward(self, **batch)
        output.logits = output.logits**3
        return output

    monkeypatch.setattr(type(model), "forward", squared)
    with pytest.raises(UserError, match="llama does something behind its unembedding"):
        check_unembedding(model)
    projecting = make_family("opt, projected", vocab_size=48)
    with pytest.raises(UserError, match="opt projects its states from 32 to 16 numbers"):
        check_unembedding(projecting)


def test_post_norm_curves_are_convex_and_bisection_is_exact(tuner):
    """NLL and KL are convex in the strength and KL does not fall.

    The bisection's end is that of a grid of 10,001 points.
    """
    y, head = normal(6, 32, seed=9), normal(20, 32, seed=10)
    u, targets = orthonormal(32, 8, 11), torch.arange(6)
    z0, z1 = y @ head.T, (y @ u) @ u.T @ head.T
    base, grid = z0.log_softmax(-1), torch.linspace(0, 1, 10_001, dtype=torch.float64)
    nll, kl = zip(*(tuning.losses_of(z0 - a * z1, base, targets) for a in grid[::100]), strict=True)
    for curve in (torch.stack(nll).mean(1), torch.stack(kl).mean(1)):
        assert (curve[2:] - 2 * curve[1:-1] + curve[:-2] > -1e-9).all()
    mean = torch.stack(kl).mean(1)
    assert (mean.diff() >= -1e-12).all() and mean[0] == 0
    limit = float(mean[-1]) / 3

    def excess(a):
        return float(tuning.losses_of(z0 - a * z1, base, targets)[1].mean()) - limit

    found = strength.bisect(excess, 0, 1, 1e-5)
    allowed = [float(a) for a in grid if excess(a) <= 0]
    assert abs(found - max(allowed)) <= 1e-4
    made = Filter("post_norm", orthonormal(32, 8, 12).float())
    limits = Limits(tuner.read(made)["retain_kl"] / 2, 1e9)
    end = strength.within(tuner.curve(made), limits, convex=True)
    assert 0 < end < 1 and limits.excess(tuner.read(made.at(end))) <= 1e-6 < limits.excess(
        tuner.read(made.at(end + 1e-3))
    )


def test_golden_section_and_ties():
    assert strength.golden(lambda x: (x - 0.3) ** 2, 0, 1, 1e-4) == pytest.approx(0.3, abs=1e-4)
    logits = torch.tensor([[1.0, 1.0, 1.0], [3.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    share = tuning.beats(logits, torch.zeros(3, dtype=torch.long), torch.tensor([[1, 2]] * 3))
    torch.testing.assert_close(share, torch.tensor([1 / 3, 1.0, 0.0], dtype=torch.float64))


def test_states_are_those_that_predict_the_answer(tmp_path):
    model, tokenizer = make_model("llama"), make_tokenizer()
    path = write_texts(tmp_path / "t.txt", texts(20))
    examples = read_filter_texts(tokenizer, path, 1000, 64)
    x, following, owner = states(model, examples, tokenizer.pad_token_id, "block:0", 7)
    for i in (0, 7, 19):
        ids, start = examples[i].ids, examples[i].start
        assert following[owner == i].tolist() == ids[start:]
        with torch.no_grad():
            h = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][
                0, start - 1 : -1
            ]
        torch.testing.assert_close(x[owner == i], h, atol=1e-5, rtol=1e-4)
    found = collect(model, examples, tokenizer.pad_token_id, ["block:0"], 3)["block:0"]
    torch.testing.assert_close(found.mean, x.double().mean(0), atol=1e-5, rtol=1e-4)
    fit, tune = parted(examples)
    assert not {e.group for e in fit} & {e.group for e in tune} and len(fit) + len(tune) == 20
    jsonl = tmp_path / "t.jsonl"
    jsonl.write_text('{"question": "w1 w2", "choices": ["w3", "w4 w5"], "answer": 1}\n')
    (one,) = read_filter_texts(tokenizer, jsonl, 10, 64)
    assert one.asked and one.ids[one.start :] == tokenizer("w4 w5")["input_ids"]


def test_a_published_unembedding_gives_the_basis_away():
    """U is the row space of W' - W, so publishing W' publishes U.

    Names inside it are told from others by their energy.
    """
    u, weight = orthonormal(32, 4, 21), normal(48, 32, seed=22)
    made = Filter("post_norm", u, 0.5)
    found = published.recovered(weight, bake.folded(weight, made), 4)
    assert principal_angles(found, u)[-1] < 1e-6
    model, tokenizer = make_model("llama"), make_tokenizer()
    inside = [tokenizer.convert_tokens_to_ids(f"w{i}") for i in range(5)]
    with torch.no_grad():
        model.get_input_embeddings().weight[inside] = (normal(5, 4, seed=23) @ u.T).float()
    names, decoys = ([f"w{i}" for i in numbers] for numbers in (range(5), range(5, 30)))
    assert published.names_in(model, tokenizer, found, names, decoys).value == 1.0
    tokens = list(published.promoted(model, tokenizer, Filter("post_norm", u.float()), 3))
    assert len(tokens) == 4 * 2 * 3 and all(
        (r["logit"] > 0) == (r["side"] == "promoted") for r in tokens
    )
    items = [
        {"fact": f"forget/{n}/x", "question": f"Question: What is the den of {n}? Answer:"}
        for n in ("Abe", "Bob")
    ]
    assert published.entity_names(items) == ["Abe", "Bob"]


def test_wide_models_leading_directions_by_subspace_iteration():
    spread = torch.cat(
        [torch.linspace(40, 10, 8, dtype=torch.float64), torch.ones(52, dtype=torch.float64)]
    )
    basis = orthonormal(60, 60, 31)
    found = leading(basis @ spread.diag() @ basis.T, 8, exact=10)
    assert principal_angles(found, basis[:, :8])[-1] < 1e-3
