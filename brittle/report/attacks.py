"""The report's sections on attacks: the scoreboard, and the literature's claims held against it."""

from pathlib import Path

from brittle.base.tables import number, read_rows
from brittle.report import claims, page
from brittle.report.scoreboard import ENDS, over_seeds

MEANS = (
    "Each cell: half B of the forget facts, which no attack read, after the attack. "
    "0 is Filtered's level under the same attack, 1 is Base's, by definition: so of these two the "
    "rows show the accuracy; "
    "in brackets the 95 % interval over facts, drawn by entity, and, where there are several, "
    "attack seeds. "
    "A dash is a missing value: the attack failed, or left Base not clearly above Filtered. "
    "The second number, where there is one, is the retain accuracy left. "
    "FLOPs are those of making the model; labels are the share of its texts that had to be marked "
    "as forget texts."
)
MEANS_ALONE = (
    "Each cell: half B of the forget facts, which no attack read, after the attack. There is no "
    "Filtered: 0 is chance, 1 is Base as made, and the row of Base shows its accuracy. A model "
    "that never saw the facts may lie above 0, so no cell says that facts were removed, or that "
    "they had only been hidden; a model trained without the forget texts (--filtered) would tell. "
    "In brackets the 95 % interval over facts, drawn by entity, and, where there are several, "
    "attack seeds. The second number, where there is one, is the retain accuracy left."
)
CLAIMS_MEAN = (
    "Claims and what we measured. Brackets: of a mean over methods the least and the most of these "
    "methods, of steps the 95 % interval over seeds."
)


def sources(root):
    """The files below `root` that the sections are made from."""
    root = Path(root)
    return [
        root / "scoreboard.csv",
        root / "scoreboard.png",
        root / "collapse" / "collapse_steps.csv",
        *sorted(root.glob("*/extract/extract.csv")),
    ]


def _count(number, word):
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _signed(number, digits=2):
    return f"{number + 0:.{digits}f}".replace("-0.00", "0.00").replace("-", "−")


def cell(rows, column="heldout_recovery"):
    """A column with its interval, and the retain accuracy where that fell; the mean over seeds.

    The interval is over facts and, where there are several, seeds.
    """
    mean, low, high = over_seeds(rows, column)
    if low is None:
        return "–"
    text = f"{_signed(mean)} [{_signed(low)}, {_signed(high)}]"
    accuracies = [number(row.get("retain_accuracy")) for row in rows]
    retain = [accuracy for accuracy in accuracies if accuracy is not None]
    left = sum(retain) / len(retain) if retain else 1
    return f"{text} · {left:.2f}" if left < 0.9 else text


def cost_cells(of_method):
    """What making a method's model took: FLOPs, their share of Filtered's training, and the share
    of its texts that had to be marked forget. Dashes where no record says it.
    """
    row = next((rows[0] for rows in of_method if rows), {})
    flops, share, labels = (number(row.get(c)) for c in ("flops", "flops_share", "label_share"))
    return [
        "–" if flops is None else f"{flops:.2g}",
        "–" if share is None else f"{share:.3f}",
        "–" if labels is None else f"{labels:.2f}",
    ]


def board_table(rows):
    """The scoreboard as an HTML table: a row a method, a column an attack."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    recovery, name = "heldout_recovery", "Held-out recovery"
    if "filtered" not in methods:
        recovery, name = "recovery_from_chance", "Recovery from chance"
    attacks = list(dict.fromkeys(row["attack"] for row in rows))
    cells = {}
    for row in rows:
        cells.setdefault((row["method"], row["attack"]), []).append(row)
    body = []
    for method in methods:
        of_method = [cells.get((method, attack), []) for attack in attacks]
        if method in ENDS:
            shown = [cell(rows, "heldout_accuracy") for rows in of_method]
            body.append([f"{method} (accuracy)", *shown, *cost_cells(of_method)])
        else:
            shown = [cell(rows, recovery) for rows in of_method]
            body.append([method, *shown, *cost_cells(of_method)])
    seeds = sorted({str(row["seed"]) for row in rows})
    return page.table(
        ["method", *attacks, "FLOPs", "of Filtered's", "labels"],
        body,
        f"{name} after each attack (seeds: {', '.join(seeds)})",
    )


def claims_table(root, rows=None):
    """The literature's claims, and what must be so whatever the literature says, as HTML."""
    return _judged(claims.claims(root, rows), "claim", CLAIMS_MEAN) + _judged(
        claims.checks(root, rows), "check", "A check of the attacks, not a finding"
    )


def _judged(listed, kind, caption):
    body = []
    for claim in listed:
        number = "–" if claim.number is None else _signed(claim.number)
        if claim.low is not None:
            number += f" [{_signed(claim.low)}, {_signed(claim.high)}]"
        body.append([claim.claim, claim.source, number, claim.verdict, claim.detail])
    return page.table([kind, "source", "our number", "verdict", "what it is"], body, caption)


def board_html(rows, png, absent=()):
    has_twin = any(row["method"] == "filtered" for row in rows)
    kind, text = ("soft", MEANS) if has_twin else ("chance", MEANS_ALONE)
    parts = [f'<p class="{kind}">{page.esc(text)}</p>']
    if Path(png).is_file():
        parts.append(
            page.figures([(png, "Recovery and retain accuracy", "Heat maps of the scoreboard")])
        )
    parts.append(board_table(rows))
    if absent:
        text = f"No model, so not in the table: {', '.join(absent)}."
        parts.append(f'<p class="missing">{page.esc(text)}</p>')
    return "".join(parts)


def sections(root):
    """[(anchor, heading, HTML)]; none where the scoreboard was not made."""
    root = Path(root)
    rows = read_rows(root / "scoreboard.csv")
    if not rows:
        return []
    return [
        ("scoreboard", "Attacks on every method", board_html(rows, root / "scoreboard.png")),
        ("claims", "Claims of the literature", claims_table(root)),
    ]


def board_page(table, absent, png, root):
    """The scoreboard's own page. table: rows of experiment/scoreboard.py (numbers or None)."""
    parts = [
        ("scoreboard", "Scoreboard", board_html(table, png, absent)),
        ("claims", "Claims of the literature", claims_table(root, table)),
    ]
    methods = [
        m for m in dict.fromkeys(row["method"] for row in table) if m not in ("base", "filtered")
    ]
    attacks = len(dict.fromkeys(row["attack"] for row in table)) - 1
    title = f"{_count(len(methods), 'unlearned model')} under {_count(attacks, 'attack')}"
    return page.page(title, "", parts, "All numbers come from scoreboard.csv beside this page.")
