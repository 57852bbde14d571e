"""How does the spectrum of dW decay, and how much of it stands out of noise?

    uv run experiment/singular_value_spectrum.py --model-a A --model-b B \
        --outdir outputs/A__to__B/singular_value_spectrum

Reads step 1's ../param_stats/spectra.safetensors (every singular value of dW, W_a and W_b) and
decomposes nothing. The null is a Gaussian matrix of the same shape and norm, whose spectrum
Marchenko and Pastur (1967) give: `noise_edge` is its largest singular value, n_above_noise counts
singular values beyond it (with 5 % for the fluctuation of a finite matrix) and energy_above_noise
their share of ||.||_F^2 (0 for the null), null_stable_rank and null_participation_ratio its ranks.
decay: the slope of ln sigma_i over ln i, i to half the spectrum (least squares): -0.5 or steeper is
a heavy head.
"""

from brittle.base import command, options

COLUMNS = [
    "name",
    "layer",
    "group",
    "matrix",
    "shape0",
    "shape1",
    "spectral",
    "fro",
    "stable_rank",
    "null_stable_rank",
    "entropy_rank",
    "participation_ratio",
    "null_participation_ratio",
    "empirical_rank",
    "decay",
    "noise_edge",
    "n_above_noise",
    "energy_above_noise",
]
MATRICES = ("dW", "W_a", "W_b")
# Tracy-Widom: a 128 x 128 Gaussian's largest singular value stays below this with about 99 %.
FLUCTUATION = 1.05


def decay(s):
    """Slope of ln sigma_i over ln i for the first half of the spectrum, among values above 1e-7 of
    the largest.
    """
    import torch

    top = s[: max(2, len(s) // 2)]
    top = top[top > 1e-7 * s[0]]
    if len(top) < 2:
        return None
    x = torch.arange(1, len(top) + 1, dtype=torch.float64).log()
    y, x = top.log() - top.log().mean(), x - x.mean()
    return float((x * y).sum() / (x * x).sum())


def measure(s, m, n):
    """The columns behind shape1 of a spectrum s of an m x n matrix."""
    from brittle.maths import linalg

    fro, energy = linalg.frobenius(s), s.square()
    edge = linalg.noise_edge(fro, m, n)
    outside = energy[s > FLUCTUATION * edge]
    ratio = (
        m * n / (m + n)
    )  # tr^2 / tr of the square: for Marchenko-Pastur p / (1 + p / q), sides p and q
    return {
        "spectral": float(s[0]),
        "fro": fro,
        "stable_rank": linalg.stable_rank(s),
        "null_stable_rank": m * n / (m**0.5 + n**0.5) ** 2,
        "entropy_rank": linalg.entropy_rank(s),
        "participation_ratio": float(energy.sum() ** 2 / energy.square().sum())
        if s[0] > 0
        else 0.0,
        "null_participation_ratio": ratio,
        "empirical_rank": linalg.empirical_rank(s),
        "decay": decay(s) if s[0] > 0 else 0.0,
        "noise_edge": edge,
        "n_above_noise": len(outside),
        "energy_above_noise": float(outside.sum() / energy.sum()) if s[0] > 0 else 0.0,
    }


def rows(matrices, spectra):
    """Three rows a matrix, from per_matrix.csv's rows and {dW/<name>: singular values}."""
    for row in matrices:
        for kind in MATRICES:
            key = {key: row[key] for key in ("name", "layer", "group", "shape0", "shape1")} | {
                "matrix": kind
            }
            s = spectra.get(f"{kind}/{row['name']}")
            measured = (
                dict.fromkeys(COLUMNS[6:])
                if s is None
                else measure(s, row["shape0"], row["shape1"])
            )
            yield key | measured


def plot(matrices, spectra, names):
    """dW's spectra of first, middle and last block, over sigma_1, beside W_a's and the noise
    reference of their shape.
    """
    import torch

    from brittle.base import figures
    from brittle.maths import linalg

    layers = sorted({r["layer"] for r in matrices if r["layer"] >= 0})
    shown = sorted({layers[0], layers[len(layers) // 2], layers[-1]}) if layers else [-1]
    fig, axes = figures.figure("Singular values over the largest", names, columns=2)
    for ax, group in zip(axes, ("attn", "mlp"), strict=True):
        of_group = [r for r in matrices if r["group"] == group and f"dW/{r['name']}" in spectra]
        for colour, layer in zip(figures.CYCLE, shown, strict=False):
            for number, row in enumerate(r for r in of_group if r["layer"] == layer):
                for kind, style in (("dW", "-"), ("W_a", ":")):
                    s = spectra[f"{kind}/{row['name']}"]
                    if s[0] > 0:
                        index = torch.linspace(0, 1, len(s))
                        label = f"{kind}, layer {layer}" if number == 0 else None
                        ax.plot(index, s / s[0], style, color=colour, label=label, linewidth=1.4)
        if of_group:
            m, n = of_group[0]["shape0"], of_group[0]["shape1"]
            rows = min(m, 512)
            noise = linalg.spectrum(
                torch.randn(rows, rows * n // m, generator=torch.Generator().manual_seed(0))
            )
            figures.null(
                ax, torch.linspace(0, 1, len(noise)), noise / noise[0], "noise of that shape"
            )
        figures.finish(
            ax, "index / number of singular values", "sigma / sigma_1", integer=False, title=group
        )
    return fig


def main(model_a: options.ModelA, model_b: options.ModelB, outdir: options.Outdir):
    """The whole spectra of dW, W_a and W_b, from step 1's decomposition."""
    from safetensors.torch import load_file

    from brittle.base import figures
    from brittle.base.record import Run
    from brittle.base.tables import read_table
    from brittle.diagnostics.common import neighbour

    sources = [neighbour(outdir, "1", name) for name in ("per_matrix.csv", "spectra.safetensors")]
    with Run(outdir, inputs=sources) as run:
        keys = ["name", "layer", "group", "shape0", "shape1"]
        matrices = read_table(sources[0], keys)[keys].to_dict("records")
        spectra = load_file(sources[1])
        run.figure(plot(matrices, spectra, figures.pair(model_a, model_b)), "spectrum.png")
        run.csv("spectrum_summary.csv", COLUMNS, rows(matrices, spectra))
    from brittle.report import results

    results.say("spectrum", outdir)


if __name__ == "__main__":
    command.run(main)
