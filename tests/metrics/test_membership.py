"""Membership scores against closed forms and scikit-learn, and the sign of PrivLeak."""

import csv
import math
import zlib
from types import SimpleNamespace

import pytest
import torch

from brittle.base.errors import UserError
from brittle.metrics import membership
from support import tiny_models as tiny

SCRIPT = "eval/membership.py"


@pytest.fixture(scope="module")
def scored():
    model = tiny.make_model("gpt_neox")
    g = torch.Generator().manual_seed(0)
    ids = [torch.randint(2, 48, (n,), generator=g).tolist() for n in (9, 4, 12, 2, 7)]
    return model, ids, membership.token_scores(model, ids, 1, batch_size=3)


def test_scores_by_hand(scored):
    model, ids, tokens = scored
    texts = [" ".join(map(str, i)) for i in ids]
    found = membership.text_scores(
        texts, tokens, 0.4, reference=tokens, norms=membership.gradient_norms(model, ids)
    )
    assert set(found) == set(membership.ATTACKS)
    for i, text in enumerate(ids):
        with torch.no_grad():
            logp = model(torch.tensor([text])).logits[0, :-1].double().log_softmax(-1)
        own = logp[range(len(text) - 1), text[1:]]
        assert found["loss"][i] == pytest.approx(float(own.mean()), abs=1e-5)
        assert found["zlib"][i] == pytest.approx(
            float(own.mean()) / len(zlib.compress(texts[i].encode())), rel=1e-4
        )
        lowest = sorted(own.tolist())[: max(1, int(0.4 * len(own)))]
        assert found["min_k"][i] == pytest.approx(sum(lowest) / len(lowest), abs=1e-5)
        mean = (logp.exp() * logp).sum(-1)
        deviation = ((logp.exp() * (logp - mean[:, None]) ** 2).sum(-1)).sqrt()
        assert torch.allclose(tokens[i][1], (own - mean) / deviation, atol=1e-3)
        assert found["reference"][i] == 0 and found["length"][i] == len(text) - 1


def test_min_k_pp_of_a_planted_distribution():
    """p = (.9, .05, .05) behind every token: its mean and deviation of log p by hand."""
    p = torch.tensor([0.9, 0.05, 0.05], dtype=torch.float64)

    def model(input_ids, attention_mask):
        return SimpleNamespace(logits=p.log().expand(*input_ids.shape, 3))

    model.device = "cpu"
    mean = float((p * p.log()).sum())
    deviation = float((p * (p.log() - mean).square()).sum().sqrt())
    ((own, normal),) = membership.token_scores(model, [[1, 0, 2, 0]], 0)
    wanted = [math.log(x) for x in (0.9, 0.05, 0.9)]
    assert own.tolist() == pytest.approx(wanted)
    assert normal.tolist() == pytest.approx([(x - mean) / deviation for x in wanted])


