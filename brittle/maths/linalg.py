"""Spectra and ranks of matrices, from one float64 Gram matrix on the smaller side.

On the CPU LAPACK does the work, through scipy. Unlike torch it forms half a Gram matrix, and it can
find the leading eigenvectors alone: all singular values of a 768 x 256 matrix take 4.5 ms, where
`torch.linalg.svd` takes 45.
"""

from functools import cache

import torch

from brittle.maths.precision import wide

# Rows at a time (of a wide matrix, columns): a float64 copy of an embedding matrix is never whole
# in memory.
CHUNK = 4096


@cache
def limit_blas(threads):
    """Let the BLAS of numpy, scipy and scikit-learn use `threads` threads from here on.

    With as many as torch no CSV depends on the processors there are, and where steps run side by
    side no idle thread waits by spinning. To find the libraries takes 2 ms, so it is done once.
    """
    import scipy.linalg  # noqa: F401  (only a BLAS that is loaded can be limited)
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads, user_api="blas")


@cache
def lapack():
    """scipy.linalg on as many threads as torch."""
    import scipy.linalg

    limit_blas(torch.get_num_threads())
    return scipy.linalg


def gram(w, dtype=torch.float64):
    """The lower triangle of W W^T or W^T W, whichever is smaller, in `dtype`; w [m, n] of any
    dtype.
    """
    is_wide, n = int(w.shape[0] < w.shape[1]), min(w.shape)
    total = torch.zeros(n, n, dtype=dtype, device=w.device)
    chunks = (chunk.to(dtype) for chunk in w.split(CHUNK, dim=is_wide))
    if w.device.type != "cpu":
        for chunk in chunks:
            factors = (chunk, chunk.T) if is_wide else (chunk.T, chunk)
            total.addmm_(*factors)
        return total
    blas = lapack().blas
    add_product = blas.dsyrk if dtype == torch.float64 else blas.ssyrk
    # In place: BLAS reads what torch writes by rows as its transpose by columns.
    total = total.T.numpy()
    for chunk in chunks:
        columns = chunk.contiguous().numpy().T
        total = add_product(1.0, columns, 1.0, total, trans=is_wide, lower=1, overwrite_c=1)
    return torch.from_numpy(total)


def eigenvalues(symmetric):
    """The eigenvalues [n], ascending, of a symmetric matrix [n, n].

    Only its lower triangle is read, and it may be overwritten.
    """
    if symmetric.device.type != "cpu":
        return torch.linalg.eigvalsh(symmetric)
    values = lapack().eigh(
        symmetric.numpy(), eigvals_only=True, driver="evr", overwrite_a=True, check_finite=False
    )
    return torch.from_numpy(values)


def eigenvectors(symmetric, k=None):
    """(values [k], vectors [n, k]) of the k largest, ascending; by default of all.

    `eigenvalues` says what is read of the matrix.
    """
    n = len(symmetric)
    count = k or n
    if symmetric.device.type != "cpu":
        values, vectors = torch.linalg.eigh(symmetric)
        return values[n - count :], vectors[:, n - count :]
    if count < n // 2:
        how = {"driver": "evr", "subset_by_index": [n - count, n - 1]}
    else:
        how = {"driver": "evd"}
    pairs = lapack().eigh(symmetric.numpy(), overwrite_a=True, check_finite=False, **how)
    values, vectors = map(torch.from_numpy, pairs)
    return values[-count:], vectors[:, -count:]


def spectrum(w, dtype=torch.float64):
    """All singular values of w [m, n], descending, `dtype` [min(m, n)].

    They are the roots of Gram eigenvalues. The largest is exact to about 1e-15 relative; one at
    1e-8 of it or below is rounding. In float32 the two limits are 1e-7 and 3e-4.
    """
    return eigenvalues(gram(w, dtype)).flip(0).clamp_min(0).sqrt()


def finite(*matrices):
    """Is there neither NaN nor infinity in the matrices?

    A sum in float64 cannot overflow, and it reads a matrix several times faster than isfinite.
    """
    return all(bool(w.sum(dtype=torch.float64).isfinite()) for w in matrices)


def frobenius(s):
    """Frobenius norm from singular values s."""
    return float(s.square().sum().sqrt())


def stable_rank(s):
    """||W||_F^2 / ||W||_2^2 from singular values; 0 for the zero matrix."""
    return float(s.square().sum() / s[0].square()) if s[0] > 0 else 0.0


