"""Bases of the activation filter, each in closed form from the moments of forget and retain states (float64)."""

import torch

from brittle.base.errors import UserError

BASES = ("gep", "pca", "cpca", "nullspace", "leace", "loss", "mean_diff", "nspu_released")
RIDGE = 1e-2  # gamma: of the retain set's mean energy a direction, so that directions it never uses cost something
MOST = 32  # directions
SELECTIVE = 2.0  # a largest forget-to-retain energy ratio below this: no linear filter at that site can be selective
CLEAR = 4.0  # directions of `gep` and `loss` whose ratio lies below this are left out
MASSIVE = 100.0  # a coordinate whose variance exceeds so many medians is left out of PCA-type bases
BETAS = (0.5, 1.0, 2.0, 4.0, 8.0)


def ridged(second, ridge=RIDGE):
    """S + ridge tr(S) / d I."""
    d = len(second)
    return second + ridge * second.trace() / d * torch.eye(
        d, dtype=second.dtype, device=second.device
    )


def generalised(forget, retain, ridge=RIDGE):
    """(lambda [d] descending, u [d, d]) of S_F u = lambda (S_R + ridge) u: directions by their energy ratio, forget : retain.

    Cholesky of the right side, eigh of L^-1 S_F L^-T; lambda are ratios, u are not orthogonal (see `orthonormal`).
    """
    lower = torch.linalg.cholesky(ridged(retain, ridge))
    half = torch.linalg.solve_triangular(lower, forget, upper=False)
    values, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(lower, half.T, upper=False))
    return values.flip(0), torch.linalg.solve_triangular(lower.T, vectors.flip(1), upper=True)


def orthonormal(u):
    """[d, k] orthonormal; its first j columns span what u's first j columns span."""
    return torch.linalg.qr(u)[0]


