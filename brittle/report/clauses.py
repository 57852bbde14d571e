"""The clauses of the report's sentences: each reads the rows of one CSV and puts them into words.

A clause is None where it is not defined for those rows. The limits below are the rules that
`levels.CLAUSES` states beside each clause. Means are over rows. A matrix that did not change has no
shape and is left out; so is layer 0, the embeddings, which has seen no context.
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


class Bounds(NamedTuple):
    """A measured value and its 95 % interval."""

    value: float
    low: float
    high: float


class LayerAccuracy(NamedTuple):
    """What one layer answers rightly, read through a lens; chance None where it is not known."""

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
    """One of three `words`: the interval of `other` lies below that of `one`, overlaps it, or lies
    above.
    """
    if other.high < one.low:
        return words[0]
    return words[2] if other.low > one.high else words[1]


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
    moved = [r for r in rows if (number(r.get("effective_rank")) or 0) > 0]
    rank, null = average(moved, "effective_rank"), average(moved, "null_effective_rank")
    if not rank or not null:
        return "no matrix changed" if values(rows, "effective_rank") else None
    word = "low-rank" if rank / null < LOW_RANK else "of high rank"
    text = (
        f"{word}: 99 % of ΔW lies in {short(rank)} directions a matrix, "
        f"where noise fills {short(null)}"
    )
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


def out_of_noise(rows):
    share = average(rows, "energy_above_noise", matrix="dW")
    return None if share is None else f"{percent(share)} of its energy stands out of noise"


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
    word = compare(a, b, ("closer together", "as far apart as before", "farther apart"))
    return (
        f"in the last layer forget and retain texts lie {word} "
        f"(cosine distance {short(a.value)} → {short(b.value)})"
    )


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
    share = sum(ratio.low > null.high for ratio, null in pairs) / len(pairs)
    middle = median(ratio.value for ratio, _ in pairs)
    word = "targeted" if share > 0.5 and middle > TARGETED else "not targeted"
    return (
        f"{word}: forget texts feed the directions that ΔW reads {short(middle)} times as much as "
        f"retain texts do, and more than chance allows in {percent(share)} of the MLP matrices"
    )


def sensitivity(rows):
    said = []
    words = ("smoother", "neither rougher nor smoother", "rougher")
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
        said.append(f"{compare(a, b, words)} on {split} texts ({change})")
    return "the output became " + " and ".join(said)


def barrier(rows):
    heights, high = [], False
    for split in ("forget", "retain"):
        known = [bounds(r, "barrier") for r in rows if r.get("split") == split]
        known = [b for b in known if b is not None]
        if not known:
            return None
        top = max(known)
        high = high or top.low > BARRIER
        heights.append(f"{short(max(0.0, top.value))} nats on {split} texts")
    word = "a barrier lies" if high else "no barrier lies"
    return f"{word} on the straight line between the models (at most {' and '.join(heights)})"


def best_layer(rows, task):
    """`Bounds` of the AUC in the layer with the highest, None where the task is not there."""
    known = [bounds(r, "auc") for r in rows if r.get("task") == task]
    return max((b for b in known if b is not None), default=None)


def probe(base, other):
    verbs = {
        (True, True): "still can",
        (False, True): "now can",
        (True, False): "can no longer",
        (False, False): "never could",
    }
    tasks = {
        "truth_forget": "whether a forget statement is true",
        "domain": "forget from retain texts",
    }
    said = []
    for task, what in tasks.items():
        was, now = best_layer(base, task), best_layer(other, task)
        if was is None or now is None:
            continue
        readable = tuple(auc.low > 0.5 and auc.value > READABLE for auc in (was, now))
        change = f"best layer's AUC {was.value:.2f} → {now.value:.2f}"
        said.append(f"{verbs[readable]} tell {what} ({change})")
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
    above = [
        x.layer
        for x in now
        if x.chance is not None and x.low > x.chance and x.value > x.chance + NEAR
    ]
    final = max(now)  # the last layer: tuples compare by their first entry
    if not above:
        word = "no layer answers above chance"
    elif final.layer in above:
        word = f"the answers are read from layer {above[0]:.0f} on, and at the output"
    else:
        word = f"layer {above[0]:.0f} knows answers that the output does not give"
    output = f"output {percent(max(was).value)} → {percent(final.value)}"
    return f"{word} ({output}, best layer {percent(max(x.value for x in now))})"
