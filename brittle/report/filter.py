"""The activation filter in the report: its strength, its components, its overlap curve, and what the attacks say of it."""

import json
from pathlib import Path

from brittle.base import layout
from brittle.base.tables import number, read_rows
from brittle.report import page

FIGURES = {
    "filter/strength.png": "Forget statistics and retain KL at every strength; dotted: the strength that was chosen",
    "ablation/pareto.png": "Components: what is forgotten against what the retain set pays",
    "ablation/overlap.png": "Overlap of forget and retain set: what the filter still can do, 95 % intervals",
    "ablation/anonymisers.png": "The MLP trained with one anonymiser and used with another",
}
HEADS = {"ablation/attacks.csv": "Attacks on what is published", "ablation/sites.csv": "Sites", "ablation/costs.csv": "Costs",
         "causes/causes.csv": "Why a filter may do the opposite", "filter/leaks.csv": "Leak checks"}  # fmt: skip
MOST = 24


def homes(root):
    """The folders <model>__filter that hold a tuned filter."""
    return sorted(p.parents[1] for p in Path(root).glob("*__filter/filter/strength.json"))


def relearned(home):
    """Where eval/recovery.py may have written of the baked model: its own folder, the pipeline's, the methods' table's."""
    recovery = layout.step("recovery")
    root = home.parent
    return [recovery.path(home), recovery.path(root), root / "methods" / recovery.output]


def sources(root):
    """The files that `sections` reads, where they are there."""
    names = [*FIGURES, *HEADS, "filter/strength.json", "verify/verify.csv"]
    found = [home / name for home in homes(root) for name in names]
    for home in homes(root):
        found += [layout.step("14").path(home), *relearned(home)]
    return sorted({f for f in found if f.is_file()})


def verdict(home):
    """Sentences on what the lens and relearning found in the baked model; that nothing was measured is said too."""
    lens = [
        r
        for r in read_rows(layout.step("14").path(home))
        if r.get("split") == "forget"
    ]
    said = []
    if lens:
        best = max(lens, key=lambda r: number(r["accuracy"]) or 0)
        final = max(lens, key=lambda r: number(r["layer"]))
        gap = (number(best["accuracy"]) or 0) - (number(final["accuracy"]) or 0)
        what = (
            "the answers are still in the stream: output suppression"
            if gap > 0.1
            else "no layer reads more than the output"
        )
        said.append(
            f"Logit lens: forget accuracy {number(best['accuracy']):.2f} at layer {best['layer']}, "
            f"{number(final['accuracy']):.2f} at the output; {what}."
        )
    attacked = [r for path in relearned(home) for r in read_rows(path) if r["model"] == home.name]
    if attacked and number(attacked[0]["recovery_over_filtered"]) is not None:
        row = attacked[0]
        low, learned = number(row["ci_low"]), number(row["split_a_accuracy"])
        what = "hidden, not removed" if low is not None and low > 0.25 else "not shown to be hidden"
        if learned is not None and learned < 0.9:
            what = f"no evidence, since half A itself was only relearned to {learned:.2f} behind a filter that stays at work"
        said.append(
            f"Relearning half A brings back {number(row['recovery_over_filtered']):.2f} of half B: {what}."
        )
    if not said:
        said.append(
            "Logit lens and relearning of the baked model are not measured; a filter counts as output suppression until then."
        )
    if any(r["mode"] == "class" for r in read_rows(home / "verify/verify.csv")):
        said.append(
            "The folder holds the unfiltered weights beside the filter: whoever leaves the filter out has that model."
        )
    return said


def section(home):
    """HTML of one model's filter."""
    esc, told = page.esc, json.loads((home / "filter/strength.json").read_text(encoding="utf-8"))
    gate = "with a gate" if told["gated"] else "without a gate"
    low, high = told["stable_interval"]
    parts = [
        f"<p>{esc(told['status'])}: {esc(told['site'])}, {told['k']} components, {gate}, strength {told['strength']:.3g}, "
        f"chosen within the retain limit. {esc(told['reason'])}. The verdict holds from strength {low:.3g} to {high:.3g}.</p>"
    ]
    for row in read_rows(home / "verify/verify.csv"):
        exact = (
            "equal to the hooked model"
            if row["exact"]
            else f"not equal, first at {row['first_difference']}"
        )
        accuracies = ", ".join(
            f"{s} {number(row[f'{s}_accuracy']):.2f}"
            for s in ("forget", "retain", "general")
            if row[f"{s}_accuracy"] is not None
        )
        parts.append(
            f"<p>Baked ({esc(row['mode'])}): {esc(exact)}. Accuracy: {accuracies or 'not measured'}.</p>"
        )
    parts += [f"<p>{esc(sentence)}</p>" for sentence in verdict(home)]
    parts.append(
        page.figures([(home / n, c, c) for n, c in FIGURES.items() if (home / n).is_file()])
    )
    for name, title in HEADS.items():
        if rows := read_rows(home / name):
            note = f" (first {MOST} of {len(rows)} rows)" if len(rows) > MOST else ""
            parts.append(
                page.table(list(rows[0]), [list(r.values()) for r in rows[:MOST]], title + note)
            )
    return "".join(parts)


def sections(root):
    """[(anchor, heading, HTML)], one a model with a tuned filter."""
    found = homes(root)
    more = len(found) > 1
    return [
        (f"filter-{i}" if more else "filter", f"Activation filter: {home.name}", section(home))
        for i, home in enumerate(found)
    ]
