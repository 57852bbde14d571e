"""The clauses of the report's sentences: each reads the rows of one CSV and puts them into words.

A clause is None where it is not defined for those rows. The limits below are the rules that
`levels.CLAUSES` states beside each clause. Means are over rows. A matrix that did not change has no
shape and is left out; so is layer 0, the embeddings, which has seen no context.

What is measured on a sample of texts has an interval, and a word is said only where the interval
bears it. A difference that does not show is no absence: the words are then "no difference is seen"
or "is open". That there is none is said where the interval lies within a stated limit.
"""

import math
from statistics import median
from typing import NamedTuple

from brittle.base.tables import mean, number
from brittle.report.condense import update_size
from brittle.report.verdict import NEAR, percent

SMALL, LARGE = 0.05, 0.25  # of |W|
MORE = 1.5  # one thing against another
LOW_RANK, AVOIDS, PREFERS = 0.5, 0.8, 1.25  # against noise
TARGETED = 1.2  # forget against retain
BARRIER = 0.1  # nats a token
READABLE = 0.6  # AUC
ALIKE = 0.1  # a change within this share of a number is none


class Bounds(NamedTuple):
    """A measured value and its 95 % interval."""

    value: float
    low: float
    high: float


class LayerAccuracy(NamedTuple):
    """The share that one layer answers rightly, read through a lens; chance: None if not known."""

    layer: float
    value: float
    low: float
    high: float
    chance: float | None


def short(x):
    """Two decimals or two digits, whatever is more; a proper minus."""
    if abs(x) >= 10:
        text = f"{x:.0f}"
    elif abs(x) >= 0.1 or not x:
        text = f"{x:.2f}"
    else:
        text = f"{x:.2g}"
    return text.replace("-", "−")


def pick(x, low, high, words):
    """One of three `words`: for x below `low`, from `low` to `high`, above `high`."""
    if x < low:
        return words[0]
    return words[2] if x > high else words[1]


def compare(one, other, words):
    """One of four `words`, for the `Bounds` of a positive number before and after.

    The interval of `other` lies below that of `one`; both lie so close that the change is within
    ALIKE; it lies above; or none of these, and no difference is seen.
    """
    if other.high < one.low:
        return words[0]
    if other.low > one.high:
        return words[2]
    if other.high <= one.low * (1 + ALIKE) and other.low >= one.high * (1 - ALIKE):
        return words[1]
    return words[3]


def values(rows, column, **where):
    """The known numbers of `column` in the rows that match."""
    matching = [r for r in rows if all(r.get(k) == v for k, v in where.items())]
    numbers = (number(r.get(column)) for r in matching)
    return [x for x in numbers if x is not None]


def average(rows, column, **where):
    """Mean of the known numbers of `column` in the rows that match; None where there is none."""
    return mean(values(rows, column, **where))


def behind_first(rows):
    """Rows of layers from 1 on: layer 0, the embeddings, has seen no context."""
    return [r for r in rows if (number(r.get("layer")) or 0) > 0]


def last_layer(rows):
    top = max(values(rows, "layer"), default=None)
    return [r for r in rows if number(r.get("layer")) == top]


def bounds(row, name, ends=("", "_low", "_high")):
    """The `Bounds` in the columns `name` + `ends`, or None where one of them is not known."""
    numbers = [number(row.get(f"{name}{end}")) for end in ends]
    return None if None in numbers else Bounds(*numbers)


def size(rows):
    norm, _ = update_size(rows)
    if norm is None:
        return None
    if norm == 0:
        return "no weight changed"
    word = pick(norm, SMALL, LARGE, ("small", "moderate", "large"))
    share = percent(norm) if norm >= 0.01 else f"{norm:.1g}"
    return f"the weights moved by {share} of their norm ({word})"


def location(rows):
    lengths = {
        g: [number(r.get(f"{g}_dW_fro_layer")) or 0.0 for r in rows] for g in ("mlp", "attn")
    }
    energy = sorted((m * m + a * a for m, a in zip(*lengths.values(), strict=True)), reverse=True)
    total = math.fsum(energy)
    if not total:
        return "no block changed"
    count = next(k for k in range(1, len(energy) + 1) if math.fsum(energy[:k]) >= 0.8 * total)
    spread = f"{count} of {len(energy)} blocks hold 80 % of the change"
    if not any(lengths["mlp"]):
        return f"only attention changed; {spread}"
    if not any(lengths["attn"]):
        return f"only the MLPs changed; {spread}"
    ratios = values(rows, "mlp_attn_ratio")
    if not ratios:
        return spread
    middle = median(ratios)
    words = ("mostly attention", "MLP and attention alike", "mostly MLP")
    where = pick(middle, 1 / MORE, MORE, words)
    moved = f"for their size the MLPs moved {short(middle)} times as far as attention"
    return f"{where}: {moved}; {spread}"


