"""Bases of the activation filter, each in closed form from the moments of forget and retain states.

A basis is one function and one entry in MAKE: see `Directions` for what the function gives. The
scripts' help, their checks and the tests go by BASES.

torch is imported where it is used: a script's --help lists BASES without waiting for it.
"""

from typing import Any, NamedTuple

from brittle.base.errors import UserError

RIDGE = 1e-2  # gamma: of the retain set's mean energy a direction; unused directions cost something
MOST = 32  # directions
SELECTIVE = 2.0  # below this largest energy ratio no linear filter at a site can be selective
CLEAR = 4.0  # directions of `gep` and `loss` whose energy ratio lies below this are left out
MASSIVE = 100.0  # PCA-type bases leave out coordinates of a variance beyond so many medians
BETAS = (0.5, 1.0, 2.0, 4.0, 8.0)  # contrasts that cpca tries


class Directions(NamedTuple):
    """What a basis function gives of (forget, retain, k): two Moments and a number of directions.

    `about` goes into filter.json, but for the tensors `read` [d, k] and `offset` [d] of an oblique
    filter (see models/filter.py).
    """

    basis: Any  # tensor [d, j], orthonormal columns, the most telling first; j is k, or 1, or d
    spectrum: Any = None  # tensor of eigenvalues, descending, or None
    about: dict | None = None


def ridged(second, ridge=RIDGE):
    """S + ridge tr(S) / d I."""
    import torch

    d = len(second)
    one = torch.eye(d, dtype=second.dtype, device=second.device)
    return second + ridge * second.trace() / d * one


def generalised(forget, retain, ridge=RIDGE):
    """(lambda [d] descending, u [d, d]) of S_F u = lambda (S_R + ridge) u.

    lambda are the directions' energy ratios, forget : retain. u are not orthogonal (see
    `orthonormal`). Cholesky of the right side, eigh of L^-1 S_F L^-T.
    """
    import torch

    lower = torch.linalg.cholesky(ridged(retain, ridge))
    half = torch.linalg.solve_triangular(lower, forget, upper=False)
    values, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(lower, half.T, upper=False))
    return values.flip(0), torch.linalg.solve_triangular(lower.T, vectors.flip(1), upper=True)


def orthonormal(u):
    """[d, k] orthonormal; its first j columns span what u's first j columns span."""
    import torch

    return torch.linalg.qr(u)[0]


def top(matrix, k):
    """(eigenvalues [d] descending, the k leading eigenvectors [d, k]) of a symmetric matrix."""
    import torch

    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0), vectors.flip(1)[:, :k]


def without_massive(covariance):
    """(the covariance with massive coordinates set to zero, which they are).

    Massive coordinates are the outlier dimensions of the residual stream.
    """
    variance = covariance.diagonal()
    massive = variance > MASSIVE * variance.median()
    keep = (~massive).to(covariance.dtype)
    return covariance * keep[:, None] * keep, massive.nonzero().flatten().tolist()


def energy(u, second):
    """Share of the energy tr(S) inside the span of orthonormal u [d, k]."""
    return float((u.T @ second @ u).trace() / second.trace())


def ratio(forget, retain):
    """The largest forget-to-retain energy ratio that any direction of this site has."""
    return float(generalised(forget.second, retain.second)[0][0])


def shared(forget, retain, k):
    """||U_F^T U_R||_F^2 / k for the k leading principal directions of each set.

    1 is one subspace; two random subspaces give k / d.
    """
    u, v = leading(forget.covariance, k), leading(retain.covariance, k)
    return float((u.T @ v).square().sum() / k)


def leading(matrix, k, exact=512, rounds=12):
    """[d, k] the leading eigenvectors of a symmetric positive matrix.

    Wider than `exact` they are found by subspace iteration, which is enough for a number that is
    only reported.
    """
    import torch

    if len(matrix) <= exact:
        return top(matrix, k)[1]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(len(matrix), 2 * k, generator=generator, dtype=torch.float64)
    q = start.to(matrix.device)
    for _ in range(rounds):
        q = torch.linalg.qr(matrix @ q)[0]
    return q @ top(q.T @ matrix @ q, k)[1]


# --- the bases: (forget, retain, k) -> Directions ---


def contrastive(forget, retain, k):
    """Generalised eigenvectors: the directions of the largest energy ratio, forget : retain."""
    values, u = generalised(forget.second, retain.second)
    return Directions(orthonormal(u[:, :k]), values, {"ratio": float(values[0])})


def contrastive_gradients(forget, retain, k):
    """As `gep`, of the gradients of the loss with respect to the states, in place of the states."""
    return contrastive(forget, retain, k)


def principal(forget, retain, k):
    """Principal components: the directions in which the forget states vary most."""
    covariance, massive = without_massive(forget.covariance)
    values, u = top(covariance, k)
    return Directions(u, values, {"massive": massive})


def contrastive_principal(forget, retain, k):
    """Directions in which the forget states vary more than the retain states.

    Eigenvectors of C_F - beta C_R, for the beta that holds most forget energy above retain's.
    """
    forget_covariance, massive = without_massive(forget.covariance)
    best, most = None, None
    for beta in BETAS:
        values, u = top(forget_covariance - beta * retain.covariance, k)
        excess = energy(u, forget.second) - energy(u, retain.second)
        if most is None or excess > most:
            most, best = excess, Directions(u, values, {"beta": beta, "massive": massive})
    return best


