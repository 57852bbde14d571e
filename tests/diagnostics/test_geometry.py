"""Steps 7 and 10 and the spectra: planted subspaces, identity, rotation, and the expectations of
random matrices.
"""

import math
import shutil

import pytest
import torch

from brittle.base.errors import UserError
from brittle.base.tables import read_table
from brittle.maths import intervals, linalg
from support.tiny_models import FAMILIES, make_model, save, script

null_space, nullspace, spectra, params = (
    script(n)
    for n in (
        "null_space_analysis",
        "mlp_nullspace_alignment",
        "singular_value_spectrum",
        "collect_param_stats",
    )
)
UP, DOWN = (f"gpt_neox.layers.1.mlp.{n}.weight" for n in ("dense_h_to_4h", "dense_4h_to_h"))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(rows, columns, seed=0):
    return torch.linalg.qr(draw(rows, columns, seed=seed))[0]


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (16, 16)])
def test_svd_from_the_gram_matrix(shape):
    w = draw(*shape)
    u, s, v = linalg.svd(w)
    eye = torch.eye(min(shape), dtype=torch.float64)
    assert (
        torch.allclose((u * s) @ v.T, w)
        and torch.allclose(u.T @ u, eye)
        and torch.allclose(v.T @ v, eye)
    )
    u5, s5, v5 = linalg.svd(w, 5)
    assert torch.allclose((u5 * s5) @ v5.T, (u[:, :5] * s[:5]) @ v[:, :5].T) and torch.allclose(
        s5, s[:5]
    )


def test_svd_of_a_rank_deficient_matrix_has_orthonormal_bases():
    w = draw(30, 3) @ draw(3, 12, seed=1)
    u, s, v = linalg.svd(w)
    eye = torch.eye(12, dtype=torch.float64)
    assert (
        linalg.rank(s) == 3
        and torch.allclose(u.T @ u, eye)
        and torch.allclose((u[:, :3] * s[:3]) @ v[:, :3].T, w)
    )


def test_principal_angles_against_scipy():
    from scipy.linalg import subspace_angles

    q, r = orthonormal(20, 4), orthonormal(20, 4, seed=1)
    wanted = torch.tensor(subspace_angles(q.numpy(), r.numpy())).flip(0)
    assert torch.allclose(linalg.principal_angles(q, r), wanted, rtol=1e-9)
    near = torch.linalg.qr(q + 1e-10 * draw(20, 4, seed=2))[0]  # where a cosine says nothing
    assert 1e-11 < linalg.grassmann(linalg.principal_angles(q, near)) < 1e-8
    assert linalg.alignment(
        linalg.principal_angles(q, q @ orthonormal(4, 4, seed=3))
    ) == pytest.approx(1)


def test_random_subspaces_align_by_chance():
    found = [
        linalg.alignment(
            linalg.principal_angles(orthonormal(60, 6, i), orthonormal(60, 6, 1000 + i))
        )
        for i in range(200)
    ]
    _, low, high = intervals.mean_interval(found)
    assert low - 0.002 < 6 / 60 < high + 0.002


def test_equal_energies_have_full_entropy_rank():
    assert linalg.entropy_rank(torch.full((7,), 3.0, dtype=torch.float64)) == pytest.approx(7)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """base, and `edited`: a rank-2 update inside W's smallest left directions of the MLP's
    down-projection.
    """
    root = tmp_path_factory.mktemp("geometry")
    base = save(make_model(), root / "base")
    model = make_model()
    with torch.no_grad():
        weight = model.get_parameter(DOWN)
        u, _, v = torch.linalg.svd(weight.double(), full_matrices=False)
        weight.add_((u[:, -2:] @ v[-2:]).float() * 0.05)
    return base, save(model, root / "edited")


def run(module, name, a, b, outdir, **options):
    module.main(a, b, outdir, **options)
    table = read_table(outdir / name)
    assert list(table) == module.COLUMNS
    return table


def test_null_space_of_identical_models(models, tmp_path):
    table = run(null_space, "null_space_results.csv", models[0], models[0], tmp_path, device="cpu")
    zero = [
        "top10_variance_ratio",
        "effective_rank",
        "entropy_rank",
        "grassmann_distance",
        "grassmann_distance_right",
        "below_ulp",
    ]
    assert (table[zero] == 0).all(axis=None) and (
        table[["subspace_alignment", "subspace_alignment_right"]] == 1
    ).all(axis=None)
    assert len(table) == 14 and (table.n_null == 3).all()


