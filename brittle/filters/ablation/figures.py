"""Figures of hooks/ablate_filter.py."""

from brittle.base import figures

DARK = 0.6  # cells of a smaller value are dark, so their number is white


def best_of_each_k(rows):
    """The row of the lowest forget accuracy of each k, by k."""
    best = {}
    for row in rows:
        k = row["k"]
        best[k] = min(best.get(k, row), row, key=lambda row: row["forget_accuracy"])
    return [best[k] for k in sorted(best)]


def plot_pareto(table, name):
    """Forget accuracy of each basis, by k and by retain KL, at the best site of each k."""
    title = "Components of the filter, each at the retain limit"
    figure, axes = figures.figure(title, name, columns=2)
    kinds = dict.fromkeys((row["basis"], row["gated"]) for row in table)
    for (basis, gated), colour in zip(kinds, figures.CYCLE * 2, strict=False):
        rows = [row for row in table if (row["basis"], row["gated"]) == (basis, gated)]
        best = best_of_each_k(rows)
        accuracy = [row["forget_accuracy"] for row in best]
        style = {
            "marker": "o",
            "color": figures.COLOURS["forget"] if gated else colour,
            "label": f"{basis}, gated" if gated else basis,
        }
        axes[0].plot([row["k"] for row in best], accuracy, "-" if gated else "--", **style)
        axes[1].plot([row["retain_kl"] for row in best], accuracy, linestyle="", **style)
    axes[0].set_xscale("log", base=2)
    for ax, xlabel in zip(axes, ("k", "retain_kl (nats a token)"), strict=True):
        figures.null(ax, None, 0.25, "chance")
        figures.finish(ax, xlabel, "forget_accuracy", integer=False, legend=ax is axes[0])
    return figure


def plot_overlap(table, name):
    """Accuracy of each split by nominal and by measured overlap, with 95 % intervals."""
    title = "What a filter can do against overlap of the sets"
    figure, axes = figures.figure(title, name, columns=2)
    labels = {
        "overlap": "nominal overlap (%)",
        "measured": "shared principal directions at the site",
    }
    for ax, (column, label) in zip(axes, labels.items(), strict=True):
        for split in ("forget", "retain", "general"):
            rows = [row for row in table if row["split"] == split]
            rows = sorted(rows, key=lambda row: row[column])
            ax.errorbar(
                [row[column] for row in rows],
                [row["accuracy"] for row in rows],
                yerr=figures.error_bars(rows, "accuracy", "low", "high"),
                marker="o",
                capsize=3,
                color=figures.COLOURS[split],
                label=split,
            )
        figures.null(ax, None, 0.25, "chance")
        ax.set_ylim(0, 1.05)
        figures.finish(ax, label, "accuracy", integer=False, legend=ax is axes[0])
    return figure


def plot_anonymisers(table, name):
    """Forget accuracy, and retain accuracy beside.

    A row is a network, a column an anonymiser of the texts.
    """
    networks = dict.fromkeys(row["network"] for row in table if row["network"] != "oracle")
    texts = dict.fromkeys(row["texts"] for row in table if row["texts"] != "raw")
    oracle = {row["split"]: row["accuracy"] for row in table if row["network"] == "oracle"}
    title = "Blind filters when owner and server anonymise differently"
    figure, axes = figures.figure(title, name, columns=2)
    for ax, split in zip(axes, ("forget", "retain"), strict=True):
        accuracy = {
            (row["network"], row["texts"]): row["accuracy"]
            for row in table
            if row["split"] == split
        }
        cells = [[accuracy[network, text] for text in texts] for network in networks]
        ax.imshow(cells, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for i, line in enumerate(cells):
            for j, value in enumerate(line):
                colour = "white" if value < DARK else "black"
                ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=11)
        ax.set_xticks(range(len(texts)), texts)
        labels = ["none (control)" if network == "none" else network for network in networks]
        ax.set_yticks(range(len(networks)), labels)
        ax.grid(visible=False)
        ax.set(
            xlabel="anonymiser of the forget texts",
            ylabel="network trained with",
            title=f"{split} accuracy (oracle {oracle[split]:.2f})",
        )
    return figure