def empirical_rank(s, share=0.99):
    """The smallest k whose top-k singular values hold `share` of the squared sum; 0 for the zero
    matrix.
    """
    energy = s.square().cumsum(0)
    return int((energy < share * energy[-1]).sum()) + 1 if s[0] > 0 else 0


def svd(w, k=None, dtype=torch.float64):
    """U [m, k], s [k], V [n, k] of w [m, n], descending; k: all directions by default.

    They come from the eigenvectors of one Gram matrix. Directions whose singular value lies below
    1e-7 of the largest are an arbitrary basis of what is left. In float32 that limit is 3e-4:
    enough for the leading directions of a random matrix, at half the time.
    """
    w, tall = w.to(dtype), w.shape[0] >= w.shape[1]
    k = min(k or min(w.shape), *w.shape)
    values, near = eigenvectors(gram(w, dtype), k)
    s, near = values.flip(0).clamp_min(0).sqrt(), near.flip(1)
    # This way round MKL is 2 to 25 times faster for few directions.
    far = (near.T @ (w.T if tall else w)).T
    resolved = 1e-5 if dtype == torch.float64 else 1e-2
    if s[-1] > resolved * s[0]:
        far = far / s
    else:
        # Dividing by almost nothing gives no unit vectors. Householder's reflections do, and they
        # keep the directions that are resolved.
        far, r = torch.linalg.qr(far)
        far = far * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return (far, s, near) if tall else (near, s, far)


def product_svd(up, down):
    """U [m, r], s [r], V [n, r] of up [m, r] @ down [r, n], float64, without the product."""
    (left, small), (right, other) = torch.linalg.qr(up), torch.linalg.qr(down.T)
    u, s, vt = torch.linalg.svd(small @ other.T, full_matrices=False)
    return left @ u, s, right @ vt.T


def change_spectrum(w_a, w_b):
    """All singular values of dW = w_b - w_a.

    They come from the factors where w_b carries them (an adapter's, see models/weights.Adapter).
    """
    if not hasattr(w_b, "factors"):
        return spectrum(w_b.double() - w_a.double())
    s = product_svd(*w_b.factors)[1][: min(w_a.shape)]
    return torch.cat([s, s.new_zeros(min(w_a.shape) - len(s))])


def change_svd(w_a, w_b, k):
    """(U, s, V) of dW by up to k leading directions; see `change_spectrum`."""
    if not hasattr(w_b, "factors"):
        return svd(w_b.double() - w_a.double(), k)
    u, s, v = product_svd(*w_b.factors)
    return u[:, :k], s[:k], v[:, :k]


def rank(s, threshold=1e-7):
    """How many singular values exceed `threshold` times the largest (1e-7: what a Gram matrix
    resolves).
    """
    return int((s > threshold * s[0]).sum())


def top_share(s, k=10):
    """Share of the squared sum in the k largest singular values; 0 for the zero matrix."""
    energy = s.square()
    return float(energy[:k].sum() / energy.sum()) if s[0] > 0 else 0.0


def entropy_rank(s):
    """exp of the entropy of the normalised squared singular values; 0 for the zero matrix.

    This is the effective rank of Roy and Vetterli (2007), of energies in place of values.
    """
    if not s[0] > 0:
        return 0.0
    p = s.square() / s.square().sum()
    return float(torch.special.entr(p).sum().exp())


def principal_angles(q, r):
    """Angles [k] in radians, ascending, between the spans of orthonormal q and r [d, k].

    Sines give them where cosines are near 1, and cosines elsewhere.
    """
    inside = q.T @ r
    cosines = torch.linalg.svdvals(inside).clamp(0, 1)
    sines = torch.linalg.svdvals(r - q @ inside).clamp(0, 1).flip(0)
    return torch.where(cosines.square() > 0.5, sines.asin(), cosines.acos())


def alignment(angles):
    """Mean squared cosine, 1 for one subspace; two random k-dimensional subspaces of R^d give k /
    d.
    """
    return float(angles.cos().square().mean())


def grassmann(angles):
    """Geodesic distance of two subspaces: the 2-norm of their principal angles."""
    return float(torch.linalg.vector_norm(angles))


def noise_edge(fro, m, n):
    """Largest singular value of a Gaussian m x n matrix of Frobenius norm `fro`, to first order.

    Source: Marchenko and Pastur (1967).
    """
    return fro / (m * n) ** 0.5 * (m**0.5 + n**0.5)


def norm_of(tensors):
    """The Euclidean norm of a list of tensors as one vector, a scalar tensor."""
    return torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(wide(t)) for t in tensors])
    )
