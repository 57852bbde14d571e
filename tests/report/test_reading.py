"""The report's sentences: each clause on rows whose answer is plain, gaps named, every rule's steps
in steps.csv.
"""

from pathlib import Path

import pytest

from brittle.base.tables import read_rows
from brittle.pipeline import steps
from brittle.report import clauses, levels, verdict
from brittle.report import filter as filter_module
from brittle.report.condense import update_size


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
        interval("auc", x, 0.05, layer=n, task="truth_forget") for n, x in enumerate((0.5, auc))
    ]


def blocks(mlp, attn):
    rows = zip(mlp, attn, strict=True)
    return [
        {"mlp_dW_fro_layer": m, "attn_dW_fro_layer": a, "mlp_attn_ratio": m / a if a else None}
        for m, a in rows
    ]


RANKS = [
    {"effective_rank": 4, "null_effective_rank": 100},
    {"effective_rank": 0, "null_effective_rank": 100},  # did not change: has no rank
]
SHARES = {"nullspace_share": 0.5, "column_space_share": 0.5, "subspace": "bottom", "level": 0.25}


def spectrum(rank, fro=1.0, above=0.5):
    return {
        "matrix": "dW",
        "fro": fro,
        "stable_rank": rank,
        "null_stable_rank": 40,
        "energy_above_noise": above,
    }


def barriers(height):
    return [interval("barrier", height, 0.1, split=s) for s in ("forget", "retain")]


def selective_matrices(*values):
    """Rows of matrices whose ratios have intervals of 0.2 on both sides."""
    null = interval("null_selectivity_ratio", 1.0, 0.1)
    return [
        interval("selectivity_ratio", x, 0.2, name=f"m{i}", split="forget", k=20) | null
        for i, x in enumerate(values)
    ]


# What each clause must say of rows whose answer is plain: the word that its rule chooses, and its
# numbers. How the sentence goes round them is free. `!` marks what must not be said.
@pytest.mark.parametrize(
    "say, tables, words",
    [
        (clauses.size, [[{"dW_fro": 0.1, "W_fro": 10}]], "1%, small"),
        (clauses.size, [[{"dW_fro": 1, "W_fro": 10}]], "10%, moderate"),
        (clauses.size, [[{"dW_fro": 3, "W_fro": 10}]], "30%, large"),
        (clauses.size, [[{"dW_fro": 0, "W_fro": 10}]], "no weight"),
        (clauses.location, [blocks([3, 0, 0, 0], [1, 0, 0, 0])], "mostly MLP, 3.00, 1 of 4"),
        (clauses.location, [blocks([1, 1], [3, 3])], "mostly attention, 0.33, 2 of 2"),
        (clauses.location, [blocks([1, 3], [1, 1])], "mostly MLP, 2.00"),  # the median of 1 and 3
        (clauses.location, [blocks([0, 0], [1, 1])], "only attention, 2 of 2"),
        (clauses.location, [blocks([1, 1], [0, 0])], "only the MLPs, 2 of 2"),
        (clauses.location, [blocks([0], [0])], "no block"),
        (clauses.rank_of_update, [[spectrum(4)]], "low-rank, rank is 4.00, noise has 40, 50% of"),
        (clauses.rank_of_update, [[spectrum(30)]], "of high rank, 30"),
        # weighted by energy: (9 x 2 + 1 x 12) / 10; what did not change has no rank
        (
            clauses.rank_of_update,
            [[spectrum(2, 3.0), spectrum(12, 1.0), spectrum(0, 0.0)]],
            "low-rank, 3.00",
        ),
        (clauses.rank_of_update, [[spectrum(0, 0.0)]], "no matrix"),
        (clauses.directions, [RANKS], "99 %, 4.00 directions, noise: 100, !rank"),
        (clauses.directions, [RANKS[1:]], "no matrix"),
        (clauses.nullspace, [[SHARES | {"share_over_null": 2}]], "it seeks, 2.00"),
        (clauses.nullspace, [[SHARES | {"share_over_null": 1}]], "neither seeks nor avoids, 1.00"),
        (clauses.nullspace, [[SHARES | {"share_over_null": 0.5}]], "it avoids, 0.50"),
        (clauses.moved_activations, [norms(0.6, 0.1)], "60%, 10%, mostly on forget"),
        (clauses.moved_activations, [norms(0.1, 0.6)], "10%, 60%, mostly on retain"),
        (clauses.moved_activations, [norms(0.1, 0.1, 2)], "both kinds, longer"),
        (clauses.moved_activations, [norms(0, 0)], "no activation"),
        (clauses.apart, [apart(0.3, 0.6)], "farther apart, 0.30 → 0.60"),
        (clauses.apart, [apart(0.6, 0.3)], "closer, 0.60 → 0.30"),
        (clauses.apart, [apart(0.3, 0.35)], "no difference is seen, !as far apart"),
        (clauses.apart, [apart(20, 20.1)], "as far apart as before, within 10%, !no difference"),
        (clauses.targeted, [selective(2)], "targeted, 2.00, in 1 of them, !not targeted, !in part"),
        (clauses.targeted, [selective(1.1)], "is open, !not targeted"),  # up to 1.3
        (clauses.targeted, [selective(0.9)], "not targeted, not so in 1"),
        (clauses.targeted, [selective(2, null=2)], "is open"),  # halves of retain texts differ so
        (clauses.targeted, [selective_matrices(2, 2, 0.9)], "targeted, 2 of them, !not t, !part"),
        (clauses.targeted, [selective_matrices(2, 0.9)], "targeted in part, 1 of them, so in 1"),
        (clauses.targeted, [selective_matrices(2, 0.9, 0.9)], "not targeted, not so in 2"),
        (clauses.targeted, [[{"name": "m", "split": "forget", "k": 0}]], "no MLP matrix"),
        (clauses.sensitivity, [jacobian(5, 9)], "rougher, 5.00 → 9.00, !smoother"),
        (clauses.sensitivity, [jacobian(9, 5)], "smoother, 9.00 → 5.00, !rougher"),
        (clauses.sensitivity, [jacobian(5, 6)], "no difference is seen, !as before, !rougher"),
        (clauses.sensitivity, [jacobian(50, 51)], "as rough as before, within 10%"),
        (clauses.barrier, [barriers(0.5)], "a barrier, 0.50, !no barrier, !open"),
        (clauses.barrier, [barriers(0.15)], "open, 0.15, !no barrier"),  # from 0.05 to 0.25
        (clauses.barrier, [barriers(-0.1)], "no barrier, 0.00, !open"),
        # not the highest point alone: one that is lower, and known better, shows the barrier
        (
            clauses.barrier,
            [[*barriers(0.19), interval("barrier", 0.15, 0.01, split="retain")]],
            "a barrier, 0.19, !no barrier",
        ),
        (clauses.probe, [probe(0.9), probe(0.52)], "can no longer, 0.90 → 0.52"),
        (clauses.probe, [probe(0.9), probe(0.8)], "still can, 0.90 → 0.80"),
        (clauses.probe, [probe(0.52), probe(0.9)], "now can, 0.52 → 0.90"),
        (clauses.probe, [probe(0.52), probe(0.52)], "could not and cannot"),
        (clauses.probe, [probe(0.9), probe(0.62)], "still can is open, !no longer"),
        (clauses.probe, [probe(0.62), probe(0.52)], "cannot, could before is open"),
        (clauses.probe, [probe(0.62), probe(0.62)], "that is open, !cannot"),
        (
            clauses.lens,
            [lens(0.25, 1.0), lens(0.6, 0.3)],
            "layer 0 answers more than the output, 100% → 30%, 60%",
        ),
        # an output of 31 to 41 % is above chance, and layer 0, up to 45 %, is not above it
        (clauses.lens, [lens(0.25, 1.0), lens(0.4, 0.36)], "from layer 0 on, at the output"),
        (clauses.lens, [lens(0.25, 1.0), lens(0.38, 0.29)], "layer 0 answers above, is open"),
        (clauses.lens, [lens(0.25, 1.0), lens(0.29, 0.28)], "no layer answers more than 10%, 28%"),
        (clauses.lens, [lens(0.25, 1.0), lens(0.32, 0.28)], "no layer is seen to, 100% → 28%"),
        (clauses.lens, [lens(0.25, 1.0), lens(0.25, 0.9)], "from layer 1 on, at the output"),
    ],
)
def test_clauses(say, tables, words):
    text = say(*tables)
    for word in words.split(", "):
        assert (word[1:] not in text) if word.startswith("!") else (word in text), text


