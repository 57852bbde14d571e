"""Selective updates: repselect, cir, mcu and mudman against what their definitions imply."""

import types

import pytest
import torch

from brittle.base.errors import UserError
from brittle.maths.linalg import norm_of
from brittle.methods import directions, method_class, repselect
from brittle.methods.directions import basis_of, inner_mask, without
from brittle.methods.wrappers import Wrappers
from brittle.models.logprobs import nll
from support import tiny
from support.started import batches, gradients, moved, start

torch.set_num_threads(1)
S = torch.tensor([8.0, 5.0, 3.0, 2.0, 1.0, 0.5], dtype=torch.float64)
Q = 4
LAST = S[Q - 1]


def diagonal(values):
    """[8, 6] with these singular values on the diagonal."""
    return torch.cat([torch.diag(values), torch.zeros(2, len(values), dtype=values.dtype)])


# ------------------------------------------------------------------------------------- repselect


@pytest.mark.parametrize(
    ("mode", "sides", "leading"),
    [
        ("soft", "output", LAST + 0 * S),
        ("soft", "input", LAST + 0 * S),
        ("soft", "both", LAST**2 / S),
        ("quadratic", "both", LAST**4 / S**3),
        ("quadratic", "input", LAST**2 / S),
        ("hard", "output", 0 * S),
        ("none", "both", S),
    ],
)
def test_leading_directions_get_the_weights_of_the_reference(mode, sides, leading):
    g = diagonal(S)
    turned = repselect.turned_over(g, g, Q, mode, sides)
    wanted = torch.where(torch.arange(6) < Q, leading, S)
    assert torch.allclose(turned, diagonal(wanted), atol=1e-9)


def test_directions_may_be_of_another_gradient():
    g = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = torch.zeros(5, 7, dtype=torch.float64)
    other[2, 3] = 2.0  # one direction: row 2 on the output side, column 3 on the input side
    turned = repselect.turned_over(g, other, 1, "hard", "output")
    assert turned[2].abs().max() < 1e-9 and torch.allclose(turned[[0, 1, 3, 4]], g[[0, 1, 3, 4]])
    turned = repselect.turned_over(g, other, 1, "hard", "both")
    assert turned[:, 3].abs().max() < 1e-9 and turned[2].abs().max() < 1e-9


def test_a_smallest_value_of_zero_is_floored():
    s = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    assert repselect.weights_of(s, "soft").tolist() == pytest.approx([1e-6, 2e-6, 1])
    assert repselect.weights_of(0 * s, "soft").tolist() == [1, 1, 1]


def never(lr_scale=1.0, offset=None):
    """The loop of a method that leaves it out."""
    raise AssertionError


def fit(data, loop=never, model=None, **knobs):
    """(model before, model after `fit`) of repselect."""
    model = model or tiny.model(dtype=torch.float64)
    rule = start("repselect", model, data=data, **knobs)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    history = rule.fit(loop)
    return before, model, history


def test_without_collapse_it_is_one_step_of_gradient_ascent():
    data = tiny.Data()
    before, model, history = fit(data, recall_rank=0, collapse="none", step_length=0.3)
    whole = tiny.model(dtype=torch.float64)
    loss = nll(whole, tiny.batch(data.forget.ids))
    loss.backward()
    for name, p in whole.named_parameters():
        step = 0.3 * p.grad if ".mlp." in name and p.ndim == 2 else 0
        assert torch.allclose(model.get_parameter(name), before[name] + step, atol=1e-10), name
    assert [row["step"] for row in history] == [1]


def test_a_mask_of_entries_does_not_fit_one_step():
    with pytest.raises(UserError, match="repselect makes one step from a gradient"):
        Wrappers(weight_mask="wagle").check("repselect", method_class("repselect")())


def test_an_empty_forget_set_moves_nothing():
    data = tiny.Data()
    data.forget = types.SimpleNamespace(examples=[], pad_id=tiny.PAD)
    before, model, _ = fit(data, recall_rank=0)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize("kind", ["gpt2", "llama", "olmoe"])
