"""Steps 1, 2 and 6: planted updates, identity, scaling, rotation, every family; headers as in the
README's Appendix A.
"""

import json

import pytest
import torch

from brittle.base.errors import UserError
from brittle.base.tables import read_table
from support.tiny_models import FAMILIES, make_model, save, script

stats, plots, mlp_attn = (
    script(n) for n in ("collect_param_stats", "plot_param_stats", "analyze_mlp_vs_attn")
)

PER_MATRIX = [
    "name",
    "layer",
    "group",
    "shape0",
    "shape1",
    "dW_fro",
    "W_fro",
    "dW_fro_rel",
    "dW_spectral",
    "W_spectral",
    "dW_spectral_rel",
    "dW_stable_rank",
    "W_stable_rank",
]
PER_LAYER = [
    "layer",
    "group",
    "dW_fro_layer",
    "W_fro_layer",
    "dW_fro_layer_rel",
    "max_dW_spectral",
    "max_W_spectral",
    "max_dW_spectral_rel",
    "mean_dW_stable_rank",
    "count_mats",
]
EDITED = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"


def plant(model, name, update):
    """`model` with `update` added to the parameter `name`, in place."""
    with torch.no_grad():
        model.get_parameter(name).add_(update)
    return model


def low_rank(rows, columns, rank, scale=1.0):
    generator = torch.Generator().manual_seed(5)
    u, _ = torch.linalg.qr(torch.randn(rows, rank, generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(columns, rank, generator=generator, dtype=torch.float64))
    return (scale * u @ v.T).float()


def run(a, b, root, **options):
    """Step 1's two tables."""
    stats.main(str(a), str(b), root / "param_stats", device="cpu", **options)
    return read_table(root / "param_stats/per_matrix.csv"), read_table(
        root / "param_stats/per_layer.csv"
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save(make_model(), tmp_path_factory.mktemp("models") / "base")


def edited(folder, scale, rank=2):
    return save(plant(make_model(), EDITED, low_rank(64, 32, rank, scale)), folder)


def test_headers_are_the_contract(base, tmp_path):
    matrices, layers = run(base, base, tmp_path)
    assert list(matrices) == PER_MATRIX and list(layers) == PER_LAYER
    matrices, layers = run(base, base, tmp_path, empirical_rank=True)
    assert list(matrices) == [*PER_MATRIX, "dW_empirical_rank", "W_empirical_rank"]
    assert list(layers) == [*PER_LAYER[:-1], "mean_dW_empirical_rank", "count_mats"]


def test_a_against_itself_is_zero(base, tmp_path):
    matrices, layers = run(base, base, tmp_path, empirical_rank=True)
    for table in (matrices, layers):
        changes = table[[c for c in table if "dW" in c]]
        assert (changes == 0).all(axis=None)
    mlp_attn.main(base, base, tmp_path / "mlp_attn_analysis")
    summary = read_table(tmp_path / "mlp_attn_analysis/mlp_attn_summary.csv")
    assert list(summary) == mlp_attn.COLUMNS and (summary.drop(columns="layer") == 0).all(axis=None)


def test_every_matrix_has_a_row_and_embeddings_stay_out_of_layers(base, tmp_path):
    matrices, layers = run(base, base, tmp_path)
    assert len(matrices) == 14 and set(matrices[matrices.layer == -1].group) == {"other"}
    assert layers.groupby("group").count_mats.sum().to_dict() == {"attn": 6, "mlp": 6}
    assert list(layers.layer) == [0, 0, 1, 1, 2, 2] and list(layers.group[:2]) == ["attn", "mlp"]


def test_planted_update(base, tmp_path):
    matrices, layers = run(base, edited(tmp_path / "b", 0.5, rank=3), tmp_path, empirical_rank=True)
    row = matrices.set_index("name").loc[EDITED]
    assert row.dW_fro == pytest.approx(0.5 * 3**0.5, rel=1e-5)
    assert row.dW_spectral == pytest.approx(0.5, rel=1e-5)
    assert row.dW_stable_rank == pytest.approx(3, rel=1e-5) and row.dW_empirical_rank == 3
    assert (matrices[matrices.name != EDITED].dW_fro == 0).all()
    layer = layers.set_index(["layer", "group"])
    assert layer.loc[(1, "mlp")].dW_fro_layer == pytest.approx(row.dW_fro)
    assert layer.loc[(1, "mlp")].mean_dW_stable_rank == pytest.approx(row.dW_stable_rank / 2)
    assert layer.loc[(1, "attn")].dW_fro_layer == 0


def test_scaling_the_update_scales_norms_and_leaves_ranks(base, tmp_path):
    one, _ = run(base, edited(tmp_path / "one", 0.25), tmp_path / "1", empirical_rank=True)
    four, _ = run(base, edited(tmp_path / "four", 1.0), tmp_path / "4", empirical_rank=True)
    x, y = (t.set_index("name").loc[EDITED] for t in (one, four))
    for column in ("dW_fro", "dW_spectral", "dW_fro_rel", "dW_spectral_rel"):
        assert y[column] == pytest.approx(4 * x[column], rel=1e-5)
    assert (
        y.dW_stable_rank == pytest.approx(x.dW_stable_rank, rel=1e-5)
        and y.dW_empirical_rank == x.dW_empirical_rank
    )


def test_rotating_both_models_changes_no_number(tmp_path):
    q, _ = torch.linalg.qr(
        torch.randn(64, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    )
    tables = []
    for turn in (torch.eye(64, dtype=torch.float64), q):
        pair = [make_model().double(), plant(make_model(), EDITED, low_rank(64, 32, 2)).double()]
        for side, model in zip("ab", pair, strict=True):
            model.get_parameter(EDITED).data = turn @ model.get_parameter(EDITED).data
            save(model, tmp_path / side)
        tables.append(
            run(tmp_path / "a", tmp_path / "b", tmp_path)[0].set_index("name").loc[EDITED]
        )
    for column in PER_MATRIX[5:]:
        assert tables[1][column] == pytest.approx(tables[0][column], rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_against_the_svd(family, tmp_path):
    from brittle.models.weights import matrix_pairs

    a, b = (
        save(make_model(family), tmp_path / "a"),
        save(make_model(family, seed=1), tmp_path / "b"),
    )
    matrices, layers = run(a, b, tmp_path)
    assert set(layers.layer) == {0, 1, 2} and set(layers.group) == {"attn", "mlp"}
    for row, (name, w_a, w_b) in zip(matrices.to_dict("records"), matrix_pairs(a, b), strict=True):
        s_w, s_d = (torch.linalg.svdvals(w) for w in (w_a.double(), w_b.double() - w_a.double()))
        assert row["name"] == name and (row["shape0"], row["shape1"]) == tuple(w_a.shape)
        assert row["dW_spectral"] == pytest.approx(float(s_d[0]), rel=1e-6)
        assert row["W_stable_rank"] == pytest.approx(float((s_w**2).sum() / s_w[0] ** 2), rel=1e-6)


def test_gpt2_is_turned(tmp_path):
    """Conv1D keeps [in, out]; shape0 is output features."""
    folder = save(make_model("gpt2"), tmp_path / "a")
    matrices, _ = run(folder, folder, tmp_path)
    shapes = matrices.set_index("name")[["shape0", "shape1"]]
    assert list(shapes.loc["transformer.h.0.attn.c_attn.weight"]) == [96, 32]
    assert list(shapes.loc["transformer.h.0.mlp.c_proj.weight"]) == [32, 64]
    assert list(shapes.loc["transformer.wte.weight"]) == [48, 32]


def test_spectra_are_kept(base, tmp_path):
    from safetensors.torch import load_file

    b = edited(tmp_path / "b", 1.0)
    matrices, _ = run(base, b, tmp_path)
    spectra = load_file(tmp_path / "param_stats/spectra.safetensors")
    assert len(spectra) == 3 * len(matrices)
    weight = make_model().get_parameter(EDITED).detach().double()
    assert torch.allclose(spectra[f"W_a/{EDITED}"], torch.linalg.svdvals(weight), rtol=1e-9)


def test_bf16_update_below_rounding_is_said(tmp_path, capsys):
    """A float32 update of 0.1 unit in the last place survives rounding as a few flipped bits: a
    rank that means nothing.
    """
    model = make_model()
    update = (
        1e-4
        * torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
        * model.get_parameter(EDITED).data.std()
    )
    a = save(make_model(), tmp_path / "a", torch.bfloat16)
    b = save(plant(model, EDITED, update), tmp_path / "b", torch.bfloat16)
    matrices, _ = run(a, b, tmp_path)
    assert matrices.set_index("name").loc[EDITED].dW_fro > 0
    assert f"{EDITED} (1 such matrices) is below one unit" in capsys.readouterr().err
    assert json.loads((tmp_path / "param_stats/per_layer.run.json").read_text())["settings"][
        "rounding"
    ] == [EDITED]


def test_nan_matrix_has_an_empty_row_and_the_exit_status_tells(base, tmp_path):
    model = make_model()
    with torch.no_grad():
        model.get_parameter(EDITED)[3, 4] = float("nan")
    broken = save(model, tmp_path / "b")
    with pytest.raises(UserError, match=rf"{EDITED} holds NaN or Inf \(1 such"):
        stats.main(base, broken, tmp_path / "param_stats", device="cpu")
    matrices, layers = (
        read_table(tmp_path / "param_stats/per_matrix.csv"),
        read_table(tmp_path / "param_stats/per_layer.csv"),
    )
    assert matrices.set_index("name").loc[EDITED].iloc[4:].isna().all() and len(matrices) == 14
    assert layers.dW_fro_layer.isna().sum() == 1
    plots.main(base, broken, tmp_path / "param_plots")
    mlp_attn.main(base, broken, tmp_path / "mlp_attn_analysis")
    summary = read_table(tmp_path / "mlp_attn_analysis/mlp_attn_summary.csv")
    assert summary.mlp_attn_ratio.isna().tolist() == [False, True, False]


def test_ratio_of_mlp_to_attention():
    layers = [
        {"layer": 0, "group": g, "dW_fro_layer": 1.0, "dW_fro_layer_rel": r}
        for g, r in (("attn", 0.1), ("mlp", 0.4))
    ]
    layers += [
        {"layer": 1, "group": g, "dW_fro_layer": 1.0, "dW_fro_layer_rel": r}
        for g, r in (("attn", 0.0), ("mlp", 0.4))
    ]
    first, second = mlp_attn.rows(layers)
    assert first["mlp_attn_ratio"] == pytest.approx(4) and second["mlp_attn_ratio"] is None


def test_figures_are_drawn_and_deterministic(base, tmp_path, each_figure):
    run(base, edited(tmp_path / "b", 1.0), tmp_path, empirical_rank=True)
    names = {
        f"{n}_{g}.png"
        for n in ("layer_locality", "stable_rank", "spectral_norm")
        for g in ("attn", "mlp")
    }
    drawn = []
    for _ in range(2):
        plots.main(base, str(tmp_path / "b"), tmp_path / "param_plots")
        drawn.append({p.name: p.read_bytes() for p in (tmp_path / "param_plots").glob("*.png")})
    assert set(drawn[0]) == names | {"rank_comparison.png"} and drawn[0] == drawn[1]


@pytest.mark.parametrize("module", [plots, mlp_attn])
def test_missing_neighbour_names_its_step(module, base, tmp_path):
    with pytest.raises(UserError, match="Step 1 makes it: uv run experiment/collect_param_stats"):
        module.main(base, base, tmp_path / "x")
