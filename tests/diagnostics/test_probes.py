"""Steps 8 and 13: planted separation gives AUC 1, none gives 0.5 within its interval;
scikit-learn's logistic regression.
"""

import json

import pytest
import torch

from brittle.base.errors import UserError
from brittle.base.tables import read_table
from brittle.data.batches import pad
from brittle.data.rows import plain
from brittle.diagnostics import probes
from brittle.models.hooks import residual_stream
from support.tiny_models import make_model, make_tokenizer, save, script, texts, write_texts

separation, probe = script("activation_separation_analysis"), script("linear_probe_analysis")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shift", [0.3, 5.0])
@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_logistic_is_scikit_learns(shift, c):
    from sklearn.linear_model import LogisticRegression

    x, y = draw(80, 6), torch.where(torch.arange(80) % 3 == 0, 1.0, -1.0).double()
    x[y > 0] += shift
    wanted = LogisticRegression(C=c, max_iter=10000, tol=1e-10).fit(x.numpy(), y.numpy())
    w, b = probes.logistic(x, y, c)
    assert torch.allclose(w, torch.tensor(wanted.coef_[0]), rtol=1e-3, atol=1e-4)
    assert float(b) == pytest.approx(float(wanted.intercept_[0]), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("width, shift", [(6, 1.0), (150, 3.0)])  # 150: wider than a fold's texts
def test_own_probe_and_scikit_learns_agree_in_auc(width, shift, monkeypatch):
    """What runs on a GPU gives what runs on the CPU, to 1e-3 in AUC."""
    x, task = draw(80, width), probes.ProbeTask(40, 40, 5)
    x[:40, 0] += shift  # so that the AUC is neither 0.5 nor 1
    theirs = task.auc(x)
    monkeypatch.setattr(probes, "fit", probes.logistic)
    for (there, scores), (here, own) in zip(theirs, task.auc(x), strict=True):
        assert here == pytest.approx(there, abs=1e-3)
        assert torch.allclose(scores, own, rtol=1e-3, atol=1e-4)
    assert 0.55 < theirs[0][0][0] < 0.95


def test_features_that_are_constant_or_broken():
    """One token alone ends all texts: layer 0 tells nothing. NaN is said, not scored."""
    task = probes.ProbeTask(40, 40, 5)
    for width in (6, 150):
        assert task.auc(torch.ones(80, width))[0][0][0] == 0.5
    with pytest.raises(UserError, match="activations hold NaN or Inf"):
        task.auc(torch.full((80, 6), torch.nan))


def test_wide_features_against_scikit_learn():
    """More features than texts: the solution lies in the span of the training texts, and is
    scikit-learn's.
    """
    from sklearn.linear_model import LogisticRegression

    x, task = draw(40, 60), probes.ProbeTask(20, 20, 4)
    found, train = probes.held_out_scores(x, [task.labels], task.fold)[0], task.fold != 2
    scaled = (x - x[train].mean(0)) / x[train].std(0)
    wanted = LogisticRegression(tol=1e-10, max_iter=10000).fit(
        scaled[train].numpy(), task.labels[train].numpy()
    )
    assert torch.allclose(
        found[~train],
        torch.tensor(wanted.decision_function(scaled[~train].numpy())),
        rtol=1e-3,
        atol=1e-4,
    )


def test_planted_and_absent_separation():
    x, task = draw(200, 10), probes.ProbeTask(100, 100, 5)
    (_, low, high), _ = task.auc(x)[0]
    assert low < 0.5 < high
    x[:100, 4] += 12
    ((auc, low, high), scores), ((_, lower, higher), _) = task.auc(x)
    assert (
        auc == high == 1
        and low == 0.025 ** (1 / 100)
        and bool(((scores > 0) == (task.labels == 1)).all())
    )
    assert lower < 0.5 < higher


def test_no_text_is_scored_by_a_classifier_that_saw_it():
    """With as many features as texts, training accuracy is perfect; held-out accuracy on noise is
    chance.
    """
    x, task = draw(60, 80), probes.ProbeTask(30, 30, 5)
    (auc, _, _), _ = task.auc(x)[0]
    assert 0.3 < auc < 0.7


def test_control_labels_are_balanced_in_every_fold():
    task = probes.ProbeTask(50, 40, 5)
    for f in range(5):
        for label in (0, 1):
            inside = task.control[(task.fold == f) & (task.labels == label)].double()
            assert abs(float(inside.mean()) - 0.5) < 0.15
    with pytest.raises(UserError, match="at least 10 texts a class; there are 4"):
        probes.ProbeTask(4, 30, 5)


def test_stretches_are_contiguous_and_even():
    fold = probes.stretches(range(103), 5)
    assert bool((fold.diff() >= 0).all()) and fold.bincount().tolist() in (
        [21, 21, 20, 21, 20],
        [21, 20, 21, 20, 21],
        [21] * 3 + [20] * 2,
    )


def test_a_fact_is_never_learned_from_and_tested_on():
    """Named facts stay in one fold, wherever their texts stand; unnamed ones are kept apart by a
    gap of lines.
    """
    facts = [i % 20 for i in range(60)]
    task = probes.ProbeTask(60, 60, 5, (facts, facts))
    assert bool((task.fold[:60] == task.fold[60:]).all()) and set(task.fold.tolist()) == set(
        range(5)
    )
    for f, learn in enumerate(task.train):
        held = {facts[i % 60] for i in range(120) if task.fold[i] == f}
        assert (
            held
            and not held & {facts[i % 60] for i in range(120) if learn[i]}
            and bool(learn.any())
        )
    plain = probes.ProbeTask(100, 100, 5)
    for f, learn in enumerate(plain.train):
        tested = (plain.fold == f).nonzero()[:, 0]
        for side in (tested[tested < 100], tested[tested >= 100]):
            assert all(
                abs(int(i) - int(j)) > probes.NEIGHBOURS
                for i in side
                for j in learn.nonzero()[:, 0]
                if (i < 100) == (j < 100)
            )
    with pytest.raises(UserError, match="at least 10 entities or facts a class; there are 3"):
        probes.ProbeTask(60, 60, 5, ([i % 3 for i in range(60)], facts))


def test_words_and_lengths():
    task = probes.ProbeTask(20, 20, 5)
    different = [[3, 4, i % 7] for i in range(20)] + [[8, 9, i % 7] for i in range(20)]
    assert task.surface(different) == {"length_auc": 0.5, "bow_auc": 1.0}
    longer = [[3] * (5 + i % 2) for i in range(20)] + [[3] * (2 + i % 2) for i in range(20)]
    assert task.surface(longer)["length_auc"] == 1


def test_features_do_not_see_padding():
    model, ids = make_model(), make_tokenizer()(texts(9))["input_ids"]
    together, alone = (probes.features(model, ids, 1, size) for size in (9, 1))
    for pool in probes.POOLS:
        assert torch.allclose(together[pool], alone[pool], atol=1e-5)
    with torch.no_grad():
        h = torch.stack(residual_stream(model, pad(ids[:1], 1)))[:, 0]
    assert torch.allclose(alone["mean"][0], h.mean(1), atol=1e-5) and torch.allclose(
        alone["last"][0], h[:, -1], atol=1e-5
    )


def test_separation_by_hand():
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 4.0]])
    cosine, ratio = separation.separation(x, torch.tensor([1, 1, 0, 0]))
    assert float(cosine) == pytest.approx(1)  # centroids (2, 0) and (0, 3)
    assert float(ratio) == pytest.approx(
        13 / 4 / (4 / 4)
    )  # |difference|^2 / 4 over a mean within-class variance of 1
    weights = torch.tensor([[1.0, 1, 1, 1], [0, 2, 1, 1]], dtype=torch.float64)
    both = separation.separation(x, torch.tensor([1, 1, 0, 0]), weights)
    resampled = separation.separation(x[[1, 1, 2, 3]], torch.tensor([1, 1, 0, 0]))
    assert float(both[1][1]) == pytest.approx(float(resampled[1])) and float(
        both[1][0]
    ) == pytest.approx(float(ratio))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Models, and texts of two vocabularies that overlap in part."""
    root = tmp_path_factory.mktemp("probes")
    save(make_model(), root / "a")
    save(make_model(seed=1), root / "b")
    write_texts(root / "forget.txt", texts(40, 1, words=[f"w{i}" for i in range(15)]))
    write_texts(root / "retain.txt", texts(40, 2, words=[f"w{i}" for i in range(20, 35)]))
    lines = texts(200, 3, 1, 1)
    for split, start in (("forget", 0), ("retain", 100)):
        items = [
            {
                "question": f"w1 w{i}",
                "choices": lines[start + 4 * i : start + 4 * i + 4],
                "answer": i % 4,
            }
            for i in range(24)
        ]
        write_texts(root / f"mcq_{split}.jsonl", map(json.dumps, items))
    return root


def test_separation_script(root, tmp_path):
    options = {"forget": root / "forget.txt", "retain": root / "retain.txt", "device": "cpu"}
    separation.main(str(root / "a"), str(root / "a"), tmp_path, **options)
    table = read_table(tmp_path / "separation.csv")
    assert list(table) == separation.COLUMNS and len(table) == 8
    a, b = (
        table[table.model == m].drop(columns="model").reset_index(drop=True)
        for m in ("model_a", "model_b")
    )
    assert (
        a.equals(b)
        and (table.auc == 1).all()
        and (table.bow_auc == 1).all()
        and (table.null_auc < 0.8).all()
    )
    assert (table.cosine_distance_low <= table.cosine_distance).all() and (
        table.null_cosine_distance < table.cosine_distance
    ).all()
    options["retain"] = options["forget"]
    separation.main(str(root / "a"), str(root / "b"), tmp_path, **options)
    same = read_table(tmp_path / "separation.csv")
    assert (
        (same.cosine_distance.abs() < 1e-6).all()
        and (same.variance_ratio < 1e-9).all()
        and (same.auc < 0.7).all()
    )


def test_probe_script(root, tmp_path):
    options = {"forget": root / "forget.txt", "retain": root / "retain.txt", "device": "cpu"}
    probe.main(str(root / "a"), tmp_path, data=root, **options)
    table = read_table(tmp_path / "probe_results.csv")
    assert (
        list(table) == probe.COLUMNS
        and set(table.task) == {"domain", "truth_forget", "truth_retain"}
        and len(table) == 12
    )
    assert (table.selectivity == table.accuracy - table.majority_baseline).all()
    assert (table[table.task == "domain"].accuracy > 0.9).all()
    assert set(json.loads((tmp_path / "summary.json").read_text())) == {
        "domain",
        "truth_forget",
        "truth_retain",
    }
    probe.main(str(root / "a"), tmp_path / "x", data=tmp_path, **options)
    assert set(read_table(tmp_path / "x/probe_results.csv").task) == {"domain"}


def test_one_text_only(root, tmp_path):
    write_texts(tmp_path / "one.txt", ["w1 w2 w3"])
    with pytest.raises(UserError, match="at least 10 texts a class; there are 1"):
        separation.main(
            str(root / "a"),
            str(root / "b"),
            tmp_path / "o",
            tmp_path / "one.txt",
            root / "retain.txt",
            device="cpu",
        )


def test_true_and_false_texts_differ_in_the_choice_only():
    items = [{"question": f"q{i}", "choices": ["a", "b", "c"], "answer": i % 3} for i in range(9)]
    true, false = probe.truth_texts(items, 0, "x")
    for item, yes, no in zip(items, true, false, strict=True):
        right = item["choices"][item["answer"]]
        assert plain(yes) == f"{item['question']} {right}"
        assert no.prompt == item["question"] and no.answer in item["choices"]
        assert no.answer != right
    assert probe.truth_texts(items, 0, "x") == (true, false)


def test_texts_of_one_fact_are_not_independent_in_the_accuracys_interval():
    """L7: each fact told twice. The interval is that of the facts, not half as wide again; an AUC
    of 1 is bounded by facts.
    """
    half, facts = draw(40, 6), [i // 2 for i in range(40)]
    x = half[:20].repeat_interleave(2, 0), half[20:].repeat_interleave(2, 0)
    found = {}
    for groups in ((None, None), (facts, [f"r{f}" for f in facts])):
        task = probes.ProbeTask(40, 40, 5, groups)
        task.fold, task.train = found.setdefault(
            "same", (task.fold, task.train)
        )  # the same classifiers
        (row,) = probe.rows("domain", torch.cat(x)[:, None], task, {}, {}, 1.0, 100)
        found[groups[0] is None] = row
    apart, together = found[True], found[False]
    assert (
        apart["accuracy"] == together["accuracy"]
        and task.units == 20
        and len(set(task.entities)) == 40
    )
    wide, narrow = (row["accuracy_high"] - row["accuracy_low"] for row in (together, apart))
    assert (
        1.2 < wide / narrow < 1.5
        and together["accuracy_low"] <= together["accuracy"] <= together["accuracy_high"]
    )
    assert task.auc(torch.arange(80, 0, -1).double()[:, None])[0][0] == (
        1.0,
        0.025 ** (1 / 20),
        1.0,
    )