def test_adapters_recall_and_are_gone_afterwards(kind):
    model, data = tiny.model(kind), tiny.Data()
    names = [name for name, _ in model.named_parameters()]
    batch = tiny.batch(data.forget.ids)
    losses = []

    def loop():
        """Plain gradient descent of what trains: the adapters, where modules take any."""
        trained = [p for p in model.parameters() if p.requires_grad]
        for _ in range(20):
            loss = nll(model, batch)
            losses.append(loss.item())
            for p, g in zip(trained, torch.autograd.grad(loss, trained), strict=True):
                p.data.sub_(0.5 * g)
        return [{"step": 20}]

    before, model, history = fit(data, loop, model, components=3, step_length=0.1)
    assert [name for name, _ in model.named_parameters()] == names
    if kind == "olmoe":  # its experts are stacks
        assert not losses and len(history) == 1
    else:
        assert losses[-1] < losses[0] and len(history) == 2
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed and all("mlp" in n or "experts" in n for n in changed)


# ------------------------------------------------------------------------------------ directions


def test_a_basis_is_orthonormal_and_holds_mean_and_leading_components():
    from brittle.maths.moments import Moments

    states = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    states[:, 2] *= 9
    states[:, 4] += 20
    basis = basis_of(Moments(6).update(states), 2)
    assert torch.allclose(basis.mT @ basis, torch.eye(2), atol=1e-6)
    kept = without(torch.eye(6), basis)
    assert kept[2].norm() < 0.05 and kept[4].norm() < 0.05 and kept[0].norm() > 0.95
    assert without(states, basis_of(Moments(6).update(states), 0)) is states


def test_first_and_last_tokens_and_padding_do_not_count():
    texts = [[5, 6, 7, 8], [5, 6], [5, 6, 7]]
    assert inner_mask(tiny.batch(texts)).int().tolist() == [[0, 1, 1, 0], [0] * 4, [0, 1, 0, 0]]
    left = inner_mask(tiny.batch(texts, left=True)).int().tolist()
    assert left == [[0, 1, 1, 0], [0] * 4, [0, 0, 1, 0]]


def collapsed_gradients(model, rule, batch, bases, counted):
    """Gradients of the trained weights of a loss over all logits, with directions taken out."""
    with directions.collapsed(rule.modules, bases, counted):
        loss = (model(**batch).logits.square().mean(-1) * counted).sum()
    return gradients(model, loss)


@pytest.mark.parametrize("kind", ["gpt_neox", "gpt2", "llama"])
def test_no_directions_leave_ordinary_backprop_and_some_are_gone_from_both_sides(kind):
    model, data = tiny.model(kind), tiny.Data()
    rule = start("cir", model, data=data)
    batch = batches(data)[0]
    counted = batch["attention_mask"]
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    plain = gradients(model, (model(**batch).logits.square().mean(-1) * counted).sum())
    none = {name: (torch.zeros(1, 0), torch.zeros(1, 0)) for name in rule.modules}
    for a, b in zip(plain, collapsed_gradients(model, rule, batch, none, counted), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6 * float(a.abs().max()))
    rule.measure_directions()
    found = dict(
        zip(names, collapsed_gradients(model, rule, batch, rule.bases, counted), strict=True)
    )
    for name, (inputs, outputs) in rule.bases.items():
        gradient = found[name].mT if kind == "gpt2" else found[name]  # [out, in]
        size = gradient.norm()
        assert size > 0 and (gradient @ inputs).norm() < 1e-4 * size
        assert (outputs.mT @ gradient).norm() < 1e-4 * size


def test_experts_in_a_stack_are_refused():
    with pytest.raises(UserError, match="no linear module"):
        start("cir", tiny.model("olmoe"))


# ---------------------------------------------------------------------------------- cir and mcu


def test_breaking_starts_at_the_share_of_states_and_a_flipped_output_has_no_gradient():
    model, data = tiny.model(), tiny.Data()
    rule = start("cir", model, data=data)
    everything = tiny.batch(data.forget.ids)
    counted = inner_mask(everything)
    now = directions.down_outputs(model, everything, rule.layer_id)
    assert rule.breaking(everything, counted, now).item() == pytest.approx(counted.sum().item())
    flipped = {k: (-m.detach()).requires_grad_() for k, m in now.items()}
    rule.breaking(everything, counted, flipped).backward()
    assert all(not m.grad.any() for m in flipped.values())


def test_the_update_has_the_length_of_the_rate_and_the_retain_part_its_weight():
    model, data = tiny.model(), tiny.Data()
    rule = start("cir", model, data=data, retain_weight=0.5)
    moved(model)
    terms = rule.losses(*batches(data), 0.0)
    found = {name: gradients(model, term) for name, term in terms.items()}
    retain = [0.5 * r for r in found["retain"]]
    combined = rule.combine(found, 0.1)
    forget = [c - r for c, r in zip(combined, retain, strict=True)]
    assert norm_of(forget).item() == pytest.approx(1, rel=1e-4)


