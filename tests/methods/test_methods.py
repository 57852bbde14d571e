"""Every method: closed forms at the start, gradients of the written formula, and that padding never
matters.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from brittle.base.errors import UserError
from brittle.methods import METHODS, adversary, terms
from brittle.methods.ngdiff import parabola_minimum
from brittle.methods.refusals import Refusals
from brittle.models import logprobs as logprobs_module
from brittle.models.blocks import blocks
from brittle.models.hooks import edit, hidden, residual_stream
from support import tiny
from support.started import batches, gradients, moved, start, total

torch.set_num_threads(1)


def logprobs(model, ids):
    """log p of one unpadded text's tokens, [T-1], straight from the definition."""
    x = torch.tensor([ids])
    return model(input_ids=x).logits[0, :-1].log_softmax(-1).gather(1, x[0, 1:, None])[:, 0]


def mean_nll(model, lists):
    return -torch.cat([logprobs(model, ids) for ids in lists]).mean()


# ------------------------------------------------------------------------------- what holds for all


READ_MODULES = {"cir", "mcu"}  # the states of linear modules


@pytest.mark.parametrize("kind", tiny.MAKE)
@pytest.mark.parametrize("name", METHODS)
def test_runs_on_every_architecture(name, kind):
    model = tiny.model(kind)
    if kind == "olmoe" and name in READ_MODULES:
        with pytest.raises(UserError, match="stacked experts"):
            start(name, model)
        return
    data = tiny.Data()
    rule = start(name, model, data=data)
    moved(model)
    losses = rule.losses(*batches(data), 0.5)
    assert all(t.ndim == 0 and torch.isfinite(t) for t in losses.values())
    total(losses).backward()
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
            assert padded[term].item() == pytest.approx(plain[term].item(), rel=1e-4, abs=1e-6), (
                term,
                padding,
            )


@pytest.mark.parametrize(
    "name", [m for m in METHODS if m not in ("tar", "mudman", "sam")]
)  # each micro-batch meets an adversary of its own
def test_two_micro_batches_are_one_batch(name):
    model, data = tiny.model(dtype=torch.float64), tiny.Data(batch_size=2, micro_batches=2)
    rule = start(name, model, data=data)
    moved(model)
    whole = tiny.Data(batch_size=4)
    pairs = zip(data.forget.batches(0), data.retain.batches(0), strict=True)
    parts = [gradients(model, total(rule.losses(f, r, 0.5)) / 2) for f, r in pairs]
    one = gradients(
        model, total(rule.losses(whole.forget.batches(0)[0], whole.retain.batches(0)[0], 0.5))
    )
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
    if name in ("rmu", "wt_dist", "tar", "idk"):
        assert terms(0, 3) != terms(1, 3)


def compares_with_the_start(name):
    """Does a loss of the method read the frozen starting model, at the knobs of `start`?"""
    return start(name, tiny.model()).needs_reference


WITH_REFERENCE = [name for name in METHODS if compares_with_the_start(name)]


def test_methods_that_compare_with_the_start():
    assert {"kl_min", "rmu", "cb", "task_vector", "tar"} <= set(WITH_REFERENCE)
    assert not {"ga", "npo", "sequential"} & set(WITH_REFERENCE)


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_reference_stays(name):
    model, data = tiny.model(), tiny.Data()
    rule = start(name, model, data=data)
    batch = batches(data)[0]
    with rule.reference as frozen:
        before = frozen(**batch).logits
        assert not before.requires_grad
        assert not any(p.requires_grad for p in rule.reference.trained)
    total(rule.losses(*batches(data), 0.5)).backward()
    moved(model)
    with rule.reference as frozen:
        assert torch.equal(frozen(**batch).logits, before)
    assert not torch.equal(model(**batch).logits, before)


