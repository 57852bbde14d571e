"""Is the update low-rank, and do the principal subspaces of the weights shift?

    uv run experiment/null_space_analysis.py --model-a A --model-b B \
        --outdir outputs/A__to__B/null_space_analysis

Every matrix, exactly. top10_variance_ratio: share of ||dW||_F^2 in its 10 largest singular values;
effective_rank: how many hold 99 %; entropy_rank: exp of the entropy of the energies.
subspace_alignment: mean squared cosine of the principal angles between the top-k left singular
subspaces of W_a and W_b, grassmann_distance: the 2-norm of those angles; `_right` the same of the
right ones. k falls to the rank where that is lower. The null_ columns are a Gaussian dW of the same
shape and norm (mean of n_null draws; _low and _high: 95 % prediction interval of one such draw);
random_alignment is what two unrelated subspaces give. below_ulp 1: dW lies below one unit in the
last place of its stored dtype, so its rank measures rounding.
"""

from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError

COLUMNS = [
    "name",
    "layer",
    "group",
    "top10_variance_ratio",
    "effective_rank",
    "subspace_alignment",
    "grassmann_distance",
    "entropy_rank",
    "subspace_alignment_right",
    "grassmann_distance_right",
    "k",
    "null_top10_variance_ratio",
    "null_effective_rank",
    "null_entropy_rank",
    "null_subspace_alignment",
    "null_subspace_alignment_low",
    "null_subspace_alignment_high",
    "null_grassmann_distance",
    "null_subspace_alignment_right",
    "null_grassmann_distance_right",
    "random_alignment",
    "random_alignment_right",
    "n_null",
    "seed",
    "below_ulp",
]
SIDES = ("", "_right")


def bases(w, k):
    """((left, right) bases of up to k columns, singular values)."""
    from brittle.maths.linalg import svd

    u, s, v = svd(w, k)
    return (u, v), s


def null_bases(w, k):
    """(left, right) bases of a random matrix, decomposed in float32: its draw matters more than its
    seventh digit.
    """
    import torch

    from brittle.maths.linalg import svd

    u, _, v = svd(w, k, torch.float32)
    return u.double(), v.double()


def shift(one, other, k):
    """{subspace_alignment, grassmann_distance, and _right} between two pairs of bases, by their
    first k columns.
    """
    from brittle.maths.linalg import alignment, grassmann, principal_angles

    columns = {}
    for side, q, r in zip(SIDES, one, other, strict=True):
        angles = principal_angles(q[:, :k], r[:, :k])
        columns |= {
            f"subspace_alignment{side}": alignment(angles),
            f"grassmann_distance{side}": grassmann(angles),
        }
    return columns


def shape_of(s):
    """The columns that a spectrum s alone decides."""
    from brittle.maths.linalg import empirical_rank, entropy_rank, top_share

    return {
        "top10_variance_ratio": top_share(s),
        "effective_rank": empirical_rank(s),
        "entropy_rank": entropy_rank(s),
    }


def noise(shape, norm, generator, device):
    """A Gaussian matrix, float32, of Frobenius norm `norm`."""
    import torch

    drawn = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
    return drawn.mul_(norm / torch.linalg.vector_norm(drawn))


class Nulls:
    """Spectra of Gaussian matrices: they depend on the shape alone, so each shape is drawn once."""

    def __init__(self, draws, seed):
        self.draws, self.seed, self.known = draws, seed, {}

    def shape(self, m, n, device):
        """null_ columns of the ranks of an m x n matrix, means over the draws."""
        import torch

        from brittle.maths.intervals import generator
        from brittle.maths.linalg import spectrum

        if (m, n) not in self.known:
            draw = generator(self.seed, f"{m}x{n}", device)
            many = [
                shape_of(spectrum(noise((m, n), 1.0, draw, device), torch.float32).double())
                for _ in range(self.draws)
            ]
            self.known[m, n] = {
                f"null_{key}": sum(d[key] for d in many) / self.draws for key in many[0]
            }
        return self.known[m, n]

    def shift(self, name, w, norm, k, start):
        """null_ columns of the subspaces of w + noise of norm `norm`."""
        from brittle.maths.intervals import generator, prediction_interval

        draw, w = generator(self.seed, name, w.device), w.float()
        many = [
            shift(start, null_bases(noise(w.shape, norm, draw, w.device).add_(w), k), k)
            for _ in range(self.draws)
        ]
        intervals = {f"null_{key}": prediction_interval([d[key] for d in many]) for key in many[0]}
        low, high = (
            None if end is None else min(1.0, max(0.0, end))
            for end in intervals["null_subspace_alignment"][1:]
        )
        return {key: mean for key, (mean, _, _) in intervals.items()} | {
            "null_subspace_alignment_low": low,
            "null_subspace_alignment_high": high,
        }