def test_mcu_leaves_the_leading_part_of_the_outputs_alone():
    model, data = tiny.model(), tiny.Data()
    rule = start("mcu", model, data=data)
    batch, counted = next(rule.forget_batches())
    now = directions.down_outputs(model, batch, rule.layer_id)
    (k,) = rule.layer_id
    m = now[k].detach().requires_grad_()
    rule.breaking(batch, counted, {k: m}).backward()
    assert m.grad.norm() > 0 and (m.grad @ rule.shared[k]).norm() < 1e-4 * m.grad.norm()
    # no directions: cir's loss
    plain = start("mcu", tiny.model(), data=data, representation_components=0)
    cir = start("cir", tiny.model(), data=data)
    assert plain.losses(*batches(data), 0.0) == cir.losses(*batches(data), 0.0)


def test_directions_are_measured_before_each_pass(monkeypatch):
    rule = start("cir", tiny.model(), data=tiny.Data())
    measured = []
    monkeypatch.setattr(rule, "measure_directions", lambda: measured.append(step))
    assert (rule.plan(None, 3), start("mcu", tiny.model(), data=tiny.Data()).plan(None, 3)) == (
        (600, ()),
        (150, ()),
    )
    rule.plan(6, 3)
    for step in range(6):
        for _micro in range(2):
            rule.renew(step / 6)
    assert measured == [0, 3]


# --------------------------------------------------------------------------------------- mudman


def mudman(model, data, **knobs):
    """(rule, combined gradient, {term: gradients}) of a step."""
    rule = start("mudman", model, data=data, **knobs)
    found = {n: gradients(model, t) for n, t in rule.losses(*batches(data), 0.0).items()}
    return rule, rule.combine({n: [g.clone() for g in gs] for n, gs in found.items()}, 0.1), found


def test_without_mask_and_adversary_it_is_normalised_ascent_plus_retain():
    model, data = tiny.model(dtype=torch.float64), tiny.Data()
    knobs = {"mask": "none", "adversary_lr": 0.0, "forget_loss": "nll", "retain_memory": 0.0}
    _, combined, _ = mudman(model, data, retain_weight=0.7, **knobs)
    forget, retain = batches(data)
    ascent, kept = gradients(model, -nll(model, forget)), gradients(model, nll(model, retain))
    size = norm_of(ascent).item()
    for c, a, k in zip(combined, ascent, kept, strict=True):
        assert torch.allclose(c, a / size + 0.7 * k, rtol=1e-6, atol=1e-9)


def test_what_is_applied_agrees_in_sign_with_the_retain_average():
    rule, combined, found = mudman(tiny.model(), tiny.Data(), retain_weight=0.0)
    for c, m in zip(combined, rule.average, strict=True):
        assert (c * m >= 0).all() and c.any() and (c == 0).any()
    assert norm_of(combined) < 1
    _, masked, _ = mudman(tiny.model(), tiny.Data(), retain_weight=0.0, norm="masked")
    assert norm_of(masked).item() == pytest.approx(1, rel=1e-5)
    assert all(g.any() for g in found["forget"])


def test_the_adversary_relearns_apart_from_the_model_and_starts_anew():
    model, data = tiny.model(), tiny.Data()
    rule = start("mudman", model, data=data, adversary_lr=0.5, adversary_steps=2)
    before = [p.detach().clone() for p in rule.trained]
    forget, _ = batches(data)
    start_value = -nll(model, forget).item()
    rule.forget_loss, values = "nll", []
    for _ in range(3):
        values.append(rule.at_adversary(forget)[0])
    assert all(torch.equal(p, b) for p, b in zip(rule.trained, before, strict=True))
    assert values[1] > values[0] > start_value and values[2] == values[0]


def test_one_matrix_of_each_mlp_leads_in():
    from brittle.methods.mudman import leading_in

    assert leading_in(tiny.model("llama"))[0].endswith("0.mlp.gate_proj.weight")
    assert leading_in(tiny.model("gpt_neox"))[2].endswith("2.mlp.dense_h_to_4h.weight")
    assert len(leading_in(tiny.model("olmoe"))) == 3
