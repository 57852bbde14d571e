"""Does dW of the MLPs lie where the original W computes little or nothing?

    uv run experiment/mlp_nullspace_alignment.py --model-a A --model-b B \
        --outdir outputs/A__to__B/mlp_nullspace

For each MLP matrix, side (left: output directions, right: input directions) and choice of what
counts as W's nullspace:
  subspace `bottom`, level q    the q smallest of W's min(m, n) singular directions (a share)
  subspace `below`, level t     all directions with singular value up to t times the largest, the
                                exact nullspace included
nullspace_share is the part of ||dW||_F^2 that lies there and column_space_share the rest (they add
to 1; both 0 where nothing changed). A dW in a random direction has null_share = dimension / size of
the space, with 95 % of random draws in [null_low, null_high] (a Beta distribution, exact: no
sampling). share_over_null 1 is no preference.
"""

from functools import cache

from brittle.base import command, options
from brittle.base.errors import UserError

COLUMNS = [
    "name",
    "layer",
    "side",
    "subspace",
    "level",
    "dimension",
    "nullspace_share",
    "column_space_share",
    "null_share",
    "null_low",
    "null_high",
    "share_over_null",
]
BOTTOM = (0.01, 0.05, 0.1, 0.25, 0.5)
BELOW = (1e-3, 1e-2, 1e-1)


def energies(w, dw):
    """Singular values of w [m, n] and the energy of dw in its left and in its right singular
    directions, each [min(m, n)].
    """
    from brittle.maths.linalg import svd

    u, s, v = svd(w)
    return s, (u.T @ dw).square().sum(1), (dw @ v).square().sum(0)


@cache
def null_interval(dimension, size, other):
    """95 % of the share of a Gaussian dW [size, other] in a fixed subspace of `dimension` of its
    `size` directions.
    """
    from scipy.stats import beta

    if dimension in (0, size):
        return (float(dimension == size),) * 2
    return tuple(
        map(float, beta.ppf([0.025, 0.975], dimension * other / 2, (size - dimension) * other / 2))
    )


def measure(w, dw):
    """The columns from `side` on, for each side and choice of nullspace."""
    from brittle.base.tables import ratio

    s, left, right = energies(w, dw)
    total = float(dw.square().sum())
    for side, energy, size, other in (
        ("left", left, *dw.shape),
        ("right", right, *reversed(dw.shape)),
    ):
        from_top = energy.cumsum(0).tolist()
        choices = [("bottom", q, len(s) - max(1, round(q * len(s))), len(s)) for q in BOTTOM]
        choices += [("below", t, int((s > t * s[0]).sum()), size) for t in BELOW]
        for subspace, level, first, last in choices:
            kept = from_top[first - 1] if first else 0.0
            everything = from_top[-1] if last == len(s) and last < size else total
            share = min(1.0, max(0.0, ratio(everything - kept, total))) if last > first else 0.0
            null = (last - first) / size
            low, high = null_interval(last - first, size, other)
            yield {
                "side": side,
                "subspace": subspace,
                "level": level,
                "dimension": last - first,
                "nullspace_share": share,
                "column_space_share": 1 - share if total else 0.0,
                "null_share": null,
                "null_low": low,
                "null_high": high,
                "share_over_null": ratio(share, null),
            }


def rows(pairs, broken):
    """Rows of every MLP matrix; names of those with NaN or Inf go to `broken`."""
    from brittle.maths.linalg import finite
    from brittle.models.architectures import layer_of

    for name, w_a, w_b in pairs:
        key = {"name": name, "layer": layer_of(name)}
        if not finite(w_a, w_b):
            broken.append(name)
            yield dict.fromkeys(COLUMNS) | key
        else:
            yield from (key | row for row in measure(w_a.double(), w_b.double() - w_a.double()))


def plot(table, names):
    """share_over_null over blocks for the bottom directions, a line a share q; a panel a side."""
    import pandas as pd

    from brittle.base import figures

    table = pd.DataFrame(table, columns=COLUMNS)
    fig, axes = figures.figure(
        "Energy of the MLP updates in the weights' smallest directions", names, columns=2
    )
    for ax, side in zip(axes, ("left", "right"), strict=True):
        for colour, q in zip(figures.CYCLE, (0.05, 0.1, 0.25, 0.5), strict=False):
            shown = table[(table.side == side) & (table.subspace == "bottom") & (table.level == q)]
            mean = shown[["layer", "share_over_null"]].astype(float).groupby("layer").mean()
            figures.line(ax, mean.index, mean.share_over_null, f"bottom {q:.0%}", color=colour)
        figures.null(ax, None, 1.0, "random direction")
        figures.finish(ax, "layer", "share_over_null", title=f"{side} singular directions")
    return fig


def main(
    model_a: options.ModelA,
    model_b: options.ModelB,
    outdir: options.Outdir,
    device: options.Device = "auto",
):
    """Energy of the MLP updates in the nullspace of the original weights, against a random
    direction.
    """
    from brittle.diagnostics.common import comparison
    from brittle.models import architectures

    broken = []
    with comparison(outdir, model_a, model_b) as opened:

        def keep(name):
            return architectures.group_of(name) == "mlp" and architectures.layer_of(name) >= 0

        table = list(rows(opened.matrices(device, keep), broken))
        if not table:
            raise UserError(f"{model_a} holds no MLP matrix.")
        opened.run.figure(plot(table, opened.title), "nullspace.png")
        opened.run.csv("nullspace.csv", COLUMNS, table)
    from brittle.report import results

    results.say("10", outdir)
    if broken:
        raise UserError(
            f"{broken[0]} holds NaN or Inf ({len(broken)} such matrices); their values are empty."
        )


if __name__ == "__main__":
    command.run(main)
