"""Figures of hooks/ablate_filter.py."""

from brittle.base import figures


def plot_pareto(table, name):
    figure, axes = figures.figure(
        "Components of the filter, each at the retain limit", name, columns=2
    )
    for (basis, gated), colour in zip(
        dict.fromkeys((r["basis"], r["gated"]) for r in table), figures.CYCLE * 2, strict=False
    ):
        colour = figures.COLOURS["forget"] if gated else colour
        part = [r for r in table if (r["basis"], r["gated"]) == (basis, gated)]
        best = {}
        for r in part:  # the best site of each k
            best[r["k"]] = min(best.get(r["k"], r), r, key=lambda r: r["forget_accuracy"])
        found, style = [best[k] for k in sorted(best)], "-" if gated else "--"
        label = f"{basis}{', gated' if gated else ''}"
        axes[0].plot(
            [r["k"] for r in found],
            [r["forget_accuracy"] for r in found],
            style,
            marker="o",
            color=colour,
            label=label,
        )
        axes[1].plot(
            [r["retain_kl"] for r in found],
            [r["forget_accuracy"] for r in found],
            "o",
            color=colour,
            label=label,
        )
    axes[0].set_xscale("log", base=2)
    for ax, xlabel in zip(axes, ("k", "retain_kl (nats a token)"), strict=True):
        figures.null(ax, None, 0.25, "chance")
        figures.finish(ax, xlabel, "forget_accuracy", integer=False, legend=ax is axes[0])
    return figure


def plot_overlap(table, name):
    figure, axes = figures.figure(
        "What a filter can do against overlap of the sets", name, columns=2
    )
    for ax, column in zip(axes, ("overlap", "measured"), strict=True):
        for split in ("forget", "retain", "general"):
            part = sorted((r for r in table if r["split"] == split), key=lambda r: r[column])
            low, high = ([abs(r["accuracy"] - r[end]) for r in part] for end in ("low", "high"))
            ax.errorbar([r[column] for r in part], [r["accuracy"] for r in part], yerr=[low, high], marker="o", capsize=3,
                        color=figures.COLOURS[split], label=split)  # fmt: skip
        figures.null(ax, None, 0.25, "chance")
        ax.set_ylim(0, 1.05)
        label = (
            "nominal overlap (%)"
            if column == "overlap"
            else "shared principal directions at the site"
        )
        figures.finish(ax, label, "accuracy", integer=False, legend=ax is axes[0])
    return figure


def plot_anonymisers(table, name):
    """Forget accuracy, and retain accuracy beside: a row a network, a column an anonymiser of the texts."""
    networks = [n for n in dict.fromkeys(r["network"] for r in table) if n != "oracle"]
    texts = [t for t in dict.fromkeys(r["texts"] for r in table) if t != "raw"]
    oracle = {r["split"]: r["accuracy"] for r in table if r["network"] == "oracle"}
    figure, axes = figures.figure(
        "Blind filters when owner and server anonymise differently", name, columns=2
    )
    for ax, split in zip(axes, ("forget", "retain"), strict=True):
        found = {(r["network"], r["texts"]): r["accuracy"] for r in table if r["split"] == split}
        cells = [[found[n, t] for t in texts] for n in networks]
        ax.imshow(cells, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for i, line in enumerate(cells):
            for j, value in enumerate(line):
                ax.text(
                    j,
                    i,
                    f"{value:.2f}",
                    ha="center",
                    va="center",
                    color="white" if value < 0.6 else "black",
                    fontsize=11,
                )
        ax.set_xticks(range(len(texts)), texts)
        ax.set_yticks(
            range(len(networks)), [n if n != "none" else "none (control)" for n in networks]
        )
        ax.grid(False)
        ax.set(xlabel="anonymiser of the forget texts", ylabel="network trained with",
               title=f"{split} accuracy (oracle {oracle[split]:.2f})")  # fmt: skip
    return figure