def rank_of_update(rows):
    moved = [r for r in rows if r.get("matrix") == "dW" and (number(r.get("fro")) or 0) > 0]
    rank, null = (energy_mean(moved, c) for c in ("stable_rank", "null_stable_rank"))
    if rank is None or not null:
        return "no matrix changed" if values(rows, "fro", matrix="dW") and not moved else None
    word = "low-rank" if rank / null < LOW_RANK else "of high rank"
    text = f"{word}: its stable rank is {short(rank)}, where noise has {short(null)}"
    above_noise = average(moved, "energy_above_noise")
    if above_noise is None:
        return text
    return f"{text}; {percent(above_noise)} of its energy stands out of noise"


def energy_mean(rows, column):
    """Mean of a column over matrices, weighted by |ΔW|² as on the first screen; None where a number
    is missing.
    """
    pairs = [(number(r.get("fro")), number(r.get(column))) for r in rows]
    if not pairs or any(None in pair for pair in pairs):
        return None
    return math.fsum(f * f * x for f, x in pairs) / math.fsum(f * f for f, _ in pairs)


def directions(rows):
    moved = [r for r in rows if (number(r.get("effective_rank")) or 0) > 0]
    count, null = average(moved, "effective_rank"), average(moved, "null_effective_rank")
    if not count or not null:
        return "no matrix changed" if values(rows, "effective_rank") else None
    text = f"99 % of its energy takes {short(count)} directions a matrix (noise: {short(null)})"
    overlap = average(moved, "subspace_alignment")
    under_noise = average(moved, "null_subspace_alignment")
    if None in (overlap, under_noise):
        return text
    return (
        f"{text}; W's leading subspaces overlap {percent(overlap)} with what they were "
        f"({percent(under_noise)} under noise)"
    )


def nullspace(rows):
    def total(row):
        shares = (number(row.get(c)) or 0 for c in ("nullspace_share", "column_space_share"))
        return sum(shares)

    moved = [r for r in rows if total(r) > 0]
    over_null = average(moved, "share_over_null", subspace="bottom", level=0.25)
    if over_null is None:
        return "no MLP matrix changed" if values(rows, "nullspace_share") else None
    word = pick(over_null, AVOIDS, PREFERS, ("avoids", "neither seeks nor avoids", "seeks"))
    return (
        f"it {word} the quarter of directions that W uses least "
        f"({short(over_null)} times what chance puts there)"
    )


def moved_activations(rows):
    far, growth = {}, []
    columns = ("model_a_norm_L2", "model_b_norm_L2", "mean_dh_L2")
    for row in behind_first(rows):
        a, b, moved = (number(row.get(c)) for c in columns)
        if None in (a, b, moved) or a <= 0:
            continue
        far.setdefault(row.get("split"), []).append(moved / a)
        if row.get("split") == "forget":
            growth.append(b / a)
    if not {"forget", "retain"} <= set(far):
        return None
    forget, retain = (math.fsum(far[s]) / len(far[s]) for s in ("forget", "retain"))
    if not forget and not retain:
        return "no activation moved"
    ratio = forget / retain if retain else math.inf
    words = ("mostly on retain texts", "on both kinds alike", "mostly on forget texts")
    where = pick(ratio, 1 / MORE, MORE, words)
    grown = math.fsum(growth) / len(growth)
    norm = pick(grown, 0.9, 1.1, ("shorter", "as long as before", "longer"))
    return (
        f"activations moved by {percent(forget)} of their length on forget texts and "
        f"{percent(retain)} on retain texts ({where}), and forget activations are {norm}"
    )


def apart(rows):
    distances = {r.get("model"): bounds(r, "cosine_distance") for r in last_layer(rows)}
    a, b = distances.get("model_a"), distances.get("model_b")
    if a is None or b is None:
        return None
    words = (
        "forget and retain texts lie closer together",
        f"forget and retain texts lie as far apart as before, within {percent(ALIKE)}",
        "forget and retain texts lie farther apart",
        "no difference is seen in how far forget and retain texts lie apart",
    )
    change = f"cosine distance {short(a.value)} → {short(b.value)}"
    return f"in the last layer {compare(a, b, words)} ({change})"


def covariance(rows):
    later = [r for r in behind_first(rows) if r.get("unit") == "token"]
    over = {}
    for split in ("forget", "retain"):
        moved, null = (average(later, c, split=split) for c in ("wasserstein", "null_wasserstein"))
        over[split] = moved / null if moved is not None and null else None
    if None in over.values():
        return None
    return (
        f"the covariance spectrum moved {short(over['forget'])} times as far as other texts alone "
        f"move it ({short(over['retain'])} on retain texts)"
    )


def targeted(rows):
    largest = {}  # {matrix: (k, row)}: only the row of the largest k counts
    for row in rows:
        k = number(row.get("k"))
        if row.get("split") == "forget" and k and k >= largest.get(row["name"], (0,))[0]:
            largest[row["name"]] = (k, row)
    pairs = [
        (bounds(row, "selectivity_ratio"), bounds(row, "null_selectivity_ratio"))
        for _, row in largest.values()
    ]
    pairs = [pair for pair in pairs if None not in pair]
    if not pairs:
        return "no MLP matrix changed" if rows and not any(values(rows, "k")) else None
    aimed = sum(ratio.low > max(null.high, TARGETED) for ratio, null in pairs)
    plain = sum(ratio.high <= TARGETED for ratio, _ in pairs)
    word = "whether ΔW is targeted is open"
    if 2 * aimed > len(pairs):
        word = "targeted"
    elif 2 * plain > len(pairs):
        word = "not targeted"
    elif aimed:
        word = "targeted in part"
    middle = median(ratio.value for ratio, _ in pairs)
    return (
        f"{word}: forget texts feed the directions that ΔW reads {short(middle)} times as much as "
        f"retain texts do (median of {len(pairs)} MLP matrices); more than {TARGETED} times in "
        f"{aimed} of them, not so in {plain}"
    )