# ------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("name", ["ga", "grad_diff"])
def test_gradient_difference_is_the_difference_of_nlls(name):
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    rule = start(name, model, data=data, forget_weight=0.7, retain_weight=2.0)
    terms = rule.losses(*batches(data), 0.0)
    written = {
        "forget": -0.7 * mean_nll(model, data.forget.ids[:4]),
        "retain": 2 * mean_nll(model, data.retain.ids[:4]),
    }
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
    """d/dtheta = mean over texts of 2 r^beta / (1 + r^beta) d log p, r = p / p_ref (Zhang et al.
    2024, eq. 5).
    """
    model, data, beta = tiny.model(dtype=torch.float64), tiny.Data(), 0.3
    rule = start("npo", model, data=data, beta=beta, retain_weight=0.0)
    before = [logprobs(model, i).sum().item() for i in data.forget.ids[:4]]
    moved(model)
    got = gradients(model, total(rule.losses(*batches(data), 0.0)))
    now = [logprobs(model, i).sum() for i in data.forget.ids[:4]]
    ratios = [math.exp(n.item() - b) for n, b in zip(now, before, strict=True)]
    weights = [2 * r**beta / (1 + r**beta) for r in ratios]
    for a, b in zip(
        got,
        gradients(model, sum(w * n for w, n in zip(weights, now, strict=True)) / 4),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_npo_becomes_gradient_ascent_as_beta_goes_to_zero():
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    rule = start("npo", model, data=data, beta=1e-6, retain_weight=0.0)
    moved(model)
    got = torch.cat(
        [g.flatten() for g in gradients(model, total(rule.losses(*batches(data), 0.0)))]
    )
    ascent = gradients(model, sum(logprobs(model, i).sum() for i in data.forget.ids[:4]) / 4)
    assert F.cosine_similarity(got, torch.cat([g.flatten() for g in ascent]), dim=0) > 1 - 1e-6


@pytest.mark.parametrize(
    "name, knobs, term",
    [
        ("rmu", {}, "retain"),
        ("cb_lat", {}, "retain"),
        ("cb", {}, "retain"),
        ("cb", {"variant": "readme"}, "retain"),
        ("kl_min", {}, "retain"),
        ("ga", {"retain_loss": "l2"}, "retain"),
        ("npo", {"retain_loss": "kl"}, "retain"),
        ("wt_dist_reg", {}, "distance"),
        ("wt_dist_reg", {"variant": "readme"}, "distance"),
    ],
)
def test_what_compares_with_the_start_starts_at_zero(name, knobs, term):
    model, data = tiny.model(), tiny.Data()
    rule = start(name, model, data=data, **knobs)
    for progress in (0.0, 0.5, 1.0):
        assert rule.losses(*batches(data), progress)[term].item() == pytest.approx(0, abs=1e-6)
    moved(model)
    assert abs(rule.losses(*batches(data), 0.5)[term].item()) > 1e-4


def test_kl_and_l2_retain_terms_against_their_formulas():
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    rules = {
        kind: start("ga", model, data=data, retain_loss=kind, retain_weight=3.0)
        for kind in ("kl", "l2")
    }

    def outputs():
        return [
            model(input_ids=torch.tensor([i]), output_hidden_states=True)
            for i in data.retain.ids[:4]
        ]

    before = [
        (
            o.logits.detach()[0].log_softmax(-1),
            [h.detach() for h in residual_stream(model, {"input_ids": torch.tensor([i])})[1:]],
        )
        for o, i in zip(outputs(), data.retain.ids[:4], strict=True)
    ]
    moved(model)
    now = [
        (o.logits[0].log_softmax(-1), residual_stream(model, {"input_ids": torch.tensor([i])})[1:])
        for o, i in zip(outputs(), data.retain.ids[:4], strict=True)
    ]
    pairs = list(zip(before, now, strict=True))
    written = {
        "kl": 3 * torch.cat([(p.exp() * (p - q)).sum(-1) for (p, _), (q, _) in pairs]).mean(),
        "l2": 3
        * torch.stack(
            [
                torch.cat([(y[k] - x[k]).norm(dim=-1)[0] for (_, x), (_, y) in pairs]).mean()
                for k in range(3)
            ]
        ).mean(),
    }
    for kind, rule in rules.items():
        term = rule.losses(*batches(data), 0.0)["retain"]
        assert term.item() == pytest.approx(written[kind].item(), rel=1e-7)
        for a, b in zip(gradients(model, term), gradients(model, written[kind]), strict=True):
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "name, terms", [("ga_simple", {"forget"}), ("kl_min", {"forget", "retain"})]
)
def test_gradient_ascent_is_minus_the_nll(name, terms):
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    losses = start(name, model, data=data).losses(*batches(data), 0.0)
    written = -mean_nll(model, data.forget.ids[:4]).item()
    assert losses["forget"].item() == pytest.approx(written, rel=1e-9) and set(losses) == terms