def measure(name, w_a, w_b, k, every, kept):
    """The columns behind `group` of one pair of matrices, once for each of `every` Nulls; `kept`:
    see `rows`.
    """
    import torch

    from brittle.maths.linalg import change_spectrum, finite, frobenius, rank
    from brittle.maths.precision import norm_below_ulp

    if not finite(w_a, w_b):
        return [dict.fromkeys(COLUMNS[3:]) | {"seed": nulls.seed} for nulls in every]
    m, n = w_a.shape
    drawn = [{}] * len(every)
    start, s_a = bases(w_a, k)
    if torch.equal(w_a, w_b):  # nothing changed, and so would nothing under a null of norm zero
        k = min(k, rank(s_a))
        still = dict.fromkeys(
            ("top10_variance_ratio", "effective_rank", "entropy_rank", "below_ulp"), 0
        )
        for prefix in ("", "null_"):
            for side in SIDES:
                still |= {
                    f"{prefix}subspace_alignment{side}": 1.0,
                    f"{prefix}grassmann_distance{side}": 0.0,
                }
        columns = still | {"null_subspace_alignment_low": 1.0, "null_subspace_alignment_high": 1.0}
    else:
        end, s_b = bases(w_b, k)
        k, s = min(k, rank(s_a), rank(s_b)), kept.get(f"dW/{name}")
        s = change_spectrum(w_a, w_b) if s is None else s
        lost = norm_below_ulp(
            w_b.dtype, w_b.numel(), torch.linalg.vector_norm(w_b, dtype=torch.float64), frobenius(s)
        )
        columns = shape_of(s) | {"below_ulp": int(lost)}
        if k:
            columns |= shift(start, end, k)
            drawn = [nulls.shift(name, w_a, frobenius(s), k, start) for nulls in every]
    columns = (
        dict.fromkeys(COLUMNS[3:])
        | columns
        | {"k": k, "random_alignment": k / m, "random_alignment_right": k / n}
    )
    return [
        columns
        | nulls.shape(m, n, w_a.device)
        | of_seed
        | {"n_null": nulls.draws, "seed": nulls.seed}
        for nulls, of_seed in zip(every, drawn, strict=True)
    ]


def rows(pairs, k, draws, seeds, kept):
    """A row a matrix and seed; `kept` {dW/<name>: singular values} are those known already."""
    from brittle.models.architectures import group_of, layer_of

    every = [Nulls(draws, seed) for seed in seeds]
    for name, w_a, w_b in pairs:
        key = {"name": name, "layer": layer_of(name), "group": group_of(name)}
        yield from (key | row for row in measure(name, w_a, w_b, k, every, kept))


def plot(table, names):
    """Rank, concentration and shift over blocks: the mean over a group's matrices, its null dashed
    in the same colour.
    """
    import pandas as pd

    from brittle.base import figures

    table = pd.DataFrame(table, columns=COLUMNS)
    columns = ["effective_rank", "top10_variance_ratio", "subspace_alignment"]
    fig, axes = figures.figure("Rank of the update and shift of the subspaces", names, columns=3)
    for ax, column in zip(axes, columns, strict=True):
        for group in ("attn", "mlp"):
            of_group = table[table.group == group]
            values = (
                of_group[["layer", column, f"null_{column}"]].astype(float).groupby("layer").mean()
            )
            figures.line(ax, values.index, values[column], group)
            figures.null(ax, values.index, values[f"null_{column}"], f"null, {group}", colour=group)
        figures.finish(ax, "layer", column, reach=0.0 if column == "effective_rank" else 1.0)
    return fig


def main(
    model_a: options.ModelA,
    model_b: options.ModelB,
    outdir: options.Outdir,
    k: Annotated[int, typer.Option("--k", min=1, help="Singular directions a subspace.")] = 10,
    null_draws: Annotated[
        int, typer.Option(min=1, help="Random updates of the same norm, a matrix.")
    ] = 3,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    seeds: options.Seeds = None,
):
    """Rank of the update, and the shift of the weights' principal subspaces, against a random
    update.
    """
    from brittle.base.tables import of_seed
    from brittle.diagnostics.common import comparison, kept_spectra

    seeds = options.seed_list(seeds, seed, "the random updates (null_)")
    with comparison(outdir, model_a, model_b, seeds=seeds) as opened:
        kept = kept_spectra(outdir, opened.run.read)
        table = list(rows(opened.matrices(device), k, null_draws, seeds, kept))
        if not table:
            raise UserError(f"{model_a} holds no weight matrix.")
        shown = of_seed(table, seeds[0])
        opened.run.figure(plot(shown, opened.title), "null_space.png")
        opened.run.csv("null_space_results.csv", COLUMNS, table)
    from brittle.report import results

    results.say("7", outdir)
    broken = [row["name"] for row in shown if row["k"] is None]
    if broken:
        raise UserError(
            f"{broken[0]} holds NaN or Inf ({len(broken)} such matrices); their values are empty."
        )


if __name__ == "__main__":
    command.run(main)