def test_null_space_of_a_planted_update(models, tmp_path):
    table = run(null_space, "null_space_results.csv", *models, tmp_path, device="cpu").set_index(
        "name"
    )
    row = table.loc[DOWN]
    assert (
        row.effective_rank == 2
        and row.top10_variance_ratio == pytest.approx(1)
        and row.entropy_rank == pytest.approx(2, rel=1e-3)
    )
    assert (
        row.subspace_alignment == pytest.approx(1) and row.grassmann_distance < 1e-3
    )  # the largest directions stay
    assert row.null_effective_rank > 20 and row.null_subspace_alignment < 0.999
    assert (table.drop(DOWN).effective_rank == 0).all()


def test_null_of_a_random_update_holds_a_random_update():
    """A Gaussian dW is no different from its null."""
    w = draw(40, 30)
    nulls = null_space.Nulls(20, 0)
    found = null_space.measure("x", w, w + 0.5 * draw(40, 30, seed=9), 5, [nulls], {})[0]
    assert found["subspace_alignment"] == pytest.approx(found["null_subspace_alignment"], abs=0.1)
    assert found["effective_rank"] == pytest.approx(found["null_effective_rank"], abs=1.5)
    again = null_space.measure(
        "x", w, w + 0.5 * draw(40, 30, seed=9), 5, [null_space.Nulls(20, 0)], {}
    )[0]
    assert again == found


def test_null_interval_holds_another_random_update():
    """M9: the bounds are those of one draw, so that a random update lies within; the interval of
    the mean held it in 61 %.
    """
    w, held = draw(16, 12), 0
    for seed in range(60):
        one = null_space.measure(
            "x", w, w + 0.3 * draw(16, 12, seed=100 + seed), 3, [null_space.Nulls(6, seed)], {}
        )[0]
        low, high = (one[f"null_subspace_alignment_{end}"] for end in ("low", "high"))
        assert 0 <= low <= one["null_subspace_alignment"] <= high <= 1
        held += low <= one["subspace_alignment"] <= high
    assert held >= 0.88 * 60
    alone = null_space.measure(
        "x", w, w + 0.3 * draw(16, 12, seed=9), 3, [null_space.Nulls(1, 0)], {}
    )[0]
    assert alone["null_subspace_alignment"] and alone["null_subspace_alignment_low"] is None


def test_rotating_both_models_changes_nothing():
    w, b, (q, r) = (
        draw(24, 16),
        draw(24, 16, seed=1),
        (orthonormal(24, 24, seed=2), orthonormal(16, 16, seed=3)),
    )
    plain, turned = (
        null_space.measure("x", *pair, 4, [null_space.Nulls(1, 0)], {})[0]
        for pair in ((w, b), (q @ w @ r, q @ b @ r))
    )
    for column in null_space.COLUMNS[3:10]:
        assert turned[column] == pytest.approx(plain[column], rel=1e-8)


def test_k_falls_to_the_rank():
    w = draw(20, 3) @ draw(3, 15, seed=1)
    assert null_space.measure("x", w, w + 0.1 * w, 10, [null_space.Nulls(1, 0)], {})[0]["k"] == 3


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (32, 32)])
def test_energy_in_smallest_directions(shape):
    """A planted dW along the smallest direction lies wholly in every bottom set; one along the
    largest, in none.
    """
    w = draw(*shape)
    u, _, vt = torch.linalg.svd(w, full_matrices=False)
    for which, share in ((-1, 1.0), (0, 0.0)):
        for row in nullspace.measure(w, torch.outer(u[:, which], vt[which])):
            if row["subspace"] == "bottom":
                assert row["nullspace_share"] == pytest.approx(share, abs=1e-9)
            assert row["nullspace_share"] + row["column_space_share"] == pytest.approx(1)


def test_exact_nullspace():
    """W of rank 5: a dW outside its row space is all null on the right, by every threshold."""
    w = draw(30, 5) @ orthonormal(20, 5).T
    outside = torch.linalg.qr(torch.cat([orthonormal(20, 5), draw(20, 15, seed=4)], 1))[0][:, 5:]
    rows = list(nullspace.measure(w, draw(30, 15, seed=5) @ outside.T))
    right = [r for r in rows if r["side"] == "right" and r["subspace"] == "below"]
    assert all(r["dimension"] == 15 and r["nullspace_share"] == pytest.approx(1) for r in right)


def test_random_update_has_the_null_share():
    """95 % intervals of the Beta law hold about 95 % of random draws."""
    w, inside = draw(40, 12), []
    for seed in range(40):
        rows = list(nullspace.measure(w, draw(40, 12, seed=100 + seed)))
        inside += [
            r["null_low"] <= r["nullspace_share"] <= r["null_high"] for r in rows if r["dimension"]
        ]
    assert 0.9 < sum(inside) / len(inside) < 0.99