def test_gradient_norm_is_that_of_the_loss(scored):
    model, ids, _ = scored
    loss = model(torch.tensor([ids[0]]), labels=torch.tensor([ids[0]])).loss
    loss.backward()
    norms = [float(p.grad.norm()) for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    assert membership.gradient_norms(model, ids[:1])[0] == pytest.approx(
        -sum(norms) / len(norms), rel=1e-5
    )
    assert all(p.grad is None for p in model.parameters()) and not model.training
    model.unread = torch.nn.Parameter(torch.ones(3))  # one that no text reaches has norm 0
    try:
        more = membership.gradient_norms(model, ids[:1])[0]
    finally:
        del model.unread
    assert more == pytest.approx(-sum(norms) / (len(norms) + 1), rel=1e-5)


def test_auc_and_tpr_against_scikit_learn():
    from sklearn.metrics import roc_auc_score, roc_curve

    g = torch.Generator().manual_seed(0)
    labels = [1] * 150 + [0] * 250
    scores = (torch.randn(400, generator=g) + torch.tensor(labels)).mul(4).round().div(4).tolist()
    value, low, high = membership.auc_interval(scores, labels)
    assert value == pytest.approx(roc_auc_score(labels, scores)) and low < value < high
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    found, low, high, _ = membership.tpr_at(scores, labels)
    assert (
        found == max(t for f, t in zip(fpr, tpr, strict=True) if f <= 0.01) and low < found < high
    )
    found, low, high, _ = membership.tpr_at(scores, labels, fpr=0.2)
    assert found < high < 1 and low > 0.5 * found > 0  # many do say where the threshold lies
    assert membership.tpr_at([1, 2, 3, 4], [0, 0, 1, 1])[0] == 1
    assert membership.tpr_at([1, 1, 1, 1], [0, 0, 1, 1])[0] == 0


def test_intervals_over_entities_cover_where_those_over_texts_do_not():
    """Null: no difference, but the eight texts of an entity share a draw. 0.5 must lie in 95 % of
    the intervals.
    """
    g = torch.Generator().manual_seed(1)
    labels, entities = [1] * 160 + [0] * 160, [i // 8 for i in range(320)]
    naive = clustered = 0
    for _ in range(120):
        scores = (
            torch.randn(40, generator=g).repeat_interleave(8) + 0.3 * torch.randn(320, generator=g)
        ).tolist()
        for given in (None, entities):
            _, low, high = membership.auc_interval(scores, labels, given)
            naive += given is None and low <= 0.5 <= high
            clustered += given is not None and low <= 0.5 <= high
    assert clustered >= 0.88 * 120 > 0.75 * 120 > naive


def test_tpr_interval_over_entities_covers():
    """M7: 20 entities, 20 texts each; the truth is the TPR at the 99 % quantile of all non-members.
    Texts held it in 38 %.
    """
    from scipy.stats import beta, norm

    g, entities, labels = (
        torch.Generator().manual_seed(3),
        [i // 20 for i in range(800)],
        [1] * 400 + [0] * 400,
    )
    truth, held, naive = float(norm.sf(norm.isf(0.01) - 2)), 0, 0
    for seed in range(80):
        shared = torch.randn(40, generator=g, dtype=torch.float64).repeat_interleave(20)
        scores = 0.2**0.5 * shared + 0.8**0.5 * torch.randn(800, generator=g, dtype=torch.float64)
        scores[:400] += 2
        value, low, high, _ = membership.tpr_at(
            scores, labels, entities=entities, seed=seed, draws=200
        )
        hits = round(400 * value)
        naive += beta.ppf(0.025, hits, 401 - hits) <= truth <= beta.ppf(0.975, hits + 1, 400 - hits)
        held += low <= truth <= high
        assert 0 <= low <= value <= high <= 1
    assert held >= 0.8 * 80 > 0.6 * 80 > naive


def test_interval_of_nothing_but_hits_or_misses_counts_entities():
    """M8: an AUC of 1 of 3 entities, 12 texts each, does not rule out 0.29 (0.29^3 = 2.5 %);
    without entities 36 texts do. 36 non-members say nothing of the threshold that 1 % exceed.
    """
    labels, entities = [1] * 36 + [0] * 36, [i // 12 for i in range(72)]
    for shown, low in ((entities, 0.025 ** (1 / 3)), (None, 0.025 ** (1 / 36))):
        for sign in (1, -1):
            scores = [sign * (x + i / 100) for i, x in enumerate(labels)]
            scores = scores if sign > 0 else [-1.0] * 36 + [0.0] * 36
            wanted = (pytest.approx(low), 1.0) if sign > 0 else (0.0, pytest.approx(1 - low))
            assert membership.auc_interval(scores, labels, shown)[1:] == wanted
            _, *ends, _ = membership.tpr_at(scores, labels, entities=shown, draws=100)
            assert ends == [0.0, wanted[1]]
    # 400 non-members tell the threshold: five members found leave .025 ** (1 / 5) possible
    others = [float(i) for i in range(400)]
    found = membership.tpr_at([999.0] * 5 + others, [1] * 5 + [0] * 400)
    assert found == (1, pytest.approx(0.025 ** (1 / 5)), 1, 395)
    one = [0] * 36 + [1] * 36
    some = [float(i % 7 + x) for i, x in enumerate(labels)]
    assert (
        membership.auc_interval(some, labels, one)[1:]
        == membership.tpr_at(some, labels, entities=one)[1:3]
        == (None, None)
    )


def test_weighted_threshold_is_that_of_the_resampled_texts():
    others = (
        torch.randn(150, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        .mul(4)
        .round()
    )
    (_, _), (weights, _) = membership.entity_weights([1] + [0] * 150, draws=20)
    pairs = zip(weights, *membership.thresholds(others, weights, 0.05), strict=True)
    for row, threshold, higher in pairs:
        drawn = others.repeat_interleave(row.long()).sort(descending=True).values
        assert threshold == drawn[int(0.05 * 150)]
        reached = (drawn >= higher).sum()  # by at most 5 %, and the next lower score by more
        assert reached <= 0.05 * 150 < (drawn >= drawn[drawn < higher].max()).sum()
    assert membership.thresholds(others, torch.ones(1, 150), 0.001)[1].isinf().all()


def test_privleak_has_muses_sign():
    """Base knows the forget set (AUC 1): -100. As a retrained model: 0. Pushed below (AUC 0): +100.
    MUSE's own numbers.
    """
    assert (
        membership.privleak(1.0, 0.5) == -100
        and membership.privleak(0.5, 0.5) == 0
        and membership.privleak(0.0, 0.5) == 100
    )
    assert membership.privleak(0.0, 1 - 0.4772) == pytest.approx(
        109.6, abs=0.1
    )  # News: where it tops out
    assert membership.privleak(0.0, 1 - 0.5393) == pytest.approx(85.4, abs=0.1)  # Books
    assert membership.privleak(0.7, 1.0) is None
    with pytest.raises(UserError, match="needs a retrained model"):
        membership.privleak(0.7, None)


def test_script_tells_members_apart_and_writes_every_item(family, data, tmp_path, script):
    done = script(
        SCRIPT,
        "--model",
        family.base,
        "--reference",
        family.filtered,
        "--data",
        data,
        "--outdir",
        tmp_path / "o",
        "--max-samples",
        12,
    )
    assert done.code == 0, done.err
    table = {r["attack"]: r for r in csv.DictReader((tmp_path / "o" / "membership.csv").open())}
    assert set(table) == set(membership.ATTACKS)
    for r in table.values():
        assert (
            0 <= float(r["auc_low"]) <= float(r["auc"]) <= float(r["auc_high"]) <= 1
            and int(r["n_members"]) == 12
        )
    assert (
        table["length"]["privleak"] == ""
        and table["loss"]["privleak"]
        and math.isfinite(float(table["min_k"]["privleak"]))
    )
    items = list(csv.DictReader((tmp_path / "o" / "membership_items.csv").open()))
    assert len(items) == 24 and all(i["loss"] and i["grad_norm"] and i["reference"] for i in items)


@pytest.mark.parametrize("mistake", ["few", "same", "missing"])
def test_mistakes(mistake, family, data, tmp_path, script):
    (tmp_path / "few.txt").write_text("one two\nthree four\n")
    path = {
        "few": tmp_path / "few.txt",
        "same": data / "forget.txt",
        "missing": tmp_path / "no.txt",
    }[mistake]
    done = script(
        SCRIPT,
        "--model",
        family.base,
        "--members",
        data / "forget.txt",
        "--nonmembers",
        path,
        "--outdir",
        tmp_path / "o",
    )
    says = {"few": "has 2 texts: at least 5", "same": "share texts", "missing": "no.txt not found"}[
        mistake
    ]
    assert (
        done.code == 2
        and says in done.err
        and done.err.count("\n") == 1
        and not (tmp_path / "o").exists()
    )