def test_rank_is_one_number_on_the_whole_page():
    """The sentence on geometry and the first screen: stable rank, weighted by energy."""
    shapes = {"a": (3.0, 2.0), "b": (1.0, 12.0), "c": (0.0, 0.0)}
    first_screen = [
        {"dW_fro": fro, "W_fro": 9.0, "dW_stable_rank": rank} for fro, rank in shapes.values()
    ]
    sentence = clauses.rank_of_update([spectrum(rank, fro) for fro, rank in shapes.values()])
    assert f"stable rank is {clauses.short(update_size(first_screen)[1])}," in sentence
    ranks = [clause for clause in levels.CLAUSES if "rank" in clause.rule.split("_rank")[0]]
    assert [clause.say for clause in ranks] == [clauses.rank_of_update]


@pytest.mark.parametrize(
    "accuracies, says",
    [
        ((0.9, 0.3), "still in the stream: output suppression"),
        (
            (0.38, 0.3),
            "no layer is seen to read more than the output",
        ),  # from .33, the output to .35
        ((0.3, 0.27), "is seen to read more"),  # up to .35, beyond .22 + .1
        ((0.25, 0.3), "no layer reads more than 0.1 above the output"),
    ],
)
def test_what_the_lens_says_of_a_filter(tmp_path, accuracies, says, monkeypatch):
    path = tmp_path / "lens.csv"
    rows = lens(*accuracies)
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(filter_module, "lens_file", lambda home: path)
    text = filter_module.lens_sentence(tmp_path)
    assert says in text and f"{accuracies[-1]:.2f} at the output" in text


@pytest.mark.parametrize(
    "low, half_a, says",
    [
        (0.3, 0.95, "hidden, not removed"),
        (0.2, 0.95, "not shown to be hidden"),
        ("", 0.95, "not shown to be hidden"),
        (0.3, 0.7, "no evidence"),
    ],
)
def test_what_relearning_says_of_a_filter(tmp_path, low, half_a, says, monkeypatch):
    path, home = tmp_path / "recovery.csv", tmp_path / "base__filter"
    path.write_text(
        f"model,recovery_over_filtered,ci_low,split_a_accuracy\nbase__filter,0.4,{low},{half_a}\n"
    )
    monkeypatch.setattr(filter_module, "recovery_files", lambda home: [path])
    assert says in filter_module.relearning_sentence(home)
    # one story with the verdict on the first screen
    assert (filter_module.HIDDEN, filter_module.RELEARNED) == (verdict.HIDDEN, verdict.RELEARNED)


def test_a_clause_is_not_defined_where_a_number_is_missing():
    assert clauses.size([{"dW_fro": None, "W_fro": 10}]) is None
    assert clauses.moved_activations(norms(0.6, 0.1)[:1]) is None
    assert clauses.sensitivity(jacobian(5, 9)[:1]) is None


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
