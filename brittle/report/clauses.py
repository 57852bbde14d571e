"""The clauses of the report's sentences: each reads the rows of one CSV and says in words what they say in numbers.

None where a clause is not defined for those rows. The limits below are the rules of `reading.CLAUSES`. Means are over rows; a
matrix that did not change has no shape and is left out; layer 0, the embeddings, has seen no context and is left out.
"""

import math

from brittle.base.tables import mean, number
from brittle.report.condense import update_size
from brittle.report.verdict import NEAR, percent

SMALL, LARGE = 0.05, 0.25  # of |W|
MORE = 1.5  # one thing against another
LOW_RANK, AVOIDS, PREFERS = 0.5, 0.8, 1.25  # against noise
TARGETED = 1.2  # forget against retain
BARRIER = 0.1  # nats a token
READABLE = 0.6  # AUC


def short(x):
    """Two decimals or two digits, whatever is more; a proper minus."""
    text = f"{x:.0f}" if abs(x) >= 10 else f"{x:.2f}" if abs(x) >= 0.1 or not x else f"{x:.2g}"
    return text.replace("-", "−")


def values(rows, column, **where):
    """The known numbers of `column` in the rows that match."""
    found = (number(r.get(column)) for r in rows if all(r.get(k) == v for k, v in where.items()))
    return [x for x in found if x is not None]


def average(rows, column, **where):
    found = values(rows, column, **where)
    return mean(found) if found else None


def behind_first(rows):
    """Rows of layers from 1 on: layer 0, the embeddings, has seen no context."""
    return [r for r in rows if (number(r.get("layer")) or 0) > 0]


def last_layer(rows):
    top = max(values(rows, "layer"), default=None)
    return [r for r in rows if number(r.get("layer")) == top]


def bounds(row, name):
    """(value, low, high), or None where one of them is not known."""
    found = [number(row.get(f"{name}{end}")) for end in ("", "_low", "_high")]
    return None if None in found else found


def size(rows):
    norm, _ = update_size(rows)
    if norm is None:
        return None
    if norm == 0:
        return "no weight changed"
    word = "small" if norm < SMALL else "large" if norm > LARGE else "moderate"
    return f"the weights moved by {percent(norm)} of their norm ({word})" if norm >= 0.01 else (
        f"the weights moved by {norm:.1g} of their norm ({word})")  # fmt: skip