def test_npo_readme_divides_by_the_length():
    model, data, beta = tiny.model(dtype=torch.float64), tiny.Data(), 0.5
    rule = start("npo", model, data=data, beta=beta, variant="readme")
    before = [logprobs(model, i).mean() for i in data.forget.ids[:4]]
    moved(model)
    now = [logprobs(model, i).mean() for i in data.forget.ids[:4]]
    written = (
        sum(-2 / beta * F.logsigmoid(-beta * (n - b)) for n, b in zip(now, before, strict=True)) / 4
    )
    assert rule.losses(*batches(data), 0.0)["forget"].item() == pytest.approx(
        written.item(), rel=1e-5
    )


def test_simnpo_against_its_formula_and_indifferent_to_length():
    model, data, beta, gamma = tiny.model(dtype=torch.float64), tiny.Data(), 2.5, 0.3
    rule = start(
        "simnpo", model, data=data, beta=beta, gamma=gamma, forget_weight=0.5, retain_weight=0.0
    )
    now = [logprobs(model, i).mean() for i in data.forget.ids[:4]]
    written = sum(-0.5 * 2 / beta * F.logsigmoid(-beta * n - gamma) for n in now) / 4
    got = rule.losses(*batches(data), 0.0)
    assert total(got).item() == pytest.approx(written.item(), rel=1e-9)
    # the gradient is that of log p / |y| with weight 2 sigmoid(beta log p / |y| + gamma)
    weighted = sum(0.5 * 2 * torch.sigmoid(beta * n.detach() + gamma) * n for n in now) / 4
    for a, b in zip(gradients(model, total(got)), gradients(model, weighted), strict=True):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-10)


def test_maximum_entropy_is_zero_at_the_uniform_distribution_alone():
    model, data = tiny.model(), tiny.Data()
    rule = start("me", model, data=data, forget_weight=1.0)
    logits = torch.cat([model(input_ids=torch.tensor([i])).logits[0] for i in data.forget.ids[:4]])
    p = logits.softmax(-1)
    uniform = torch.full_like(p, 1 / tiny.VOCAB)
    written = (uniform * (uniform.log() - p.log())).sum(-1).mean()
    assert rule.losses(*batches(data), 0.0)["forget"].item() == pytest.approx(
        written.item(), rel=1e-4
    )
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    assert rule.losses(*batches(data), 0.0)["forget"].item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("variant", ["paper", "readme"])
def test_dpo_starts_at_ln_two_and_follows_its_formula(variant):
    model, data, beta = tiny.model(dtype=torch.float64), tiny.Data(), 0.4
    rule = start("dpo", model, data=data, beta=beta, variant=variant, retain_weight=0.0)
    assert rule.losses(*batches(data), 0.0)["preference"].item() == pytest.approx(
        math.log(2), rel=1e-5
    )
    chosen = rule.refused.ids if variant == "paper" else data.retain.ids

    def scores(lists):
        return [
            logprobs(model, i).sum() / (1 if variant == "paper" else len(i) - 1) for i in lists[:4]
        ]

    before = [[s.item() for s in scores(lists)] for lists in (chosen, data.forget.ids)]
    moved(model)
    gains = [
        [s - b for s, b in zip(scores(lists), old, strict=True)]
        for lists, old in zip((chosen, data.forget.ids), before, strict=True)
    ]
    written = -sum(F.logsigmoid(beta * (good - bad)) for good, bad in zip(*gains, strict=True)) / 4
    terms = rule.losses(*batches(data), 0.0)
    got = terms["preference"]
    assert got.item() == pytest.approx(written.item(), rel=1e-5)
    assert set(terms) - {"preference"} == ({"retain"} if variant == "paper" else set())
    for a, b in zip(gradients(model, got), gradients(model, written), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-7)


