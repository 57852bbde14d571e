"""One look for all figures.

They are legible in print and on a phone, in colours that the colour-blind can tell apart (Okabe and
Ito). A figure's axes carry the CSV's column names, and its title names both models. The null of a
number is dashed grey.
"""

import math

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

matplotlib.use("Agg")
COLOURS = {
    "attn": "#0072B2",
    "mlp": "#D55E00",
    "other": "#999999",
    "forget": "#CC3311",
    "retain": "#0077BB",
    "model_a": "#222222",
    "model_b": "#009E73",
    "null": "#888888",
    "general": "#EE7733",
    "chance": "#AA4499",
}
CYCLE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222"]
MARKERS = {"attn": "s", "mlp": "o", "forget": "o", "retain": "s", "model_a": "o", "model_b": "D"}
# Two independent vectors of one length are this many lengths apart: what a training anew moves.
APART = 2**0.5
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "legend.fontsize": 10.5,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2,
    "lines.markersize": 6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "axes.prop_cycle": plt.cycler(color=CYCLE),
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "brittle",
}


def short(name, limit=32):
    """A model's name, shortened in its middle."""
    return name if len(name) <= limit else f"{name[: limit // 2 - 1]}…{name[-limit // 2 + 1 :]}"


def pair(model_a, model_b):
    """`base → unlearned` by the names that result folders use."""
    from brittle.base.layout import model_name

    return f"{short(model_name(model_a))} → {short(model_name(model_b))}"


def figure(title, subtitle, rows=1, columns=1, height=3.6, *, sharex=False):
    """(figure, list of its axes): rows * columns axes in reading order, a list also of one.

    A single panel is 6.4 inches wide, and panels beside each other 5.2 inches each.
    """
    with plt.rc_context(STYLE):
        width = 6.4 if columns == 1 else 5.2 * columns
        fig, axes = plt.subplots(
            rows, columns, figsize=(width, height * rows + 0.6), squeeze=False, sharex=sharex
        )
        fig.get_layout_engine().set(wspace=0.05, hspace=0.06)
        fig.suptitle(f"{title}\n{subtitle}", fontsize=13)
    return fig, list(axes.flat)


def line(ax, x, y, label, colour=None, low=None, high=None, **style):
    """A line over layers, in the colour and marker of its label's first word.

    Where `low` and `high` are given a band is drawn between them; an end that is None has none.
    Returns the line.
    """
    key = colour or label.split()[0]
    look = {"color": COLOURS.get(key), "marker": MARKERS.get(key, "o")} | style
    if len(x) > 24 and "marker" not in style:
        look["marker"] = None
    (drawn,) = ax.plot(x, y, label=label, **look)
    if low is not None:
        ends = [[math.nan if v is None else v for v in end] for end in (low, high)]
        ax.fill_between(x, *ends, color=drawn.get_color(), alpha=0.18, linewidth=0)
    return drawn


def error_bars(rows, value, low, high):
    """[below, above] of matplotlib's `yerr`: how far the ends of the interval of each row lie.

    value, low, high: the names of the columns. A row without an interval has bars of length 0.
    """
    below = [0.0 if row[low] is None else max(0.0, row[value] - row[low]) for row in rows]
    above = [0.0 if row[high] is None else max(0.0, row[high] - row[value]) for row in rows]
    return [below, above]


def null(ax, x, y, label="null", colour="null"):
    """What chance gives: a thin dashed line, grey or in the colour of what it belongs to.

    Where `y` is one number the line goes across the axes.
    """
    look = {"linestyle": "--", "color": COLOURS[colour], "label": label, "linewidth": 1.4}
    if hasattr(y, "__len__"):
        ax.plot(x, y, **look)
    else:
        ax.axhline(y, **look)


def finish(ax, xlabel, ylabel, *, integer=True, zero=True, legend=True, title=None, reach=0.0):
    """Label the axes and put the legend where it covers least.

    integer: whole-number ticks, for layers. zero: y starts at 0, for magnitudes, and goes up to
    `reach` at least, so that figures of different comparisons share it.
    """
    with plt.rc_context(STYLE):
        ax.set_xlabel(xlabel)
        ax.set_ylabel(ylabel)
        if title:
            ax.set_title(title)
        if integer:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        if zero and ax.dataLim.y0 >= 0:  # nothing drawn is negative
            top = 1
            if ax.dataLim.y1 > 0:
                top = max(ax.get_ylim()[1], 1.06 * ax.dataLim.y1)  # whole markers
            ax.set_ylim(0, max(top, 1.06 * reach))
        if legend and ax.get_legend_handles_labels()[0]:
            ax.legend(loc="best")


def as_ratio(ax, low, high):
    """A y axis in powers of ten, as ratios are read: a half is as far from 1 as a double.

    It spans `low` to `high` at least, so that figures of different comparisons share it, and more
    where the lines do; bands and nulls may leave it.
    """
    drawn = [y for line in ax.get_lines() for y in line.get_ydata() if math.isfinite(y) and y > 0]
    ax.set_yscale("log")
    ax.set_ylim(min([low, *(0.9 * y for y in drawn)]), max([high, *(1.1 * y for y in drawn)]))


def y_axes(figure):
    """[[label, low, high]] of the y axes of a figure's panels, in reading order."""
    return [[ax.get_ylabel(), *map(float, ax.get_ylim())] for ax in figure.axes]
