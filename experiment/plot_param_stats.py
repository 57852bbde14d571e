"""Draw step 1's CSVs: where the change is, how sharp, and of what rank.

    uv run experiment/plot_param_stats.py --model-a A --model-b B \
        --outdir outputs/A__to__B/param_plots

Reads ../param_stats/per_layer.csv and per_matrix.csv, nothing else; the names of the models go into
the titles.
"""

from brittle.base import command, options

GROUPS = {"attn": "attention", "mlp": "MLP"}
PER_LAYER = {  # file: (column, title)
    "stable_rank": ("mean_dW_stable_rank", "Stable rank of the change"),
    "spectral_norm": ("max_dW_spectral_rel", "Relative spectral norm of the change"),
    "layer_locality": ("dW_fro_layer_rel", "Relative change a block"),
}


def by_group(layers, group, column, title, names, reach):
    """One group's `column` over blocks, the other group thin behind it for scale.

    reach: how far the y axis goes at least.
    """
    from brittle.base import figures

    fig, (ax,) = figures.figure(f"{title}: {GROUPS[group]}", names)
    for other in sorted(GROUPS, key=lambda g: g == group):
        of_group = layers[layers.group == other]
        faint = {} if other == group else {"alpha": 0.25, "linewidth": 1, "markersize": 3}
        figures.line(ax, of_group.layer, of_group[column], GROUPS[other], colour=other, **faint)
    figures.finish(ax, "layer", column, reach=reach)
    return fig


def rank_comparison(matrices, names):
    """Mean stable rank of dW beside that of W over blocks, one panel a group (and the empirical
    ranks, where there are).
    """
    from brittle.base import figures

    fig, axes = figures.figure("Rank of the change and of the weights", names, columns=2)
    kinds = ["stable_rank"] + (["empirical_rank"] if "dW_empirical_rank" in matrices else [])
    for ax, (group, title) in zip(axes, GROUPS.items(), strict=True):
        mean = matrices[matrices.group == group].groupby("layer").mean(numeric_only=True)
        for kind in kinds:
            style = {"linestyle": "-" if kind == "stable_rank" else ":"}
            figures.line(ax, mean.index, mean[f"dW_{kind}"], f"dW_{kind}", colour=group, **style)
            figures.line(ax, mean.index, mean[f"W_{kind}"], f"W_{kind}", colour="other", **style)
        figures.finish(ax, "layer", "mean over matrices", title=title)
    return fig


def main(model_a: options.ModelA, model_b: options.ModelB, outdir: options.Outdir):
    """Figures of the parameter statistics."""
    from brittle.base import figures
    from brittle.base.record import Run
    from brittle.base.tables import read_table
    from brittle.diagnostics.common import neighbour

    files = {name: neighbour(outdir, "1", name) for name in ("per_layer.csv", "per_matrix.csv")}
    names = figures.pair(model_a, model_b)
    with Run(outdir, inputs=files.values()) as run:
        layers = read_table(
            files["per_layer.csv"], ["layer", "group", *(c for c, _ in PER_LAYER.values())]
        )
        matrices = read_table(
            files["per_matrix.csv"], ["layer", "group", "dW_stable_rank", "W_stable_rank"]
        )
        run.figure(rank_comparison(matrices, names), "rank_comparison.png")
        blocks = matrices[matrices.group.isin(GROUPS)].groupby(["layer", "group"])
        # W's rank, which is Base's in every comparison, or as far as a training anew moves
        rank = blocks.W_stable_rank.mean().max()
        for name, (column, title) in PER_LAYER.items():
            reach = rank if name == "stable_rank" else figures.APART
            for group in GROUPS:
                figure = by_group(layers, group, column, title, names, reach)
                run.figure(figure, f"{name}_{group}.png")


if __name__ == "__main__":
    command.run(main)