def test_a_token_mean_of_one_token_and_of_none():
    """A text of two tokens has the mean of its one prediction, a text of one token has none: 0."""
    model, texts = tiny.model(dtype=torch.float64), [[3], [4, 5], [6, 7, 8], [9]]
    written = [0.0, *(logprobs(model, i).mean().item() for i in texts[1:3]), 0.0]
    data = tiny.Data(forget=texts, retain=texts)
    for name in ("npo", "dpo"):
        a_token = start(name, model, data=data, variant="readme").logprobs(batches(data)[0])
        assert a_token.tolist() == pytest.approx(written, rel=1e-6)
    got = start("simnpo", model, data=data, beta=0.7).losses(*batches(data), 0.0)["forget"]
    preference = -2 / 0.7 * F.logsigmoid(-0.7 * torch.tensor(written, dtype=torch.float64)).mean()
    assert got.item() == pytest.approx(preference.item(), rel=1e-6)


def test_refusals_keep_the_prompt_and_only_the_reply_counts():
    data = tiny.Data(forget=[[5, 6, 2, 9, 9], [5, 6, 7, 8]])
    made = Refusals("", data.forget, data.tokenizer, 0)
    assert made.starts == [3, 2]  # behind the question mark; else half
    assert [i[:s] for i, s in zip(made.ids, made.starts, strict=True)] == [[5, 6, 2], [5, 6]]
    batch = made.batch(data.forget.batches(0)[0])
    assert batch.reply.sum(1).tolist() == [
        len(made.ids[i]) - made.starts[i] for i in batch.index.tolist()
    ]
    model = tiny.model(dtype=torch.float64)
    rule = start("idk", model, data=data)
    one = data.forget.batches(0)[0]
    written = [
        logprobs(model, rule.refused[0].ids[i])[rule.refused[0].starts[i] - 1 :].mean()
        for i in one.index.tolist()
    ]
    assert rule.losses(one, data.retain.batches(0)[0], 0.0)["forget"].item() == pytest.approx(
        -sum(written).item() / 4, rel=1e-9
    )


def test_answer_preservation_vanishes_where_the_refusal_is_hopeless():
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    rule = start("idk", model, data=data, beta=0.5)
    ids, refused = data.retain.ids[:4], rule.refused[1].ids[:4]
    gaps = [
        logprobs(model, r).sum() - logprobs(model, i).sum()
        for i, r in zip(ids, refused, strict=True)
    ]
    written = -sum(F.logsigmoid(-0.5 * g) for g in gaps) / 4 / 0.5
    assert rule.losses(*batches(data), 0.0)["retain"].item() == pytest.approx(
        written.item(), rel=1e-6
    )


def test_both_sets_draw_their_refusals_by_the_seed():
    data = tiny.Data()
    drawn = [[r.ids for r in start("idk", tiny.model(), seed, data).refused] for seed in (0, 5)]
    assert drawn[0][0] != drawn[1][0] and drawn[0][1] != drawn[1][1]


def test_an_empty_refusal_file_is_refused(tmp_path):
    (tmp_path / "none.txt").write_text("\n \n")
    for name in ("dpo", "idk"):
        with pytest.raises(UserError, match="holds no text"):
            start(name, tiny.model(), refusals=str(tmp_path / "none.txt"))


def test_circuit_breaker_readme_against_its_formula():
    model, data, alpha = tiny.model(dtype=torch.float64), tiny.Data(), 2.0
    rule = start("cb", model, data=data, variant="readme", alpha=alpha, layer_id=(0, 1))

    def states(stream):
        streams = [residual_stream(model, {"input_ids": torch.tensor([i])}) for i in stream.ids[:4]]
        return {k: torch.cat([s[k + 1][0] for s in streams]) for k in (0, 1)}

    before = {k: h.detach() for k, h in states(data.retain).items()}
    moved(model)
    forget, retain = states(data.forget), states(data.retain)
    cos = F.cosine_similarity
    written = {
        "forget": -sum(
            cos(forget[k], rule.target[k].double()[None], dim=-1).mean() for k in (0, 1)
        ),
        "retain": alpha * sum((1 - cos(retain[k], before[k], dim=-1)).mean() for k in (0, 1)),
    }
    got = rule.losses(*batches(data), 0.7)
    for key in written:
        assert got[key].item() == pytest.approx(written[key].item(), rel=1e-6)


