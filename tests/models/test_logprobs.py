"""Divergence of rows and NLL of answers, against their definitions."""

import pytest
import torch

from brittle.data.batches import pad
from brittle.models import logprobs
from brittle.models.logprobs import answer_nll, kl_rows
from support import tiny


def test_kl_of_rows_is_its_definition_and_zero_for_equals():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(4, 6, generator=generator).log_softmax(-1) for _ in range(2))
    slow = [
        sum(a.exp() * (a - b) for a, b in zip(x, y, strict=True)) for x, y in zip(p, q, strict=True)
    ]
    assert torch.allclose(kl_rows(p, q), torch.stack(slow))
    assert torch.equal(kl_rows(p[None], q[None]), kl_rows(p, q)[None])
    assert torch.equal(kl_rows(p, p), torch.zeros(4)) and (kl_rows(p, q) > 0).all()
    certain = torch.tensor([[1.0, 1e-30]]).log()
    assert kl_rows(certain, torch.tensor([[0.25, 0.75]]).log()).item() == pytest.approx(1.386294)


def test_mean_nll_weighs_every_predicted_token_alike(monkeypatch):
    """Over batches of three of seven texts of different lengths; a text of one token adds none."""
    monkeypatch.setattr(logprobs, "HELD_OUT_BATCH", 3)
    model, ids = tiny.model(dtype=torch.float64), [[5], *tiny.ids(6)]
    nlls = []
    for text in ids:
        rows = model(input_ids=torch.tensor([text])).logits[0].log_softmax(-1)
        nlls += [-float(rows[t - 1, text[t]]) for t in range(1, len(text))]
    found = logprobs.mean_nll(model, ids, tiny.PAD)
    assert found == pytest.approx(sum(nlls) / len(nlls), rel=1e-9)
    assert logprobs.mean_nll(model, [], tiny.PAD) is None


def test_nll_of_answers_leaves_the_question_out():
    model, ids, starts = tiny.model(), tiny.ids(3), [2, 3, 2]
    nll = answer_nll(model, pad(ids, tiny.PAD), torch.tensor(starts))
    sums = []
    for text, start in zip(ids, starts, strict=True):
        rows = model(input_ids=torch.tensor([text])).logits[0].log_softmax(-1)
        sums.append(sum(rows[t - 1, text[t]] for t in range(start, len(text))))
    assert nll.item() == pytest.approx(-float(sum(sums)) / 3, rel=1e-5)
