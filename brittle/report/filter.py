"""The activation filter in the report.

That is its strength, its components, its overlap curve, and what the attacks say of it.
"""

import json
from pathlib import Path

from brittle.base import layout
from brittle.base.tables import number, read_rows
from brittle.report import clauses, page
from brittle.report.verdict import HIDDEN, RELEARNED

FIGURES = {
    "filter/strength.png": (
        "Forget statistics and retain KL at every strength; dotted: the strength that was chosen"
    ),
    "ablation/pareto.png": "Components: what is forgotten against what the retain set pays",
    "ablation/overlap.png": (
        "Overlap of forget and retain set: what the filter still can do, 95 % intervals"
    ),
    "ablation/anonymisers.png": "The MLP trained with one anonymiser and used with another",
}
HEADS = {
    "ablation/attacks.csv": "Attacks on what is published",
    "ablation/sites.csv": "Sites",
    "ablation/costs.csv": "Costs",
    "causes/causes.csv": "Why a filter may do the opposite",
    "filter/leaks.csv": "Leak checks",
}
STRENGTH = "filter/strength.json"
VERIFIED = "verify/verify.csv"
SPLITS = ("forget", "retain", "general")
MOST = 24  # rows of a table that are shown
STILL_READ = 0.1  # accuracy at a layer above the output's, up to which the two count as equal


def homes(root):
    """The folders <model>__filter that hold a tuned filter."""
    return sorted(path.parents[1] for path in Path(root).glob(f"*__filter/{STRENGTH}"))


def recovery_files(home):
    """Where eval/recovery.py may have written of the baked model.

    That is its own folder, the pipeline's, or that of the methods' table.
    """
    recovery, root = layout.step("recovery"), home.parent
    return [recovery.path(home), recovery.path(root), root / "methods" / recovery.output]


def lens_file(home):
    """What the logit lens reads of the baked model's answers."""
    return layout.step("14").path(home)


def sources(root):
    """The files that `sections` reads, where they are there."""
    files = set()
    for home in homes(root):
        files |= {home / name for name in (*FIGURES, *HEADS, STRENGTH, VERIFIED)}
        files |= {lens_file(home), *recovery_files(home)}
    return sorted(path for path in files if path.is_file())


def lens_sentence(home):
    """What the logit lens reads of the baked model, or None where it was not measured."""
    layers = clauses.forget_accuracies(read_rows(lens_file(home)))
    if not layers:
        return None
    best, final = max(layers, key=lambda layer: layer.value), max(layers)
    inside = [layer for layer in layers if layer is not final]
    meaning = "no layer is seen to read more than the output"
    if any(layer.low > final.high for layer in inside):
        meaning = "the answers are still in the stream: output suppression"
    elif all(layer.high <= final.low + STILL_READ for layer in inside):
        meaning = f"no layer reads more than {STILL_READ} above the output"
    return (
        f"Logit lens: forget accuracy {best.value:.2f} at layer {best.layer:.0f}, "
        f"{final.value:.2f} at the output; {meaning}."
    )


def relearning_sentence(home):
    """What relearning half A brings back of half B, or None where it was not measured."""
    rows = [row for path in recovery_files(home) for row in read_rows(path)]
    rows = [row for row in rows if row["model"] == home.name]
    if not rows or number(rows[0]["recovery_over_filtered"]) is None:
        return None
    low, learned = number(rows[0]["ci_low"]), number(rows[0]["split_a_accuracy"])
    meaning = "not shown to be hidden"
    if low is not None and low > HIDDEN:
        meaning = "hidden, not removed"
    if learned is not None and learned < RELEARNED:
        meaning = (
            f"no evidence, since half A itself was only relearned to {learned:.2f} "
            "behind a filter that stays at work"
        )
    recovery = number(rows[0]["recovery_over_filtered"])
    return f"Relearning half A brings back {recovery:.2f} of half B: {meaning}."


def verdict(home):
    """Sentences on what the lens and relearning found in the baked model.

    That nothing was measured is said too.
    """
    measured = [lens_sentence(home), relearning_sentence(home)]
    sentences = [sentence for sentence in measured if sentence is not None]
    if not sentences:
        sentences.append(
            "Logit lens and relearning of the baked model are not measured; "
            "a filter counts as output suppression until then."
        )
    if any(row["mode"] == "class" for row in read_rows(home / VERIFIED)):
        sentences.append(
            "The folder holds the unfiltered weights beside the filter: "
            "whoever leaves the filter out has that model."
        )
    return sentences


def strength_sentence(told):
    """What strength.json says of the choice."""
    gate = "with a gate" if told["gated"] else "without a gate"
    low, high = told["stable_interval"]
    return (
        f"{told['status']}: {told['site']}, {told['k']} components, {gate}, "
        f"strength {told['strength']:.3g}, chosen within the retain limit. {told['reason']}. "
        f"The verdict holds from strength {low:.3g} to {high:.3g}."
    )


def baked_sentence(row):
    """What a row of verify.csv says of the baked model."""
    exact = "equal to the hooked model"
    if not row["exact"]:
        exact = f"not equal, first at {row['first_difference']}"
    accuracies = {split: row[f"{split}_accuracy"] for split in SPLITS}
    known = [f"{split} {number(a):.2f}" for split, a in accuracies.items() if a is not None]
    return f"Baked ({row['mode']}): {exact}. Accuracy: {', '.join(known) or 'not measured'}."


def section(home):
    """HTML of one model's filter."""
    told = json.loads((home / STRENGTH).read_text(encoding="utf-8"))
    sentences = [
        strength_sentence(told),
        *map(baked_sentence, read_rows(home / VERIFIED)),
        *verdict(home),
    ]
    parts = [f"<p>{page.esc(sentence)}</p>" for sentence in sentences]
    figures = [(home / name, text, text) for name, text in FIGURES.items()]
    parts.append(page.figures([figure for figure in figures if figure[0].is_file()]))
    for name, title in HEADS.items():
        rows = read_rows(home / name)
        if rows:
            note = f" (first {MOST} of {len(rows)} rows)" if len(rows) > MOST else ""
            cells = [list(row.values()) for row in rows[:MOST]]
            parts.append(page.table(list(rows[0]), cells, title + note))
    return "".join(parts)


def sections(root):
    """[(anchor, heading, HTML)], one a model with a tuned filter."""
    folders = homes(root)
    anchors = ["filter"]
    if len(folders) > 1:
        anchors = [f"filter-{i}" for i in range(len(folders))]
    return [
        (anchor, f"Activation filter: {home.name}", section(home))
        for anchor, home in zip(anchors, folders, strict=False)
    ]