def test_circuit_breaker_paper_against_its_formula():
    """The retain term reads every block up to and with the deepest one that is rerouted."""
    model, data, progress = tiny.model(dtype=torch.float64, layers=4), tiny.Data(), 0.6
    rule = start("cb", model, data=data, alpha=6.0, retain_alpha=3.0, layer_id=(0, 2))

    def states(stream):
        streams = [residual_stream(model, {"input_ids": torch.tensor([i])}) for i in stream.ids[:4]]
        return {k: torch.cat([s[k + 1][0] for s in streams]) for k in (0, 1, 2)}

    before = {name: states(getattr(data, name)) for name in ("forget", "retain")}
    before = {name: {k: h.detach() for k, h in of.items()} for name, of in before.items()}
    moved(model)
    forget, retain = states(data.forget), states(data.retain)
    near = [F.cosine_similarity(forget[k], before["forget"][k], dim=-1).relu() for k in (0, 2)]
    far = [(retain[k] - before["retain"][k]).norm(dim=-1).mean() for k in (0, 1, 2)]
    written = {
        "forget": 6 * (1 - progress / 2) * sum(c.mean() for c in near) / 2,
        "retain": 3 * progress / 2 * sum(far) / 3,
    }
    got = rule.losses(*batches(data), progress)
    for key in written:
        assert got[key].item() == pytest.approx(written[key].item(), rel=1e-6)


def test_lat_without_steps_is_its_outer_loss_and_the_adversary_makes_it_worse():
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    p = torch.cat([logprobs(model, i) for i in data.forget.ids[:4]]).exp()
    calm = start("lat", model, data=data, lat_steps=0).losses(*batches(data), 0.0)
    assert calm["forget"].item() == pytest.approx(-(1 - p).log().mean().item(), rel=1e-6)
    for variant in ("paper", "readme"):
        values = [
            start("lat", model, data=data, lat_steps=n, variant=variant, lat_eps=0.1).losses(
                *batches(data), 0.0
            )
            for n in (0, 4)
        ]
        assert (
            values[1]["forget"] > values[0]["forget"] and values[1]["retain"] == values[0]["retain"]
        )


def test_lat_attacks_inside_the_ball_of_its_variant():
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    forget, retain = batches(data)
    for variant, norm in (("paper", "l2"), ("readme", "linf")):
        rule = start("lat", model, data=data, variant=variant, lat_layer=1, lat_steps=2)
        delta = adversary.attack(model, forget, 1, rule.lat_eps, 2, norm)
        with edit(model, {1: lambda h, delta=delta: h + delta}):
            logits = model(**forget).logits
            p = logprobs_module.token_logprobs(logits, forget["input_ids"]).exp()
            away = {
                "paper": logprobs_module.target_mean(-(1 - p).log(), forget),
                "readme": logprobs_module.target_mean(p.log(), forget),
            }
        got = rule.losses(forget, retain, 0.0)["forget"]
        assert got.item() == pytest.approx(away[variant].item(), rel=1e-6)


def test_lat_is_finite_where_the_model_is_certain():
    """p = 1 in float32: -log(1 - p) would be infinite; it ends at -log of 1e-6."""
    model = tiny.model()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e4)
        ids = [3]
        for _ in range(5):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    data = tiny.Data(forget=[ids] * 4)
    got = start("lat", model, data=data, lat_steps=0).losses(*batches(data), 0.0)["forget"]
    assert got.item() == pytest.approx(-math.log(1e-6), rel=1e-3)


def test_weight_distortion_draws_the_noise_that_it_says():
    plain = [p.detach().clone() for p in tiny.model(width=64).parameters()]
    for unit, std in (("absolute", 0.05), ("rms", 0.5)):
        model = tiny.model(width=64)
        start("wt_dist", model, wt_noise_std=std, wt_noise_unit=unit)
        for p, before in zip(model.parameters(), plain, strict=True):
            if p.numel() > 1000:
                expected = std if unit == "absolute" else std * before.pow(2).mean().sqrt().item()
                assert (p - before).std().item() == pytest.approx(expected, rel=0.1)


