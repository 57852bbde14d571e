"""Step 14: the lens at the last layer is the model, to the last bit; tuned lenses start as the
logit lens and lower the KL.
"""

import json

import pytest
import torch

from brittle.base.errors import UserError
from brittle.base.tables import read_table
from brittle.data.batches import pad
from brittle.diagnostics import lens
from brittle.metrics import mcq
from brittle.models.hooks import residual_stream
from brittle.models.readout import read_tokens, readout
from support.tiny_models import (
    FAMILIES,
    make_model,
    make_tokenizer,
    save,
    script,
    texts,
    write_texts,
)

accuracy = script("layerwise_wmdp_accuracy")


def items(count, seed=0):
    """Random questions with four one- or two-word choices."""
    lines = texts(5 * count, seed, 1, 2)
    return [
        {
            "question": f"w1 {lines[5 * i]} w2",
            "choices": lines[5 * i + 1 : 5 * i + 5],
            "answer": i % 4,
        }
        for i in range(count)
    ]


def batch_of(count=4):
    return pad(make_tokenizer()(texts(count))["input_ids"], 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_last_layer_is_the_model_to_the_last_bit(family, dtype):
    model, batch = make_model(family).to(dtype), batch_of()
    with torch.no_grad():
        streams = residual_stream(model, batch)
        assert torch.equal(readout(model, batch, streams[-1]), model(**batch).logits)
        assert not torch.equal(readout(model, batch, streams[0]), model(**batch).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_tokens_one_by_one(family):
    model, batch = make_model(family), batch_of()
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        found = read_tokens(model, residual_stream(model, batch)[-1][real])
        assert torch.allclose(found, model(**batch).logits[real], atol=1e-5)


def test_untrained_tuned_lens_is_the_logit_lens():
    model, h = make_model(), torch.randn(7, 32)
    with torch.no_grad():
        assert torch.equal(lens.Tuned(model)(h), read_tokens(model, h))


@pytest.mark.parametrize("kind", ["tuned", "vocab_probe"])
def test_training_lowers_the_divergence(kind):
    model = make_model()
    before = {n: p.clone() for n, p in model.named_parameters()}
    h = lens.tokens(model, make_tokenizer()(texts(60))["input_ids"], 1, 16, 300, 0)
    assert h.shape == (4, 300, 32)

    def divergence(lenses):
        with torch.no_grad():
            final = torch.log_softmax(lenses[-1](h[-1]), -1)
            return [
                float((final.exp() * (final - torch.log_softmax(f(x), -1))).sum(1).mean())
                for f, x in zip(lenses, h, strict=True)
            ]

    start, end = (
        divergence(lens.make_lenses(kind, model, h, steps, lr=0.02)) for steps in (0, 150)
    )
    assert (
        all(e < s for e, s in zip(end[:-1], start[:-1], strict=True)) and end[-1] == start[-1] == 0
    )
    assert all(torch.equal(before[n], p) and p.grad is None for n, p in model.named_parameters())


def test_tuned_lens_undoes_a_rotation():
    """A layer that holds the final stream in another basis is read by an affine map: the KL goes to
    about zero.
    """
    model, g = make_model(), torch.Generator().manual_seed(0)
    h = lens.tokens(model, make_tokenizer()(texts(200))["input_ids"], 1, 16, 1500, 0)
    q, _ = torch.linalg.qr(torch.eye(32) + 0.3 * torch.randn(32, 32, generator=g))
    turned = torch.stack([h[-1] @ q, h[-1]])
    final = torch.log_softmax(read_tokens(model, h[-1]), -1)
    (made,) = lens.train_lenses("tuned", model, turned[:1], final.detach(), 400, 256, 0.02, 0)
    with torch.no_grad():
        kl = [
            (final.exp() * (final - torch.log_softmax(f(turned[0]), -1))).sum(1).mean()
            for f in (lens.Tuned(model), made)
        ]
    assert kl[1] < kl[0] / 20


@pytest.mark.parametrize("kind", ["tuned", "vocab_probe"])
def test_lenses_fitted_side_by_side_are_those_fitted_alone(kind, monkeypatch):
    """Their losses are added, and no weight is shared: rounding apart, a layer learns what it
    learns by itself.
    """
    model = make_model().double()
    h = lens.tokens(model, make_tokenizer()(texts(60))["input_ids"], 1, 16, 300, 0)
    together = lens.make_lenses(kind, model, h, 20, lr=0.02)
    monkeypatch.setattr(lens, "TOGETHER", 1)
    alone = lens.make_lenses(kind, model, h, 20, lr=0.02)
    for one, other, x in zip(together, alone, h, strict=True):
        assert torch.allclose(one(x), other(x), atol=1e-3)


def test_last_layer_scores_as_mcq_does():
    model, tokenizer, questions = make_model(), make_tokenizer(), items(40)
    pairs = mcq.encode_items(tokenizer, questions, 64)
    sums, divergence = accuracy.lens_logprobs(model, lens.make_lenses("logit", model), pairs, 1, 16)
    wanted = mcq.choice_logprobs(model, pairs, 1)
    assert (
        torch.allclose(sums[-1], wanted, atol=1e-4)
        and divergence[-1] == 0
        and bool((divergence[:-1] > 0).all())
    )
    direct = torch.zeros(len(divergence), dtype=torch.float64)
    with torch.no_grad():
        for ids, start in pairs:  # one text at a time, each scored token's KL counted
            stream = [h[0, start - 1 : -1] for h in residual_stream(model, pad([ids], 1))]
            read = [
                torch.log_softmax(f(h), -1).double()
                for f, h in zip(lens.make_lenses("logit", model), stream, strict=True)
            ]
            direct += torch.stack([(read[-1].exp() * (read[-1] - r)).sum() for r in read])
    assert torch.allclose(
        divergence, direct / sum(len(ids) - start for ids, start in pairs), rtol=1e-4, atol=1e-6
    )
    right = sum(accuracy.correct(sums[-1], questions)) / 40
    assert right == mcq.accuracy(model, tokenizer, questions)


def test_length_normalised_choice():
    questions = [{"question": "", "choices": ["a", "bbbb"], "answer": 1}]
    sums = torch.tensor([-2.0, -4.0])
    assert accuracy.correct(sums, questions) == [False] and accuracy.correct(
        sums, questions, normalise=True
    ) == [True]


def test_questions_of_one_fact_are_not_independent():
    """L7: each question asked twice. Named facts: the interval of the questions asked once."""
    once = items(20)
    sums = torch.randn(1, 80, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    twice = sums.view(1, 20, 4).repeat_interleave(2, 1).reshape(1, -1)
    named = [{**item, "fact": f"f{i}"} for i, item in enumerate(once) for _ in range(2)]
    unnamed = [item for item in once for _ in range(2)]
    found = [
        next(iter(accuracy.rows("forget", s, torch.zeros(1), asked, "logit", 0)))
        for s, asked in ((sums, once), (twice, named), (twice, unnamed))
    ]
    ends = [(row["accuracy_low"], row["accuracy_high"]) for row in found]
    once, named, unnamed = (high - low for low, high in ends)
    assert 0 < found[0]["accuracy"] < 1
    # Student's quantile of 19 degrees of freedom over the normal one is 1.068.
    assert once < named < 1.07 * once
    assert unnamed < 0.8 * once


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("lens")
    save(make_model(), root / "m")
    write_texts(root / "retain.txt", texts(50))
    for split, seed in (("forget", 1), ("retain", 2)):
        write_texts(root / f"mcq_{split}.jsonl", map(json.dumps, items(24, seed)))
    return root


@pytest.mark.parametrize("kind", lens.LENSES)
def test_script(kind, root, tmp_path):
    accuracy.main(
        str(root / "m"),
        tmp_path,
        kind,
        root,
        root / "retain.txt",
        train_steps=5,
        train_tokens=64,
        device="cpu",
    )
    table = read_table(tmp_path / "wmdp_lens_results.csv")
    assert list(table) == accuracy.COLUMNS and len(table) == 8
    last = table[table.layer == 3]
    assert (
        (last.delta_from_final == 0).all()
        and (last.kl_to_final == 0).all()
        and (table.chance == 0.25).all()
    )
    assert (table.accuracy * table.n_questions == table.n_correct).all() and (
        table.accuracy_low <= table.accuracy
    ).all()
    assert set(json.loads((tmp_path / "summary.json").read_text())) == {"forget", "retain"}


def test_bad_input(root, tmp_path):
    with pytest.raises(UserError, match="choose logit, tuned or vocab_probe"):
        accuracy.main(str(root / "m"), tmp_path, "other", root)
    with pytest.raises(UserError, match="not found"):
        accuracy.main(str(root / "m"), tmp_path, "logit", tmp_path / "none")