def location(rows):
    groups = {g: [number(r.get(f"{g}_dW_fro_layer")) or 0.0 for r in rows] for g in ("mlp", "attn")}
    energy = sorted((m * m + a * a for m, a in zip(*groups.values(), strict=True)), reverse=True)
    total = math.fsum(energy)
    if not total:
        return "no block changed"
    count = next(k for k in range(1, len(energy) + 1) if math.fsum(energy[:k]) >= 0.8 * total)
    spread = f"{count} of {len(energy)} blocks hold 80 % of the change"
    still = [g for g, found in groups.items() if not any(found)]
    if still:
        return f"only {'attention' if still == ['mlp'] else 'the MLPs'} changed; {spread}"
    ratios = sorted(values(rows, "mlp_attn_ratio"))
    if not ratios:
        return spread
    middle = ratios[len(ratios) // 2]
    where = (
        "mostly MLP"
        if middle > MORE
        else "mostly attention"
        if middle < 1 / MORE
        else "MLP and attention alike"
    )
    return f"{where}: for their size the MLPs moved {short(middle)} times as far as attention; {spread}"


def rank_of_update(rows):
    moved = [r for r in rows if (number(r.get("effective_rank")) or 0) > 0]
    rank, null = average(moved, "effective_rank"), average(moved, "null_effective_rank")
    if not rank or not null:
        return "no matrix changed" if values(rows, "effective_rank") else None
    word = "low-rank" if rank / null < LOW_RANK else "of high rank"
    text = f"{word}: 99 % of ΔW lies in {short(rank)} directions a matrix, where noise fills {short(null)}"
    found = [average(moved, c) for c in ("subspace_alignment", "null_subspace_alignment")]
    if None in found:
        return text
    return f"{text}; W's leading subspaces overlap {percent(found[0])} with what they were ({percent(found[1])} under noise)"


def nullspace(rows):
    moved = [
        r
        for r in rows
        if (number(r.get("nullspace_share")) or 0) + (number(r.get("column_space_share")) or 0) > 0
    ]
    found = average(moved, "share_over_null", subspace="bottom", level=0.25)
    if found is None:
        return "no MLP matrix changed" if values(rows, "nullspace_share") else None
    word = (
        "seeks" if found > PREFERS else "avoids" if found < AVOIDS else "neither seeks nor avoids"
    )
    return f"it {word} the quarter of directions that W uses least ({short(found)} times what chance puts there)"


def out_of_noise(rows):
    found = average(rows, "energy_above_noise", matrix="dW")
    return None if found is None else f"{percent(found)} of its energy stands out of noise"


def moved_activations(rows):
    later, far, length = behind_first(rows), {}, []
    for row in later:
        a, b, moved = (
            number(row.get(c)) for c in ("model_a_norm_L2", "model_b_norm_L2", "mean_dh_L2")
        )
        if None not in (a, b, moved) and a > 0:
            far.setdefault(row.get("split"), []).append(moved / a)
            length += [b / a] if row.get("split") == "forget" else []
    if not {"forget", "retain"} <= set(far):
        return None
    forget, retain = (math.fsum(far[s]) / len(far[s]) for s in ("forget", "retain"))
    if not forget and not retain:
        return "no activation moved"
    ratio = forget / retain if retain else math.inf
    word = (
        "mostly on forget texts"
        if ratio > MORE
        else "mostly on retain texts"
        if ratio < 1 / MORE
        else "on both kinds alike"
    )
    grown = math.fsum(length) / len(length)
    norm = "shorter" if grown < 0.9 else "longer" if grown > 1.1 else "as long as before"
    return (f"activations moved by {percent(forget)} of their length on forget texts and {percent(retain)} on retain texts "
            f"({word}), and forget activations are {norm}")  # fmt: skip


def apart(rows):
    found = {r.get("model"): bounds(r, "cosine_distance") for r in last_layer(rows)}
    if None in (a := found.get("model_a"), b := found.get("model_b")):
        return None
    word = (
        "farther apart"
        if b[1] > a[2]
        else "closer together"
        if b[2] < a[1]
        else "as far apart as before"
    )
    return f"in the last layer forget and retain texts lie {word} (cosine distance {short(a[0])} → {short(b[0])})"


def covariance(rows):
    later = [r for r in behind_first(rows) if r.get("unit") == "token"]
    over = {}
    for split in ("forget", "retain"):
        moved, null = (average(later, c, split=split) for c in ("wasserstein", "null_wasserstein"))
        over[split] = moved / null if moved is not None and null else None
    if None in over.values():
        return None
    return (f"the covariance spectrum moved {short(over['forget'])} times as far as other texts alone move it "
            f"({short(over['retain'])} on retain texts)")  # fmt: skip


def targeted(rows):
    top = {}
    for row in rows:
        k = number(row.get("k"))
        if row.get("split") == "forget" and k and k >= top.get(row["name"], (0,))[0]:
            top[row["name"]] = (k, row)
    found = [
        (bounds(row, "selectivity_ratio"), bounds(row, "null_selectivity_ratio"))
        for _, row in top.values()
    ]
    found = [pair for pair in found if None not in pair]
    if not found:
        return "no MLP matrix changed" if rows and not any(values(rows, "k")) else None
    share = sum(one[1] > null[2] for one, null in found) / len(found)
    middle = sorted(one[0] for one, _ in found)[len(found) // 2]
    word = "targeted" if share > 0.5 and middle > TARGETED else "not targeted"
    return (f"{word}: forget texts feed the directions that ΔW reads {short(middle)} times as much as retain texts do, and more "
            f"than chance allows in {percent(share)} of the MLP matrices")  # fmt: skip


def sensitivity(rows):
    said = []
    for split in ("forget", "retain"):
        part = {r.get("model"): r for r in rows if r.get("split") == split}
        a, b = ([number(part.get(m, {}).get(f"jacobian_norm_{end}")) for end in ("mean", "low", "high")]
                for m in ("model_a", "model_b"))  # fmt: skip
        if None in (*a, *b):
            return None
        word = (
            "rougher"
            if b[1] > a[2]
            else "smoother"
            if b[2] < a[1]
            else "neither rougher nor smoother"
        )
        said.append(f"{word} on {split} texts (Jacobian norm {short(a[0])} → {short(b[0])})")
    return "the output became " + " and ".join(said)


def barrier(rows):
    said = []
    for split in ("forget", "retain"):
        found = [bounds(r, "barrier") for r in rows if r.get("split") == split]
        found = [f for f in found if f is not None]
        if not found:
            return None
        top = max(found)
        said.append((top[1] > BARRIER, f"{short(max(0.0, top[0]))} nats on {split} texts"))
    word = "a barrier lies" if any(high for high, _ in said) else "no barrier lies"
    return f"{word} on the straight line between the models (at most {' and '.join(text for _, text in said)})"


def best_layer(rows, task):
    """(AUC, low, high) of the layer with the highest, None where the task is not there."""
    return max((b for r in rows if r.get("task") == task and (b := bounds(r, "auc"))), default=None)


def probe(base, other):
    said = []
    for task, what in (
        ("truth_forget", "whether a forget statement is true"),
        ("domain", "forget from retain texts"),
    ):
        was, now = best_layer(base, task), best_layer(other, task)
        if was is None or now is None:
            continue
        read = [found[1] > 0.5 and found[0] > READABLE for found in (was, now)]
        verb = (
            "still can"
            if all(read)
            else "now can"
            if read[1]
            else "can no longer"
            if read[0]
            else "never could"
        )
        said.append(f"{verb} tell {what} (best layer's AUC {was[0]:.2f} → {now[0]:.2f})")
    return f"a linear probe {', and '.join(said)}" if said else None


def lens(base, other):
    def known(rows):
        part = [r for r in rows if r.get("split") == "forget"]
        return [
            (number(r.get("layer")), *b, number(r.get("chance")))
            for r in part
            if (b := bounds(r, "accuracy"))
        ]

    was, now = known(base), known(other)
    if not was or not now:
        return None
    above = [
        layer
        for layer, value, low, _, chance in now
        if chance is not None and low > chance and value > chance + NEAR
    ]
    final = max(now)
    if not above:
        word = "no layer answers above chance"
    elif final[0] in above:
        word = f"the answers are read from layer {above[0]:.0f} on, and at the output"
    else:
        word = f"layer {above[0]:.0f} knows answers that the output does not give"
    return f"{word} (output {percent(max(was)[1])} → {percent(final[1])}, best layer {percent(max(n[1] for n in now))})"
