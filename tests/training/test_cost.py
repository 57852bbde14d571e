"""The cost of a training: its counter against PyTorch's own, and against 6N and 2N a token."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from brittle.models.hooks import hidden
from brittle.training import adapters
from brittle.training.cost import Cost, recomputing, summation
from brittle.training.loop import make_accelerator, train
from brittle.training.settings import Settings
from support import tiny
from support.families import make_family

torch.set_num_threads(1)


def value(model, batch):
    return model(**batch).logits.float().logsumexp(-1).mean()


def both(run):
    """(operations by brittle, by torch) of `run()`, which returns what is differentiated."""
    counts = []
    # the fused kernel of a CPU is not on torch's list
    with sdpa_kernel(SDPBackend.MATH):
        cost = Cost()
        with cost:
            result = run()
        if result.requires_grad:
            result.backward()
        counts.append(cost.flops)
        with FlopCounterMode(display=False) as counter:
            result = run()
            if result.requires_grad:
                result.backward()
        counts.append(counter.get_total_flops())
    return counts


def rest_of(kind, model, batch):
    """Operations that torch does not count: grouped products, experts' three passes each."""
    if kind != "olmoe":
        return 0
    chosen = model.config.num_experts_per_tok * batch["input_ids"].numel()
    config = model.config
    one = 3 * config.hidden_size * config.intermediate_size
    return 3 * 2 * chosen * one * config.num_hidden_layers


@pytest.mark.parametrize("kind", tiny.MAKE)
def test_training_and_reading_cost_what_torch_counts(kind):
    """Padding runs too. All architectures agree with torch within 2 %."""
    model = tiny.model(kind)
    batch = tiny.batch([[3, 5, 7, 11, 2, 9, 4], [8, 1, 6]])
    ours, torchs = both(lambda: value(model, batch))
    assert ours == pytest.approx(torchs + rest_of(kind, model, batch), rel=0.02)
    with torch.no_grad():
        read, torchs = both(lambda: value(model, batch))
    assert read == pytest.approx(torchs + rest_of(kind, model, batch) / 3, rel=0.02)
    assert ours == pytest.approx(3 * read, rel=0.02)


@pytest.mark.parametrize("name", ["bloom", "mpt", "falcon", "gemma2", "longcat_flash"])
def test_families_that_multiply_in_their_own_ways(name):
    """BLOOM names the factors of its products; none of these has grouped ones."""
    model = make_family(name, vocab_size=tiny.VOCAB, pad_token_id=tiny.PAD)
    batch = tiny.batch([[3, 5, 7, 11, 2, 9, 4], [8, 1, 6]])
    ours, torchs = both(lambda: value(model, batch))
    assert ours == pytest.approx(torchs, rel=0.02)


def test_a_token_costs_six_times_the_weights_that_multiply():
    """Beside attention, which grows with the length: here of one token."""
    model, batch = tiny.model(), tiny.batch([[3], [5]])
    embedding = model.get_input_embeddings().weight
    weights = [p for p in model.parameters() if p.ndim == 2 and p is not embedding]
    count = sum(p.numel() for p in weights)
    cost = Cost()
    with cost:
        loss = value(model, batch)
    assert cost.flops == pytest.approx(2 * count * 2, rel=0.02)
    loss.backward()
    assert cost.flops == pytest.approx(6 * count * 2, rel=0.02)


def test_adapters_and_truncated_passes_cost_what_they_run():
    model, batch = tiny.model(), tiny.batch([[3, 5, 7, 11, 2, 9]])
    with torch.no_grad():
        read = both(lambda: value(model, batch))[0]
        first = both(lambda: hidden(model, batch, [0])[0].sum())
    assert first[0] == pytest.approx(first[1], rel=0.02)
    assert 0 < first[0] < 0.5 * read
    adapters.add(model, None, 2, 4.0, "all", 0)
    ours, torchs = both(lambda: value(model, batch))
    assert ours == pytest.approx(torchs, rel=0.02)
    assert 2 * read < ours < 3 * read


def test_what_is_computed_again_counts_again():
    def flops(*, again):
        model, cost = tiny.model(), Cost()
        model.train()
        if again:
            model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": recomputing})
            model.enable_input_require_grads()
        with cost:
            loss = value(model, tiny.batch([[3, 5, 7, 11, 2, 9]]))
        loss.backward()
        return cost.flops

    once = flops(again=False)
    assert 1.2 * once < flops(again=True) < 1.34 * once  # the head is not computed again


def test_the_history_has_the_operations_of_each_step():
    """Micro-batches add up, and each gradient that is taken twice costs twice."""
    ids = [[3, 5, 7, 11], [2, 9, 4, 8]]

    def row(micro_batches, combine=None):
        model = tiny.model()

        def terms(step, micro, progress):
            loss = value(model, tiny.batch(ids))
            return {"a": loss, "b": 2 * loss}

        settings = Settings(steps=1, grad_accum=micro_batches)
        accelerator = make_accelerator(torch.device("cpu"))
        return train(model, terms, settings, accelerator, combine=combine, label=None)[0]

    one = row(1)["flops"]
    assert one == both(lambda: value(tiny.model(), tiny.batch(ids)))[0]
    assert row(3)["flops"] == 3 * one
    summed = row(1, lambda found, lr: found["a"])["flops"]
    assert summed == pytest.approx(one * 5 / 3, rel=0.02)


def test_an_einsum_costs_the_product_of_its_sizes():
    a, b = torch.ones(2, 3, 4), torch.ones(4, 5)
    assert summation("bij,jk->bik", a, b)[0] == 2 * 2 * 3 * 4 * 5
    assert summation("...j,jk->...k", a, b) == (0, ())
