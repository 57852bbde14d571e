"""The figure of one attack on one model: accuracy against the attack's strength."""

from brittle.base import figures

# of each split: colour, marker, and its name in the legend
LOOK = {
    "forget_a": ("#CC3311", "o", "half A"),
    "forget_b": ("#882255", "D", "half B, held out"),
    "retain": ("#0077BB", "s", "retain"),
}


def draw_panel(axis, rows, x, chance):
    """A line a split over the values of column `x`, evenly spaced, with intervals.

    A dashed line stands at `chance`, the accuracy by guessing.
    """
    values = sorted({row[x] for row in rows})
    for split, (colour, marker, words) in LOOK.items():
        line = [row for row in rows if row["split"] == split and row["accuracy"] is not None]
        line.sort(key=lambda row: row[x])
        places = [values.index(row[x]) for row in line]
        accuracies = [row["accuracy"] for row in line]
        bars = figures.error_bars(line, "accuracy", "accuracy_low", "accuracy_high")
        axis.plot(places, accuracies, label=words, color=colour, marker=marker)
        axis.errorbar(places, accuracies, bars, fmt="none", ecolor=colour, alpha=0.5)
    figures.null(axis, None, chance, "guessing")
    axis.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    axis.set(ylim=(-0.03, 1.05), ylabel="accuracy")


def curves(rows, curve, name, chance):
    """The figure of a `brittle.attacks.single.Curve`: one panel a value of its column `by`."""
    panels = list(dict.fromkeys(row[curve.by] for row in rows)) if curve.by else [None]
    figure, axes = figures.figure(curve.title, name, columns=len(panels), height=3.9)
    for axis, panel in zip(axes, panels, strict=True):
        shown = [row for row in rows if not curve.by or row[curve.by] == panel]
        draw_panel(axis, shown, curve.x, chance)
        axis.set(xlabel=curve.label, title=f"{curve.by} {panel}" if curve.by else "")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        fontsize=10,
        frameon=False,
    )
    return figure