def test_weight_distance_against_its_formula_and_its_cap():
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    rules = {
        v: start("wt_dist_reg", model, data=data, variant=v, wt_reg_lambda=0.5)
        for v in ("normalised", "readme")
    }
    capped = start("wt_dist_reg", model, data=data, wt_reg_lambda=0.5, wt_reg_cap=0.01)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    moved(model)
    now = torch.cat([p.flatten() for p in model.parameters()])
    written = {
        "normalised": -0.5 * (now - before).norm() / before.norm(),
        "readme": -0.5 * (now - before).pow(2).sum(),
    }
    for variant, rule in rules.items():
        got = rule.losses(*batches(data), 0.0)["distance"]
        assert got.item() == pytest.approx(written[variant].item(), rel=1e-9)
        for a, b in zip(gradients(model, got), gradients(model, written[variant]), strict=True):
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-9)
    assert capped.losses(*batches(data), 0.0)["distance"].item() == pytest.approx(-0.005)


def test_ngdiff_descends_on_retain_and_ascends_on_forget_at_any_scale():
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    rule = start("ngdiff", model, data=data, lr_probe_every=0)
    terms = rule.losses(*batches(data), 0.0)
    parts = {k: gradients(model, v) for k, v in terms.items()}
    flat = {k: torch.cat([x.flatten() for x in g]) for k, g in parts.items()}
    thousand = {
        "retain": [x.clone() for x in parts["retain"]],
        "forget": [1000 * x for x in parts["forget"]],
    }
    g = torch.cat([x.flatten() for x in rule.combine(parts, 0.1)])
    cos = F.cosine_similarity(flat["retain"], flat["forget"], dim=0)
    assert (g @ flat["retain"]).item() == pytest.approx(
        ((1 - cos) * flat["retain"].norm()).item(), rel=1e-6
    )
    assert (g @ flat["forget"]).item() == pytest.approx(
        (-(1 - cos) * flat["forget"].norm()).item(), rel=1e-6
    )
    scaled = rule.combine(thousand, 0.1)
    assert torch.allclose(torch.cat([x.flatten() for x in scaled]), g, rtol=1e-9)


def test_ngdiff_rate_is_the_parabolas_minimiser():
    for a, b, c in ((2.0, -3.0, 1.0), (0.5, -0.1, 0.0)):
        assert parabola_minimum(*(a * t * t + b * t + c for t in (-1, 0, 1))) == pytest.approx(
            -b / (2 * a)
        )
    assert parabola_minimum(-1.0, 0.0, -1.0) is None and parabola_minimum(0.0, 1.0, 4.0) is None
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    rule = start("ngdiff", model, data=data, lr_probe_every=1)
    rule.losses(*batches(data), 0.0)
    before = [p.detach().clone() for p in model.parameters()]
    parts = {k: gradients(model, v) for k, v in rule.losses(*batches(data), 0.0).items()}
    rule.combine(parts, 1e-3)
    assert rule.state["calls"] == 1 and rule.state["scale"] > 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_ngdiff_probes_ahead_of_its_own_step():
    """The point 1 of the parabola lies one step ahead, theta - lr g, the point -1 behind.

    The step is the rate times what earlier measurements made of it: here half of twice the rate.
    """
    model, data, lr = tiny.model(dtype=torch.float64), tiny.Data(), 3.0
    rule = start("ngdiff", model, data=data, lr_probe_every=1)
    forget, retain = batches(data)
    parts = {k: gradients(model, v) for k, v in rule.losses(forget, retain, 0.0).items()}
    length = {k: torch.cat([x.flatten() for x in g]).norm() for k, g in parts.items()}
    g = [
        r / length["retain"] - f / length["forget"]
        for r, f in zip(parts["retain"], parts["forget"], strict=True)
    ]
    before = [p.detach().clone() for p in model.parameters()]
    losses = {}
    for steps in (-1, 0, 1):
        with torch.no_grad():
            for p, start_value, x in zip(model.parameters(), before, g, strict=True):
                p.copy_(start_value - steps * lr * x)
        losses[steps] = mean_nll(model, data.retain.ids[:4]).item()
    with torch.no_grad():
        for p, start_value in zip(model.parameters(), before, strict=True):
            p.copy_(start_value)
    assert losses[1] < losses[0] < losses[-1]
    curve = torch.tensor([losses[-1], losses[0], losses[1]], dtype=torch.float64)
    a, b = (curve[0] + curve[2]) / 2 - curve[1], (curve[2] - curve[0]) / 2
    least = (-b / (2 * a)).item()
    assert 0 < least < 2 and least != pytest.approx(1, abs=0.05)
    rule.state["scale"] = 0.5
    rule.combine(parts, 2 * lr)
    assert rule.state["scale"] == pytest.approx(least / 2, rel=1e-6)


