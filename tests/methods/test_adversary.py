"""The latent adversary: it helps the model to recall, stays in its ball, leaves the model alone;
and `activations.resume`.
"""

import pytest
import torch

from brittle.methods import adversary
from brittle.models import blocks as blocks_module
from brittle.models.hooks import edit, hidden, resume
from brittle.models.logprobs import nll
from support import tiny

torch.set_num_threads(1)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", tiny.MAKE)
def test_resume_is_the_full_forward_at_every_block(kind, attention, left):
    model = tiny.model(kind, attention=attention)
    batch = tiny.batch(tiny.ids(4), left)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        logits = model(**batch).logits
        for block in range(model.config.num_hidden_layers):
            h = hidden(model, batch, [block])[block]
            with resume(model, block, h):
                again = model(**batch).logits
            assert torch.equal(again[real], logits[real]), block
        assert torch.equal(model(**batch).logits, logits)  # and nothing of it stays


def test_resume_skips_the_blocks_below_and_puts_forward_back_after_an_error():
    model, batch, calls = tiny.model(), tiny.batch(tiny.ids(2)), []
    blocks = blocks_module.blocks(model)
    h = hidden(model, batch, [1])[1]
    for k, block in enumerate(blocks):
        block.mlp.register_forward_hook(lambda *_, k=k: calls.append(k))
    with pytest.raises(RuntimeError), resume(model, 1, h):
        model(**batch)
        raise RuntimeError
    assert calls == [2]
    model(**batch)
    assert calls == [2, 0, 1, 2]


@pytest.mark.parametrize("norm, eps", [("l2", 0.5), ("linf", 0.02)])
@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize("kind", ["gpt_neox", "gpt2", "llama", "olmoe"])
def test_adversary_lowers_nll_inside_its_ball(kind, block, norm, eps):
    model, batch = tiny.model(kind), tiny.batch(tiny.ids(6), extra=2)
    delta = adversary.attack(model, batch, block, eps, 6, norm)
    norms = delta.norm(dim=-1) if norm == "l2" else delta.abs().amax(-1)
    assert norms.max() <= eps * (1 + 1e-5)
    assert (norms[batch["attention_mask"] == 0] == 0).all()
    with torch.no_grad():
        plain = nll(model, batch)
        with edit(model, {block: lambda h: h + delta}):
            attacked = nll(model, batch)
    assert attacked < plain - 1e-3


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_padding_is_not_perturbed_where_the_loss_would_feel_it(monkeypatch, left, norm):
    """In the models above no gradient reaches padding, so only a loss that reads it tells."""
    model, batch = tiny.model(), tiny.batch(tiny.ids(4), left, extra=2)
    monkeypatch.setattr(adversary, "nll", lambda m, b: m(**b).logits.square().mean())
    delta = adversary.attack(model, batch, 1, 0.5, 3, norm)
    real = batch["attention_mask"] == 1
    assert delta[real].any(-1).all() and not delta[~real].any()


def test_a_step_by_hand():
    """2.5 eps / steps along each token's own direction, cut at eps and never lengthened to it."""
    gradient = torch.tensor([[[3.0, 4.0], [0.0, 0.0], [0.0, -1e-3]]])
    short = adversary.descend(torch.zeros(1, 3, 2), gradient, 0.5, 5, "l2")
    assert torch.allclose(short, torch.tensor([[[-0.15, -0.2], [0.0, 0.0], [0.0, 0.25]]]))
    at_the_edge = adversary.descend(torch.zeros(1, 3, 2), gradient, 0.5, 2, "l2")
    assert torch.allclose(at_the_edge, torch.tensor([[[-0.3, -0.4], [0.0, 0.0], [0.0, 0.5]]]))
    signs = adversary.descend(short, gradient, 0.5, 5, "linf")
    assert torch.allclose(signs, torch.tensor([[[-0.5, -0.5], [0.0, 0.0], [0.0, 0.5]]]))


def test_adversary_leaves_gradients_and_flags_alone():
    model, batch = tiny.model(), tiny.batch(tiny.ids(4))
    names = dict(model.named_parameters())
    frozen = [n for i, n in enumerate(names) if i % 3 == 0]
    for name in frozen:
        names[name].requires_grad_(False)
    trained = next(p for p in model.parameters() if p.requires_grad)
    trained.grad = torch.full_like(trained, 2.0)
    before = {n: p.detach().clone() for n, p in names.items()}
    adversary.attack(model, batch, 1, 0.5, 3)
    assert [n for n, p in names.items() if not p.requires_grad] == frozen
    assert (trained.grad == 2).all() and sum(p.grad is not None for p in names.values()) == 1
    assert all(torch.equal(before[n], p) for n, p in names.items())
    assert not adversary.attack(model, batch, 1, 0.0, 3).any()
    assert not adversary.attack(model, batch, 1, 0.5, 0).any()


def test_more_steps_and_a_larger_ball_help_the_adversary():
    model, batch = tiny.model(), tiny.batch(tiny.ids(6))

    def reached(eps, steps):
        delta = adversary.attack(model, batch, 0, eps, steps)
        with torch.no_grad(), edit(model, {0: lambda h: h + delta}):
            return nll(model, batch)

    assert reached(0.5, 12) < reached(0.5, 1)
    assert reached(1.0, 8) < reached(0.2, 8)


def test_hidden_stops_behind_the_deepest_block():
    model, batch, calls = tiny.model(layers=4), tiny.batch(tiny.ids(2)), []
    for k, block in enumerate(blocks_module.blocks(model)):
        block.register_forward_pre_hook(lambda *_, k=k: calls.append(k))
    with torch.no_grad():
        states = hidden(model, batch, [0, 2])
        assert calls == [0, 1, 2] and sorted(states) == [0, 2]
        whole = model(**batch, output_hidden_states=True).hidden_states
    assert torch.equal(states[0], whole[1]) and torch.equal(states[2], whole[3])
