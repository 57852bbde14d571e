"""The figure of one attack on one model: accuracy against its strength, with intervals and what guessing gives."""

from brittle.base import figures

LOOK = {"forget_a": ("#CC3311", "o", "half A"), "forget_b": ("#882255", "D", "half B, held out"),
        "retain": ("#0077BB", "s", "retain")}  # fmt: skip


def curves(table, x, title, name, chance, by=None, label=None, numeric=True):
    """One panel a value of column `by`; a line a split over column `x` (numbers, or words in their order)."""
    panels = list(dict.fromkeys(row[by] for row in table)) if by else [None]
    figure, axes = figures.figure(title, name, columns=len(panels), height=3.9)
    for axis, panel in zip(axes, panels, strict=True):
        part = [row for row in table if not by or row[by] == panel]
        places = (
            sorted({row[x] for row in part})
            if numeric
            else list(dict.fromkeys(row[x] for row in part))
        )
        for split, (colour, marker, words) in LOOK.items():
            line = [row for row in part if row["split"] == split and row["accuracy"] is not None]
            line.sort(key=lambda row: places.index(row[x]))
            at = [places.index(row[x]) for row in line]
            style = {"color": colour, "marker": marker} | ({} if numeric else {"linestyle": "none"})
            axis.plot(at, [row["accuracy"] for row in line], label=words, **style)
            axis.vlines(
                at,
                *([row[f"accuracy_{end}"] for row in line] for end in ("low", "high")),
                colors=colour,
                alpha=0.5,
            )
        figures.null(axis, None, chance, "guessing")
        shown = [f"{p:g}" if numeric else p for p in places]
        axis.set_xticks(
            range(len(places)),
            shown,
            rotation=0 if numeric else 35,
            ha="center" if numeric else "right",
        )
        axis.set(
            ylim=(-0.03, 1.05),
            xlabel=label or x,
            ylabel="accuracy",
            title=f"{by} {panel}" if by else "",
        )
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        fontsize=10,
        frameon=False,
    )
    return figure