@pytest.mark.parametrize(
    "steps, every, measured", [(1, 1, [0]), (5, 2, [1, 3]), (2, 4, [1])], ids=["1", "5", "2"]
)
def test_tar_is_the_first_order_gradient_at_the_attacked_weights(steps, every, measured):
    """Every `every`-th step of the adversary is measured, the last one where there is no such."""
    model, data, decay = tiny.model(dtype=torch.float64), tiny.Data(), 0.5
    knobs = {"attack_steps": steps, "attack_every": every, "attack_decay": decay}
    rule = start("tar", model, data=data, tamper_weight=2.0, **knobs)
    before = [p.detach().clone() for p in model.parameters()]
    forget, retain = batches(data)
    value = rule.losses(forget, retain, 0.0)["tamper"]
    got = gradients(model, value)
    assert all(torch.equal(a, p) for a, p in zip(before, model.parameters(), strict=True))
    noise = torch.Generator().manual_seed(sum(forget.index.tolist()))
    draw = torch.randint(1 << 30, (2,), generator=noise).tolist()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    written, wanted = 0.0, [torch.zeros_like(p) for p in before]
    for i in range(steps):
        nll = logprobs_module.nll(model, data.forget.batches(draw[1] % 100_003 + i)[0])
        for p, g in zip(model.parameters(), gradients(model, nll), strict=True):
            p.grad = g
        optimizer.step()
        if i in measured:
            weight = 2 * math.exp(decay * (i - steps + 1)) / len(measured)
            term = -weight * rule.entropy(forget)
            written += term.item()
            for w, g in zip(wanted, gradients(model, term), strict=True):
                w.add_(g)
    assert value.item() == pytest.approx(written, rel=1e-9)
    for a, b in zip(got, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_tars_retain_term_is_the_nll_and_the_distance():
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    rule = start("tar", model, data=data, retain_weight=3.0)
    with torch.no_grad():  # away from the reference, so that the distance is not 0
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    forget, retain = batches(data)
    nll = logprobs_module.nll(model, retain).item()
    distance = terms.hidden_distance(model, retain, rule.reference).item()
    assert distance > 1e-3
    value = rule.losses(forget, retain, 0.0)["retain"].item()
    assert value == pytest.approx(3 * (nll + distance), rel=1e-9)


def test_tars_adversary_leaves_accumulated_gradients_alone():
    model, data = tiny.model(), tiny.Data()
    rule = start("tar", model, data=data)
    for p in model.parameters():
        p.grad = torch.full_like(p, 2.0)
    rule.losses(*batches(data), 0.0)
    assert all((p.grad == 2).all() for p in model.parameters())


def tuned(model, rule, rates=(1.0,)):
    """Fake fine-tunings: the k-th adds rates[k] x an own pattern. Returns the patterns."""
    patterns = [
        [
            torch.randn(p.shape, generator=torch.Generator().manual_seed(7 + k))
            for p in model.parameters()
        ]
        for k in range(len(rates))
    ]

    def loop(lr_scale=1.0, offset=0):
        with torch.no_grad():
            for p, x in zip(model.parameters(), patterns[offset], strict=True):
                p.add_(x)
        return [{"step": 1, "forget": 0.0}]

    return patterns, rule.fit(loop)


def test_task_vector_is_subtracted_and_negmerge_of_one_is_it():
    results = {}
    for name, more in (("task_vector", {}), ("negmerge", {"tunings": 1})):
        model = tiny.model()
        before = [p.detach().clone() for p in model.parameters()]
        rule = start(name, model, task_scale=0.5, **more)
        (patterns,), _ = tuned(model, rule)
        results[name] = [p.detach() for p in model.parameters()]
        for p, b, x in zip(model.parameters(), before, patterns, strict=True):
            assert torch.allclose(p, b - 0.5 * x, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(*results.values(), strict=True))


def test_negmerge_keeps_what_all_tunings_agree_on():
    model = tiny.model()
    before = [p.detach().clone() for p in model.parameters()]
    rule = start("negmerge", model, tunings=3)
    patterns, history = tuned(model, rule, (1, 1, 1))
    assert [row["step"] for row in history] == [1, 2, 3]
    for n, (p, b) in enumerate(zip(model.parameters(), before, strict=True)):
        stack = torch.stack([pattern[n] for pattern in patterns])
        agree = (stack > 0).all(0) | (stack < 0).all(0)
        assert torch.equal(p[~agree], b[~agree])
        assert torch.allclose(p[agree], (b - stack.mean(0))[agree], atol=1e-5)


def test_rmu_against_its_formula_and_only_down_projections_train():
    model, data, c, alpha = tiny.model(dtype=torch.float64, layers=5), tiny.Data(), 3.0, 7.0
    rule = start("rmu", model, data=data, layer_id=(3,), steering_coeff=c, alpha=alpha)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained == [f"gpt_neox.layers.{k}.mlp.dense_4h_to_h.weight" for k in (1, 2, 3)]
    u = rule.target[3]
    assert u.norm().item() == pytest.approx(c, rel=1e-6) and (u > 0).all()
    before = [
        model(input_ids=torch.tensor([i]), output_hidden_states=True).hidden_states[4].detach()
        for i in data.retain.ids[:4]
    ]
    moved(model)

    def states(lists):
        return [
            model(input_ids=torch.tensor([i]), output_hidden_states=True).hidden_states[4]
            for i in lists
        ]

    forget = torch.cat(states(data.forget.ids[:4]), 1)[0]
    retain = torch.cat(states(data.retain.ids[:4]), 1)[0]
    written = {
        "forget": (forget - u).pow(2).mean(),
        "retain": alpha * (retain - torch.cat(before, 1)[0]).pow(2).mean(),
    }
    terms = rule.losses(*batches(data), 0.3)
    for key in written:
        assert terms[key].item() == pytest.approx(written[key].item(), rel=1e-6)
    for a, b in zip(gradients(model, total(terms)), gradients(model, total(written)), strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-9)


def test_cb_lat_forget_starts_at_its_schedule_without_an_adversary():
    """Without a perturbation the states are the reference's: cosine 1, so forget = alpha (1 -
    progress / 2).
    """
    model, data = tiny.model(), tiny.Data()
    rule = start("cb_lat", model, data=data, alpha=6.0, lat_steps=0)
    for progress in (0.0, 0.5, 1.0):
        assert rule.losses(*batches(data), progress)["forget"].item() == pytest.approx(
            6 * (1 - progress / 2), rel=1e-5
        )


@pytest.mark.parametrize("name", ["rmu", "cb_lat"])
def test_blocks_above_the_deepest_one_never_run(name):
    model, data, calls = tiny.model(layers=5), tiny.Data(), []
    rule = start(
        name, model, data=data, layer_id=(1, 2), **({"lat_steps": 0} if name == "cb_lat" else {})
    )
    for k, block in enumerate(blocks(model)):
        block.register_forward_pre_hook(lambda *_, k=k: calls.append(k))
    rule.losses(*batches(data), 0.5)
    assert max(calls) == 2


def test_losses_agree_with_the_models_own():
    for kind in tiny.MAKE:
        model, batch = tiny.model(kind), tiny.batch(tiny.ids(5), extra=3)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        with torch.no_grad():
            assert logprobs_module.nll(model, batch).item() == pytest.approx(
                model(**batch, labels=labels).loss.item(), rel=1e-5
            )


def test_rmu_in_norms_measures_the_states_of_its_block():
    """Its target is as many times as long as a state is on average, padding left out."""
    model = tiny.model()
    data = tiny.Data()
    rule = start("rmu", model, data=data, steering_unit="norm", steering_coeff=3.0, layer_id=(0, 2))
    norms = {0: [], 2: []}
    for batch in data.forget.batches(0):
        states = hidden(model, batch, (0, 2))
        for k, values in norms.items():
            lengths = states[k].detach().norm(dim=-1)
            values += lengths[batch["attention_mask"].bool()].tolist()
    for k, values in norms.items():
        assert float(rule.target[k].norm()) == pytest.approx(
            3 * sum(values) / len(values), rel=1e-5
        )
    assert norms[0] != norms[2]