def top(matrix, k):
    """(eigenvalues [d] descending, the k leading eigenvectors [d, k]) of a symmetric matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0), vectors.flip(1)[:, :k]


def without_massive(covariance):
    """The covariance with massive coordinates (outlier dimensions of the residual stream) set to zero, and which they are."""
    variance = covariance.diagonal()
    massive = variance > MASSIVE * variance.median()
    keep = (~massive).to(covariance.dtype)
    return covariance * keep[:, None] * keep, massive.nonzero().flatten().tolist()


def _gep(forget, retain, k):
    values, u = generalised(forget.second, retain.second)
    return orthonormal(u[:, :k]), values, {}


def _pca(forget, retain, k):
    covariance, massive = without_massive(forget.covariance)
    values, u = top(covariance, k)
    return u, values, {"massive": massive}


def _cpca(forget, retain, k):
    (cf, massive), cr = without_massive(forget.covariance), retain.covariance
    found = []
    for beta in BETAS:
        values, u = top(cf - beta * cr, k)
        found.append((energy(u, forget.second) - energy(u, retain.second), beta, u, values))
    _, beta, u, values = max(found, key=lambda f: f[0])
    return u, values, {"beta": beta, "massive": massive}


def _nullspace(forget, retain, k, share=0.99):
    values, v = top(retain.second, retain.width)
    used = int((values.cumsum(0) < share * values.sum()).sum()) + 1
    if retain.width - used < 1:
        raise UserError(
            f"the retain set fills all {retain.width} directions: there is no null space. Use --basis gep."
        )
    free = v[:, used:]  # coordinates of what the retain set leaves
    values, inside = top(free.T @ forget.covariance @ free, k)
    return free @ inside, values, {"retain_directions": used}


def _mean_diff(forget, retain, k):
    u = torch.linalg.solve(ridged(retain.second), forget.mean - retain.mean)
    return (u / torch.linalg.vector_norm(u))[:, None], None, {}


def _leace(forget, retain, k):
    """Least-squares concept erasure (Belrose et al. 2023, arXiv:2306.03819, theorem 4.3) of "forget or retain", evenly weighted:
    y - W^+ u u^T W (y - mean), W the whitening matrix, u the whitened difference of means; oblique, so it has a `read`."""
    mean, apart = (forget.mean + retain.mean) / 2, forget.mean - retain.mean
    covariance = (forget.covariance + retain.covariance) / 2 + torch.outer(apart, apart) / 4
    values, vectors = torch.linalg.eigh(covariance)
    keep = values > 1e-10 * values[-1]
    values, vectors = values[keep], vectors[:, keep]
    u = (vectors.T @ apart) / values.sqrt()
    u = u / torch.linalg.vector_norm(u)
    write, read = vectors @ (u * values.sqrt()), vectors @ (u / values.sqrt())
    size = torch.linalg.vector_norm(write)
    return (write / size)[:, None], None, {"read": (read * size)[:, None], "offset": mean}


def _nspu_released(forget, retain, k, share=0.95):
    """The filter that the code of arXiv:2601.04275 releases, reproduced with its errors to show what they do: PCA of the
    transposed matrix, scores in place of an orthonormal basis, and min-max rescaling of the basis, of U U^T and of I - U U^T
    to [-1, 1]. Not a projection: one eigenvalue is strongly negative. M_a = (1 - a) I + a F, so `read` is I - F."""

    def rescaled(x):
        return 2 * (x - x.min()) / (x.max() - x.min()) - 1

    d = forget.width
    one = torch.eye(d, dtype=torch.float64, device=forget.total.device)
    centring = one - 1 / d
    values, vectors = top(centring @ forget.products @ centring, d)
    values = values.clamp_min(0)
    count = int((values.cumsum(0) < share * values.sum()).sum()) + 1
    scores = rescaled(vectors[:, :count] * values[:count].sqrt())
    f = rescaled(one - rescaled(scores @ scores.T))
    eigenvalues = torch.linalg.eigvalsh(f)
    about = {"components": count, "eigenvalue_min": float(eigenvalues[0]), "eigenvalue_max": float(eigenvalues[-1]),
             "idempotence_error": float(torch.linalg.norm(f @ f - f) / torch.linalg.norm(f))}  # fmt: skip
    return one, values, {"read": one - f, **about}


MAKE = {"gep": _gep, "loss": _gep, "pca": _pca, "cpca": _cpca, "nullspace": _nullspace, "leace": _leace,
        "mean_diff": _mean_diff, "nspu_released": _nspu_released}  # fmt: skip


def energy(u, second):
    """Share of the energy tr(S) inside the span of orthonormal u."""
    return float((u.T @ second @ u).trace() / second.trace())


def shared(forget, retain, k):
    """||U_F^T U_R||_F^2 / k for the k leading principal directions of each set: 1 is one subspace, k / d is chance."""
    u, v = leading(forget.covariance, k), leading(retain.covariance, k)
    return float((u.T @ v).square().sum() / k)


def leading(matrix, k, exact=512, rounds=12):
    """[d, k] the leading eigenvectors of a symmetric positive matrix: wider than `exact` by subspace iteration, which is enough
    for a number that is only reported."""
    if len(matrix) <= exact:
        return top(matrix, k)[1]
    g = torch.Generator().manual_seed(0)
    q = torch.randn(len(matrix), 2 * k, generator=g, dtype=torch.float64).to(matrix.device)
    for _ in range(rounds):
        q = torch.linalg.qr(matrix @ q)[0]
    return q @ top(q.T @ matrix @ q, k)[1]


def ratio(forget, retain):
    """The largest forget-to-retain energy ratio that any direction of this site has."""
    return float(generalised(forget.second, retain.second)[0][0])


def make_basis(name, forget, retain, k=None, known=None):
    """(basis [d, k], about) from two Moments. about: spectrum, ratio (lambda_1), energies, overlap, and for oblique filters
    the tensors `read` and `offset`. k None: every direction of ratio above CLEAR (gep, loss), at most MOST.

    For `loss` the moments are those of gradients. `known`: {ratio, overlap} of these moments, where they were computed before.
    """
    if name not in BASES:
        raise UserError(f"--basis {name}: choose {', '.join(BASES)}.")
    d = forget.width
    if k is not None and not 1 <= k <= d:
        raise UserError(f"--k {k}, but states have {d} coordinates: 1 to {d}, or auto.")
    u, values, about = MAKE[name](forget, retain, k or min(MOST, d))
    if k is None and name in ("gep", "loss"):
        u = u[:, : max(1, int((values[: u.shape[1]] > CLEAR).sum()))]
    known = known or {}
    first = (
        float(values[0])
        if name in ("gep", "loss")
        else known["ratio"]
        if "ratio" in known
        else ratio(forget, retain)
    )
    kept = min(u.shape[1], MOST)
    return u, {
        "basis": name, "ratio": first, "spectrum": [] if values is None else values[: 2 * MOST].tolist(),
        "energy_forget": energy(u, forget.second), "energy_retain": energy(u, retain.second),
        "overlap": known["overlap"] if "overlap" in known else shared(forget, retain, kept),
        "n_forget": forget.n, "n_retain": retain.n, **about,
    }  # fmt: skip