def sensitivity(rows):
    said = []
    words = (
        "the output became smoother",
        f"the output is as rough as before, within {percent(ALIKE)}",
        "the output became rougher",
        "no difference is seen in how rough the output is",
    )
    for split in ("forget", "retain"):
        norms = {
            r.get("model"): bounds(r, "jacobian_norm", ("_mean", "_low", "_high"))
            for r in rows
            if r.get("split") == split
        }
        a, b = norms.get("model_a"), norms.get("model_b")
        if a is None or b is None:
            return None
        change = f"Jacobian norm {short(a.value)} → {short(b.value)}"
        said.append(f"on {split} texts {compare(a, b, words)} ({change})")
    return ", ".join(said)


def barrier(rows):
    heights, every = [], []
    for split in ("forget", "retain"):
        known = [bounds(r, "barrier") for r in rows if r.get("split") == split]
        known = [b for b in known if b is not None]
        if not known:
            return None
        every += known
        heights.append(f"{short(max(0.0, max(known).value))} nats on {split} texts")
    word = "whether a barrier lies on the straight line between the models is open"
    if any(height.low > BARRIER for height in every):
        word = "a barrier lies on the straight line between the models"
    elif all(height.high <= BARRIER for height in every):
        word = "no barrier lies on the straight line between the models"
    return f"{word} (highest: {' and '.join(heights)})"


def best_layer(known):
    """The AUC of the layer with the highest one."""
    return max(auc.value for auc in known)


def readable(known):
    """Whether some layer's AUC is above READABLE (True), or none's (False), beyond the intervals.

    None where it is open. known: the `Bounds` of all layers.
    """
    if any(auc.low > READABLE for auc in known):
        return True
    return False if all(auc.high <= READABLE for auc in known) else None


# What a probe could tell of Base and can tell of the other model: True, False, or None for open.
PROBE_SAYS = {
    (True, True): "still can tell {}",
    (False, True): "now can tell {}",
    (None, True): "can tell {}, and whether it could before is open",
    (True, False): "can no longer tell {}",
    (False, False): "could not and cannot tell {}",
    (None, False): "cannot tell {}, and whether it could before is open",
    (True, None): "could tell {}, and whether it still can is open",
    (False, None): "could not tell {}, and whether it now can is open",
    (None, None): "may or may not tell {}: that is open",
}


def probe(base, other):
    tasks = {
        "truth_forget": "whether a forget statement is true",
        "domain": "forget from retain texts",
    }
    said = []
    for task, what in tasks.items():
        layers = [
            [bounds(r, "auc") for r in rows if r.get("task") == task] for rows in (base, other)
        ]
        was, now = layers
        if not was or not now or None in was + now:
            continue
        change = f"best layer's AUC {best_layer(was):.2f} → {best_layer(now):.2f}"
        says = PROBE_SAYS[readable(was), readable(now)].format(what)
        said.append(f"{says} ({change})")
    return f"a linear probe {', and '.join(said)}" if said else None


def forget_accuracies(rows):
    """[LayerAccuracy] of the forget questions, for the layers whose interval is known."""
    known = []
    for row in rows:
        accuracy = bounds(row, "accuracy")
        if row.get("split") == "forget" and accuracy is not None:
            layer, chance = number(row.get("layer")), number(row.get("chance"))
            known.append(LayerAccuracy(layer, *accuracy, chance))
    return known


def lens(base, other):
    was, now = forget_accuracies(base), forget_accuracies(other)
    if not was or not now:
        return None
    if any(x.chance is None for x in now):
        return None
    final = max(now)  # the last layer: tuples compare by their first entry
    # the best of several layers lies above chance by chance: an inner one must do so by NEAR
    above = [x.layer for x in now if x.low > x.chance and (x is final or x.value > x.chance + NEAR)]
    inside = [x.layer for x in now if x.low > max(x.chance, final.high)]
    if inside:
        word = f"layer {inside[0]:.0f} answers more than the output gives"
    elif final.layer in above:
        word = f"answers above chance stand from layer {above[0]:.0f} on, and at the output"
    elif above:
        word = (
            f"layer {above[0]:.0f} answers above chance, and whether it answers more than the "
            "output is open"
        )
    elif all(x.high <= x.chance + NEAR for x in now):
        word = f"no layer answers more than {percent(NEAR)} above chance"
    else:
        word = "no layer is seen to answer above chance"
    output = f"output {percent(max(was).value)} → {percent(final.value)}"
    return f"{word} ({output}, best layer {percent(max(x.value for x in now))})"
