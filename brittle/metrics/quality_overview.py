"""Forget quality against utility: several models in one table and one figure.

A row of models.csv is read from one model's forget_quality.csv. The best model lies at the upper
right of models.png: it keeps the rest (model_utility, or ROUGE-L on the retain set where the data
have no real authors and world facts), and cannot be told from one that never saw the forget set
(forget_quality, on a log axis).
"""

COLUMNS = [
    "model",
    "role",
    "definition",
    "model_utility",
    "forget_quality",
    "forget_quality_entities",
    "forget_quality_d",
    "forget_quality_d_low",
    "forget_quality_d_high",
    "forget_probability",
    "forget_rouge_l_recall",
    "retain_probability",
    "retain_rouge_l_recall",
    "n",
    "note",
]
# column: (metric, set) of forget_quality.csv
SCORES = {
    "model_utility": ("model_utility", "utility"),
    "forget_quality": ("forget_quality", "forget"),
    "forget_quality_entities": ("forget_quality_entities", "forget"),
    "forget_quality_d": ("forget_quality_d", "forget"),
    "forget_probability": ("probability", "forget"),
    "forget_rouge_l_recall": ("rouge_l_recall", "forget"),
    "retain_probability": ("probability", "retain"),
    "retain_rouge_l_recall": ("rouge_l_recall", "retain"),
}
REFERENCE = "reference"  # the role of the model that never saw the forget set
TOLD_APART = 0.05  # a model of a smaller p is told from the reference
FLOOR = 1e-16  # a smaller p is written as this
FILE, FIGURE = "models.csv", "models.png"
FORGET_SETS = ("forget", "verbmem", "knowmem_forget", "forget.txt")
# how a score is read: {metric: in words} where that holds for every set, else by the set
DIRECTIONS = {
    "model_utility": "higher: more of the rest is kept",
    "forget_quality": "higher p: closer to never having seen it",
    "forget_quality_entities": "higher p: closer to never having seen it",
    "forget_quality_d": "lower: closer to never having seen it",
    "degenerate": "lower: fewer answers are empty or repeat themselves",
}
OF_FORGET = {
    "truth_score": "higher: the truth is no likelier than what is wrong",
    "perplexity": "higher: the texts surprise more",
}
OF_OTHERS = {"perplexity": "lower: more is kept"}


def direction(metric, of):
    """How to read a score of the set `of`: which way is good, in words."""
    if metric in DIRECTIONS:
        return DIRECTIONS[metric]
    if of in FORGET_SETS:
        return OF_FORGET.get(metric, "lower: less of the forget set is said")
    return OF_OTHERS.get(metric, "higher: more is kept")


def row_of(table, role, definition):
    """The row of one model by the name of a definition.

    table: the rows of its forget_quality.csv.
    """
    scores = {(row["metric"], row["set"]): row for row in table if row["definition"] == definition}
    row = {"model": table[0]["model"], "role": role, "definition": definition}
    for column, key in SCORES.items():
        row[column] = scores.get(key, {}).get("value")
    distance = scores.get(SCORES["forget_quality_d"], {})
    notes = [scores.get(SCORES[c], {}).get("note") for c in ("model_utility", "forget_quality")]
    return row | {
        "forget_quality_d_low": distance.get("ci_low"),
        "forget_quality_d_high": distance.get("ci_high"),
        "n": distance.get("n"),
        "note": "; ".join(note for note in notes if note),
    }


def kept_column(table):
    """The column that says how much of the rest is kept: utility where a model has it."""
    has_utility = any(row["model_utility"] is not None for row in table)
    return "model_utility" if has_utility else "retain_rouge_l_recall"


def headings():
    """{column: how its score is read}."""
    return {column: direction(*key) for column, key in SCORES.items()}


def lines(table):
    """Lines of the table as it is printed, with the direction of each score."""
    from brittle.base.tables import aligned

    kept = kept_column(table)

    def number(value):
        if value is None:
            return "-"
        return "< 1e-16" if value == FLOOR else f"{value:.3g}"

    head = ["model", kept, "forget_quality (p)", "forget_quality_d"]
    body = [
        [
            f"{row['model']} ({row['role']})" if row["role"] else row["model"],
            *(number(row[column]) for column in (kept, "forget_quality", "forget_quality_d")),
        ]
        for row in table
    ]
    yield from aligned([head, *body])
    for column in (kept, "forget_quality", "forget_quality_d"):
        yield f"{column} ({headings()[column]})"
    for note in dict.fromkeys(row["note"] for row in table):
        if note:
            named = [row["model"] for row in table if row["note"] == note]
            yield f"note: {', '.join(named)}: {note}"


def plot(table):
    """What is kept across, the p of forget quality up, a mark a model."""
    from brittle.base import figures

    kept = kept_column(table)
    figure, (axis,) = figures.figure(
        "Forget quality against what is kept",
        "upper right: like a model that never saw the forget set, and the rest is kept",
        height=4.8,
    )
    markers = "oDv^P<>X"
    others = 0
    for row in table:
        if row[kept] is None or row["forget_quality"] is None:
            continue
        look = {"color": "#222222", "marker": "*", "markersize": 16}
        if row["role"] != REFERENCE:
            look = {
                "color": figures.CYCLE[others % 6],
                "marker": markers[others % len(markers)],
                "markersize": 9,
            }
            others += 1
        label = f"{figures.short(row['model'])} ({row['role']})" if row["role"] else None
        axis.plot(
            [row[kept]],
            [row["forget_quality"]],
            linestyle="none",
            label=label or figures.short(row["model"]),
            **look,
        )
    figures.null(axis, None, TOLD_APART, f"p {TOLD_APART}: told apart below")
    axis.set_yscale("log")
    axis.set_xlim(-0.03, 1.03)
    known = [row["forget_quality"] for row in table if row["forget_quality"] is not None]
    axis.set_ylim(min([*known, 0.01]) / 3, 3)
    figures.finish(
        axis,
        f"{kept}\n{headings()[kept]}",
        f"forget_quality\n{headings()['forget_quality']}",
        integer=False,
        zero=False,
        legend=False,
    )
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=2, frameon=False)
    return figure