def null_space(forget, retain, k, share=0.99):
    """Principal components of the forget states in the directions that the retain set hardly uses.

    These hold what is left of the retain energy beyond `share` of it. Raises UserError where the
    retain set leaves no direction.
    """
    values, v = top(retain.second, retain.width)
    used = int((values.cumsum(0) < share * values.sum()).sum()) + 1
    if retain.width - used < 1:
        raise UserError(
            f"the retain set fills all {retain.width} directions: there is no null space. "
            "Use --basis gep."
        )
    free = v[:, used:]  # coordinates of what the retain set leaves
    values, inside = top(free.T @ forget.covariance @ free, k)
    return Directions(free @ inside, values, {"retain_directions": used})


def mean_difference(forget, retain, k):
    """One direction: the difference of the means, whitened by the retain states."""
    import torch

    u = torch.linalg.solve(ridged(retain.second), forget.mean - retain.mean)
    return Directions((u / torch.linalg.vector_norm(u))[:, None])


def least_squares_erasure(forget, retain, k):
    """LEACE: one direction, after which no linear predictor tells forget from retain states.

    Belrose et al. 2023, arXiv:2306.03819, theorem 4.3:
    y - W^+ u u^T W (y - mean), with W the whitening matrix of both sets, evenly weighted, and u
    the whitened difference of means. It is oblique, so it has a `read`.
    """
    import torch

    mean, apart = (forget.mean + retain.mean) / 2, forget.mean - retain.mean
    covariance = (forget.covariance + retain.covariance) / 2 + torch.outer(apart, apart) / 4
    values, vectors = torch.linalg.eigh(covariance)
    keep = values > 1e-10 * values[-1]
    values, vectors = values[keep], vectors[:, keep]
    u = (vectors.T @ apart) / values.sqrt()
    u = u / torch.linalg.vector_norm(u)
    write, read = vectors @ (u * values.sqrt()), vectors @ (u / values.sqrt())
    size = torch.linalg.vector_norm(write)
    about = {"read": (read * size)[:, None], "offset": mean}
    return Directions((write / size)[:, None], None, about)


def nspu_released(forget, retain, k, share=0.95):
    """The filter that the code of arXiv:2601.04275 releases, with its errors, to show what they do.

    PCA of the transposed matrix, scores in place of an orthonormal basis, and min-max rescaling of
    the basis, of U U^T and of I - U U^T to [-1, 1]. It is not a projection: one eigenvalue is
    strongly negative. The filter's matrix is (1 - a) I + a F, so `read` is I - F.
    """
    import torch

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
    about = {
        "read": one - f,
        "components": count,
        "eigenvalue_min": float(eigenvalues[0]),
        "eigenvalue_max": float(eigenvalues[-1]),
        "idempotence_error": float(torch.linalg.norm(f @ f - f) / torch.linalg.norm(f)),
    }
    return Directions(one, values, about)


MAKE = {
    "gep": contrastive,
    "pca": principal,
    "cpca": contrastive_principal,
    "nullspace": null_space,
    "loss": contrastive_gradients,
    "leace": least_squares_erasure,
    "mean_diff": mean_difference,
    "nspu_released": nspu_released,
}
BASES = tuple(MAKE)


def check_basis(name, others=()):
    """Raise UserError for what is no basis, nor one of the `others`."""
    if name not in (*others, *BASES):
        raise UserError(f"--basis {name}: choose {', '.join((*others, *BASES))}.")


def take_tensors(about):
    """{read, offset} of an oblique filter, on the CPU in float32; they are taken out of `about`.

    What is left of `about` is what filter.json holds. Empty for an orthogonal filter.
    """
    return {key: about.pop(key).float().cpu() for key in ("read", "offset") if key in about}


def make_basis(name, forget, retain, k=None, known=None):
    """(basis [d, k], about) from two Moments, float64.

    about: spectrum, ratio (of the best direction), energies, overlap, and for oblique filters the
    tensors `read` and `offset`. k None: every direction of ratio above CLEAR (gep, loss), at most
    MOST. For `loss` the moments are those of gradients. known: {ratio, overlap} of these moments,
    where they were computed before: eigenvalues are the expensive part of wide models.

    Raises UserError for an unknown name, and for more directions than the states have.
    """
    check_basis(name)
    d = forget.width
    if k is not None and not 1 <= k <= d:
        raise UserError(f"--k {k}, but states have {d} coordinates: 1 to {d}, or auto.")
    u, spectrum, about = MAKE[name](forget, retain, k or min(MOST, d))
    if k is None and name in ("gep", "loss"):
        u = u[:, : max(1, int((spectrum[: u.shape[1]] > CLEAR).sum()))]
    facts = {
        "basis": name,
        "ratio": None,
        "spectrum": [] if spectrum is None else spectrum[: 2 * MOST].tolist(),
        "energy_forget": energy(u, forget.second),
        "energy_retain": energy(u, retain.second),
        "overlap": None,
        "n_forget": forget.n,
        "n_retain": retain.n,
        **(known or {}),
        **(about or {}),
    }
    if facts["ratio"] is None:
        facts["ratio"] = ratio(forget, retain)
    if facts["overlap"] is None:
        facts["overlap"] = shared(forget, retain, min(u.shape[1], MOST))
    return u, facts
