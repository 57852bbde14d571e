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