def test_mlp_nullspace_files(models, tmp_path):
    same = run(nullspace, "nullspace.csv", models[0], models[0], tmp_path, device="cpu")
    assert (same[["nullspace_share", "column_space_share", "share_over_null"]].fillna(0) == 0).all(
        axis=None
    )
    table = run(nullspace, "nullspace.csv", *models, tmp_path, device="cpu")
    part = table[(table.name == DOWN) & (table.subspace == "bottom") & (table.level == 0.1)]
    assert (
        (part.nullspace_share > 0.99).all()
        and (part.share_over_null > 5).all()
        and set(part.side) == {"left", "right"}
    )
    assert set(table.name.str.contains("mlp")) == {True} and set(table.layer) == {0, 1, 2}


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family, tmp_path):
    a, b = (
        save(make_model(family), tmp_path / "a"),
        save(make_model(family, seed=1), tmp_path / "b"),
    )
    found = run(
        null_space, "null_space_results.csv", a, b, tmp_path / "n", null_draws=1, device="cpu"
    )
    assert (found.effective_rank > 0).all()
    assert set(run(nullspace, "nullspace.csv", a, b, tmp_path / "m", device="cpu").layer) == {
        0,
        1,
        2,
    }


def test_broken_matrix(models, tmp_path):
    model = make_model()
    with torch.no_grad():
        model.get_parameter(UP)[0, 0] = math.inf
    broken = save(model, tmp_path / "b")
    for module, name in ((null_space, "null_space_results.csv"), (nullspace, "nullspace.csv")):
        with pytest.raises(UserError, match=r"NaN or Inf \(1 such"):
            run(module, name, models[0], broken, tmp_path / "out", device="cpu")
        row = read_table(tmp_path / "out" / name).set_index("name").loc[UP]
        assert row.drop("layer").drop(["group", "seed"], errors="ignore").isna().all()


def test_spectrum_of_noise_is_marchenko_pastur():
    found = spectra.measure(torch.linalg.svdvals(draw(300, 150)), 300, 150)
    assert found["n_above_noise"] == 0 and found["energy_above_noise"] == 0
    assert found["spectral"] == pytest.approx(found["noise_edge"], rel=0.04)
    assert found["stable_rank"] == pytest.approx(found["null_stable_rank"], rel=0.06)
    assert found["participation_ratio"] == pytest.approx(
        found["null_participation_ratio"], rel=0.03
    )


def test_spikes_stand_out_of_noise():
    w = draw(200, 100) / 10 + 40 * orthonormal(200, 3) @ orthonormal(100, 3, seed=1).T
    found = spectra.measure(torch.linalg.svdvals(w), 200, 100)
    assert found["n_above_noise"] == 3 and found["energy_above_noise"] > 0.9


def test_decay_of_a_power_law():
    s = torch.arange(1, 101, dtype=torch.float64) ** -1.5
    assert spectra.decay(s) == pytest.approx(-1.5)


def test_spectrum_script_reads_step_1(models, tmp_path):
    with pytest.raises(UserError, match="Step 1 makes it"):
        spectra.main(*models, tmp_path / "singular_value_spectrum")
    params.main(*models, tmp_path / "param_stats", device="cpu")
    table = run(spectra, "spectrum_summary.csv", *models, tmp_path / "singular_value_spectrum")
    row = table[(table.name == DOWN) & (table.matrix == "dW")].iloc[0]
    assert (
        row.empirical_rank == 2
        and row.stable_rank == pytest.approx(2, rel=1e-3)
        and row.n_above_noise == 2
    )
    still = table[(table.name != DOWN) & (table.matrix == "dW")]
    assert (still[["spectral", "fro", "stable_rank", "entropy_rank", "n_above_noise"]] == 0).all(
        axis=None
    )


def test_null_space_reads_the_spectra_that_step_1_keeps(models, tmp_path, monkeypatch):
    """Of dW nothing is decomposed twice; where step 1 read other files, or its spectra were
    touched, it is decomposed here.
    """
    alone = run(
        null_space, "null_space_results.csv", *models, tmp_path / "alone" / "x", device="cpu"
    )
    params.main(*models, tmp_path / "pair" / "param_stats", device="cpu")
    monkeypatch.setattr(linalg, "change_spectrum", lambda *_: pytest.fail("decomposed again"))
    kept = run(null_space, "null_space_results.csv", *models, tmp_path / "pair" / "x", device="cpu")
    assert kept.equals(alone)
    with pytest.raises(pytest.fail.Exception, match="decomposed again"):
        null_space.main(
            shutil.copytree(models[0], tmp_path / "copy"),
            models[1],
            tmp_path / "pair" / "z",
            device="cpu",
        )
    spectra = tmp_path / "pair" / "param_stats" / "spectra.safetensors"
    spectra.write_bytes(spectra.read_bytes()[:-8])
    with pytest.raises(pytest.fail.Exception, match="decomposed again"):
        null_space.main(*models, tmp_path / "pair" / "y", device="cpu")
