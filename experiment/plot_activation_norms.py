"""Draw step 4's CSV: the norms of both models over layers, and how far the activations moved.

    uv run experiment/plot_activation_norms.py --model-a A --model-b B \
        --outdir outputs/A__to__B/activation_plots

Reads ../activation_stats/activation_stats.csv, nothing else.
"""

from brittle.base import command, options

SPLITS = ("retain", "forget")


def norms(table, split, names):
    """The L1 and L2 norms of both models on one split."""
    from brittle.base import figures

    of_split = table[table.split == split]
    fig, axes = figures.figure(f"Activation norms on {split} texts", names, columns=2)
    for ax, norm in zip(axes, ("L1", "L2"), strict=True):
        figures.line(
            ax,
            of_split.layer,
            of_split[f"model_a_norm_{norm}"],
            f"model_a_norm_{norm}",
            colour="model_a",
        )
        figures.line(
            ax,
            of_split.layer,
            of_split[f"model_b_norm_{norm}"],
            f"model_b_norm_{norm}",
            colour="model_b",
            linestyle="--",
        )
        # model A's norms are the same in every comparison
        reach = 1.5 * of_split[f"model_a_norm_{norm}"].max()
        figures.finish(ax, "layer (0: embeddings)", f"mean {norm} norm a token", reach=reach)
    return fig


def differences(table, names):
    """How far activations moved on either split, in absolute terms and against model A's norm."""
    from brittle.base import figures

    fig, axes = figures.figure("Change of the activations", names, columns=2)
    for split in SPLITS:
        of_split = table[table.split == split]
        figures.line(axes[0], of_split.layer, of_split.mean_dh_L2, split)
        figures.line(axes[1], of_split.layer, of_split.mean_dh_L2 / of_split.model_a_norm_L2, split)
    reach = figures.APART * table.model_a_norm_L2.max()
    figures.finish(axes[0], "layer (0: embeddings)", "mean_dh_L2", reach=reach)
    label = "mean_dh_L2 / model_a_norm_L2"
    figures.finish(axes[1], "layer (0: embeddings)", label, reach=figures.APART)
    return fig


def main(model_a: options.ModelA, model_b: options.ModelB, outdir: options.Outdir):
    """Figures of the activation norms."""
    from brittle.base import figures
    from brittle.base.record import Run
    from brittle.base.tables import read_table
    from brittle.diagnostics.common import neighbour

    source = neighbour(outdir, "4")
    names = figures.pair(model_a, model_b)
    with Run(outdir, inputs=[source]) as run:
        table = read_table(source, ["layer", "split", "model_a_norm_L1", "mean_dh_L2"])
        run.figure(differences(table, names), "activation_diffs.png")
        for split in SPLITS:
            run.figure(norms(table, split, names), f"activation_norms_{split}.png")


if __name__ == "__main__":
    command.run(main)
