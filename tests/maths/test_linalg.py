"""Spectra and ranks against torch.linalg.svd and closed forms."""

import pytest
import torch

from brittle.maths import linalg

torch.set_num_threads(1)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(40, 40), (90, 30), (30, 90), (5000, 12), (2, 7)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_spectrum_is_that_of_the_svd(shape, dtype):
    w = draw(*shape).to(dtype)
    exact = torch.linalg.svdvals(w.double())
    s = linalg.spectrum(w)
    assert s.dtype == torch.float64 and s.shape == exact.shape
    assert torch.allclose(s, exact, rtol=1e-6, atol=1e-7 * float(exact[0]))
    assert linalg.frobenius(s) == pytest.approx(float(w.double().norm()), rel=1e-12)


def test_known_spectrum():
    q, _ = torch.linalg.qr(draw(6, 6))
    r, _ = torch.linalg.qr(draw(20, 6, seed=1))
    s = torch.tensor([9.0, 3.0, 1.0, 0.5, 0.1, 0.01], dtype=torch.float64)
    assert torch.allclose(linalg.spectrum((r * s) @ q), s, rtol=1e-9)


def test_rotation_changes_no_spectrum():
    w, (q, _) = draw(24, 16), torch.linalg.qr(draw(24, 24, seed=1))
    assert torch.allclose(linalg.spectrum(q @ w), linalg.spectrum(w), rtol=1e-10)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_planted_rank(rank):
    w = draw(40, rank) @ draw(rank, 30, seed=1)
    s = linalg.spectrum(w)
    assert linalg.empirical_rank(s) <= rank and linalg.empirical_rank(s, 1 - 1e-12) == rank
    assert 1 <= linalg.stable_rank(s) <= rank + 1e-9


def test_equal_singular_values_have_full_stable_rank():
    q, _ = torch.linalg.qr(draw(30, 12))
    s = linalg.spectrum(7 * q)
    assert linalg.stable_rank(s) == pytest.approx(12) and linalg.empirical_rank(s) == 12


def test_scaling_leaves_ranks():
    s = linalg.spectrum(draw(20, 30))
    t = linalg.spectrum(1e-6 * draw(20, 30))
    assert linalg.frobenius(t) == pytest.approx(1e-6 * linalg.frobenius(s))
    assert linalg.stable_rank(t) == pytest.approx(linalg.stable_rank(s))
    assert linalg.empirical_rank(t) == linalg.empirical_rank(s)


def test_zero_matrix_has_rank_zero():
    s = linalg.spectrum(torch.zeros(4, 9))
    assert (linalg.frobenius(s), linalg.stable_rank(s), linalg.empirical_rank(s)) == (0, 0, 0)
    assert (linalg.entropy_rank(s), linalg.top_share(s)) == (0, 0)


def test_one_direction_has_rank_one():
    for s in ([2.0], [2.0, 0.0, 0.0]):
        s = torch.tensor(s, dtype=torch.float64)
        ranks = linalg.stable_rank(s), linalg.empirical_rank(s), linalg.entropy_rank(s)
        assert ranks == pytest.approx((1, 1, 1)) and linalg.top_share(s, 1) == 1


@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e7])
def test_directions_of_a_rank_deficient_matrix_at_any_scale(scale):
    """Orthonormal on both sides, in pairs that give back the matrix, signs included."""
    w = scale * draw(30, 3) @ draw(3, 12, seed=1)
    u, s, v = linalg.svd(w)
    eye = torch.eye(12, dtype=torch.float64)
    assert torch.allclose(u.T @ u, eye) and torch.allclose(v.T @ v, eye)
    assert torch.allclose((u * s) @ v.T / scale, w / scale, atol=1e-7)
    u, s, v = linalg.svd(w, 5)  # two of these are rounding, and mostly above 0
    assert torch.allclose(u.T @ u, eye[:5, :5])


def test_angles_near_a_right_angle_and_near_none():
    for angle in (1e-9, 0.3, torch.pi / 4, 1.2, torch.pi / 2 - 1e-9):
        angle = torch.tensor(angle, dtype=torch.float64)
        q = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
        r = torch.stack([angle.cos(), angle.sin()])[:, None]
        found = linalg.principal_angles(q, r)[0]
        assert float(found) == pytest.approx(float(angle), rel=1e-12)
        assert float(torch.pi / 2 - found) == pytest.approx(float(torch.pi / 2 - angle), rel=1e-6)


@pytest.mark.parametrize("shape", [(40, 15), (15, 40), (3, 9)])
def test_change_of_an_adapter_without_its_product(shape):
    """From the factors: the spectrum and the leading directions of up @ down, zeros beyond its
    rank.
    """
    up, down, w_a = draw(shape[0], 4), draw(4, shape[1], seed=1), draw(*shape, seed=2)
    w_b = w_a + up @ down
    plain, v_plain = linalg.change_spectrum(w_a, w_b), linalg.change_svd(w_a, w_b, 2)[2]
    w_b.factors = (up, down)
    s, (u, top, v) = linalg.change_spectrum(w_a, w_b), linalg.change_svd(w_a, w_b, 2)
    assert (
        s.shape == plain.shape
        and torch.allclose(s, plain, atol=1e-6 * float(plain[0]))
        and linalg.rank(s) == min(4, *shape)
    )
    assert torch.allclose(v @ v.T, v_plain @ v_plain.T, atol=1e-8) and torch.allclose(
        (up @ down) @ v, u * top
    )


@pytest.mark.parametrize("shape", [(60, 25), (25, 60)])
def test_leading_directions_alone(shape):
    w = draw(*shape)
    u, s, v = linalg.svd(w, 6)
    exact_u, exact_s, exact_v = torch.linalg.svd(w)
    assert torch.allclose(s, exact_s[:6]) and torch.allclose(
        (u * s) @ v.T, (exact_u[:, :6] * exact_s[:6]) @ exact_v[:6]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite(dtype):
    w = torch.full(
        (70, 50), torch.finfo(dtype).max, dtype=dtype
    )  # whose sum in its own dtype is not
    assert linalg.finite(w, draw(3, 3))
    for bad in (float("nan"), float("inf"), -float("inf")):
        broken = w.clone()
        broken[3, 4] = bad
        assert not linalg.finite(w, broken)
    broken[0, 0], broken[1, 1] = float("inf"), -float("inf")
    assert not linalg.finite(broken)


def test_blas_has_the_threads_it_is_given():
    from threadpoolctl import threadpool_info

    for threads in (2, 1):
        linalg.limit_blas.cache_clear()
        linalg.limit_blas(threads)
        pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        assert pools and all(pool["num_threads"] == threads for pool in pools)
