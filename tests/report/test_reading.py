"""The report's sentences: each clause on rows whose answer is plain, gaps named, every rule's steps in steps.csv."""

from pathlib import Path

import pytest

from brittle.base.tables import read_rows
from brittle.pipeline import steps
from brittle.report import clauses, levels


def norms(forget, retain, grown=1.0):
    return [
        {
            "layer": layer,
            "split": s,
            "model_a_norm_L2": 2.0,
            "model_b_norm_L2": 2 * grown,
            "mean_dh_L2": 2 * m,
        }
        for layer in (0, 1)
        for s, m in (("forget", forget * layer), ("retain", retain * layer))
    ]


def interval(column, value, half, **more):
    return {
        column: value,
        f"{column}_low": value - half,
        f"{column}_high": value + half,
        **more,
    }


def selective(value, null=1.0):
    other = interval("null_selectivity_ratio", null, 0.1)
    small = (
        interval("selectivity_ratio", 0.5, 0.1, name="m", split="forget", k=1) | other
    )  # only the largest k counts
    return [
        small,
        interval("selectivity_ratio", value, 0.2, name="m", split="forget", k=20) | other,
    ]


def apart(a, b):
    return [
        interval("cosine_distance", x, 0.1, layer=n, model=m)
        for m, x in (("model_a", a), ("model_b", b))
        for n in (1, 2)
    ]


def jacobian(a, b):
    return [
        {
            "model": m,
            "split": s,
            "jacobian_norm_mean": v,
            "jacobian_norm_low": v - 1,
            "jacobian_norm_high": v + 1,
        }
        for m, v in (("model_a", a), ("model_b", b))
        for s in ("forget", "retain")
    ]


def lens(*accuracy):
    return [
        interval("accuracy", x, 0.05, layer=n, split="forget", chance=0.25)
        for n, x in enumerate(accuracy)
    ]


def probe(auc):
    return [
        interval("auc", x, 0.05, layer=n, task="truth_forget")
        for n, x in enumerate((0.5, auc))
    ]


def blocks(mlp, attn):
    rows = zip(mlp, attn, strict=True)
    return [
        {"mlp_dW_fro_layer": m, "attn_dW_fro_layer": a, "mlp_attn_ratio": m / a if a else None}
        for m, a in rows
    ]


@pytest.mark.parametrize("say, tables, says", [
    (clauses.size, [[{"dW_fro": 0.1, "W_fro": 10}]], "moved by 1% of their norm (small)"),
    (clauses.size, [[{"dW_fro": 3, "W_fro": 10}]], "(large)"),
    (clauses.size, [[{"dW_fro": 0, "W_fro": 10}]], "no weight changed"),
    (clauses.size, [[{"dW_fro": None, "W_fro": 10}]], None),
    (clauses.location, [blocks([3, 0, 0, 0], [1, 0, 0, 0])], "mostly MLP: for their size the MLPs moved 3.00 times"),
    (clauses.location, [blocks([3, 0, 0, 0], [1, 0, 0, 0])], "1 of 4 blocks hold"),
    (clauses.location, [blocks([0, 0], [1, 1])], "only attention changed; 2 of 2"),
    (clauses.location, [blocks([0], [0])], "no block changed"),
    (clauses.rank_of_update, [[{"effective_rank": 4, "null_effective_rank": 100}, {"effective_rank": 0,
                                "null_effective_rank": 100}]], "low-rank: 99 % of ΔW lies in 4.00 directions"),
    (clauses.rank_of_update, [[{"effective_rank": 0, "null_effective_rank": 9}]], "no matrix changed"),
    (clauses.nullspace, [[{"nullspace_share": 0.5, "column_space_share": 0.5, "subspace": "bottom", "level": 0.25,
                           "share_over_null": 2}]], "seeks the quarter"),
    (clauses.moved_activations, [norms(0.6, 0.1)], "60% of their length on forget texts and 10% on retain texts (mostly on forg"),
    (clauses.moved_activations, [norms(0.1, 0.1, 2)], "(on both kinds alike), and forget activations are longer"),
    (clauses.moved_activations, [norms(0, 0)], "no activation moved"),
    (clauses.apart, [apart(0.3, 0.6)], "farther apart (cosine distance 0.30 → 0.60)"),
    (clauses.apart, [apart(0.3, 0.35)], "as far apart as before"),
    (clauses.targeted, [selective(2)], "targeted: forget texts feed the directions that ΔW reads 2.00 times"),
    (clauses.targeted, [selective(1.1)], "not targeted"),
    (clauses.targeted, [[{"name": "m", "split": "forget", "k": 0}]], "no MLP matrix changed"),
    (clauses.sensitivity, [jacobian(5, 9)], "rougher on forget texts (Jacobian norm 5.00 → 9.00) and rougher on retain"),
    (clauses.barrier, [[interval("barrier", 0.5, 0.1, split=s) for s in ("forget", "retain")]], "a barrier lies"),
    (clauses.barrier, [[interval("barrier", 0.15, 0.1, split=s) for s in ("forget", "retain")]], "no barrier lies"),
    (clauses.probe, [probe(0.9), probe(0.52)], "can no longer tell whether a forget statement is true"),
    (clauses.probe, [probe(0.9), probe(0.8)], "still can tell whether a forget statement is true (best layer's AUC 0.90 → 0.80)"),
    (clauses.lens, [lens(0.25, 1.0), lens(0.6, 0.3)], "layer 0 knows answers that the output does not give (output 100% → 30%"),
    (clauses.lens, [lens(0.25, 1.0), lens(0.3, 0.28)], "no layer answers above chance"),
    (clauses.lens, [lens(0.25, 1.0), lens(0.25, 0.9)], "read from layer 1 on, and at the output"),
])  # fmt: skip
def test_clauses(say, tables, says):
    found = say(*tables)
    assert found is None if says is None else says in found, found


def test_what_is_missing_is_said(tmp_path):
    listed = [c.step for c in levels.CLAUSES]
    for level in levels.LEVELS:
        text = levels.sentence(level, tmp_path, "a", "b", listed)
        assert "not measured: run step" in text.lower() and text.endswith(".")
    assert levels.sources(tmp_path, "a", "b") and read_rows(tmp_path / "none.csv") == []


def test_rules_belong_to_steps_of_the_list():
    """Every level's steps are in steps.csv, and each clause reads the CSV that its step writes."""
    rows = {row["step"]: row for row in steps.read_steps()}
    known = {step for _, of_it in levels.LEVELS.values() for step in of_it}
    assert {c.step for c in levels.CLAUSES} <= known <= set(rows)
    assert set(levels.LEVELS) == {c.level for c in levels.CLAUSES}
    for clause in levels.CLAUSES:
        assert (rows[clause.step]["scope"] == "model") == clause.of_models
        assert clause.file is None or clause.step == "1"
    sizes = next(clause for clause in levels.CLAUSES if clause.step == "1")
    assert sizes.paths("out", "a", "b") == [Path("out/a__to__b/param_stats/per_matrix.csv")]
