"""Spectra and ranks of matrices, exact: one float64 Gram matrix and its eigenvalues on the smaller side."""

import torch

CHUNK = 4096  # rows at a time, so a float64 copy of an embedding matrix is never whole in memory


def gram(w):
    """W W^T or W^T W, whichever is smaller, in float64; w [m, n] of any dtype."""
    w = w if w.shape[0] >= w.shape[1] else w.T
    total = torch.zeros(w.shape[1], w.shape[1], dtype=torch.float64, device=w.device)
    for rows in w.split(CHUNK):
        rows = rows.double()
        total.addmm_(rows.T, rows)
    return total


def spectrum(w):
    """All singular values of w [m, n], descending, float64 [min(m, n)].

    From Gram eigenvalues: the largest is exact to about 1e-15 relative, one at 1e-8 of it or below is rounding.
    """
    return torch.linalg.eigvalsh(gram(w)).flip(0).clamp_min(0).sqrt()


def frobenius(s):
    """Frobenius norm from singular values s."""
    return float(s.square().sum().sqrt())


def stable_rank(s):
    """||W||_F^2 / ||W||_2^2 from singular values; 0 for the zero matrix."""
    return float(s.square().sum() / s[0].square()) if s[0] > 0 else 0.0


def empirical_rank(s, share=0.99):
    """The smallest k whose top-k singular values hold `share` of the squared sum; 0 for the zero matrix."""
    energy = s.square().cumsum(0)
    return int((energy < share * energy[-1]).sum()) + 1 if s[0] > 0 else 0


def svd(w, k=None):
    """U [m, k], s [min(m, n)], V [n, k] of w [m, n], float64, from the eigenvectors of one Gram matrix; k: all by default.

    Directions whose singular value lies below 1e-7 of the largest are an arbitrary basis of what is left.
    """
    tall = w.shape[0] >= w.shape[1]
    values, near = torch.linalg.eigh(gram(w))
    s, near = values.flip(0).clamp_min(0).sqrt(), near.flip(1)[:, :k]
    far = (w if tall else w.T).double() @ near
    if s[near.shape[1] - 1] > 1e-5 * s[0]:
        far = far / s[: near.shape[1]]
    else:  # dividing by (almost) nothing gives no unit vectors; Householder does, and keeps those that are resolved
        far, r = torch.linalg.qr(far)
        far = far * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return (far, s, near) if tall else (near, s, far)


def rank(s, threshold=1e-7):
    """How many singular values exceed `threshold` times the largest (1e-7: what a Gram matrix resolves)."""
    return int((s > threshold * s[0]).sum())


def top_share(s, k=10):
    """Share of the squared sum in the k largest singular values; 0 for the zero matrix."""
    energy = s.square()
    return float(energy[:k].sum() / energy.sum()) if s[0] > 0 else 0.0


def entropy_rank(s):
    """exp of the entropy of the normalised squared singular values (Roy and Vetterli 2007, of the energies); 0 for zero."""
    if not s[0] > 0:
        return 0.0
    p = s.square() / s.square().sum()
    return float(torch.special.entr(p).sum().exp())


def principal_angles(q, r):
    """Angles [k] in radians, ascending, between the spans of orthonormal q, r [d, k] (sines where cosines are near 1)."""
    cosines = torch.linalg.svdvals(q.T @ r).clamp(0, 1)
    sines = torch.linalg.svdvals(r - q @ (q.T @ r)).clamp(0, 1).flip(0)
    return torch.where(cosines.square() > 0.5, sines.asin(), cosines.acos())


def alignment(angles):
    """Mean squared cosine, 1 for one subspace; two random k-dimensional subspaces of R^d give k / d."""
    return float(angles.cos().square().mean())


def grassmann(angles):
    """Geodesic distance of two subspaces: the 2-norm of their principal angles."""
    return float(torch.linalg.vector_norm(angles))


def noise_edge(fro, m, n):
    """Largest singular value of a Gaussian m x n matrix of Frobenius norm `fro` (Marchenko and Pastur 1967), to first order."""
    return fro / (m * n) ** 0.5 * (m**0.5 + n**0.5)
