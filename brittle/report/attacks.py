"""The report's sections on attacks: the scoreboard, and the literature's claims held against it."""

from pathlib import Path

from brittle.base.tables import number, read_rows
from brittle.report import page as page_module
from brittle.report.claims import claims

MEANS = (
    "Each cell: half B of the forget facts, which no attack read, after the attack. 0 is Filtered's level under the same "
    "attack, 1 is Base's; in brackets the 95 % bootstrap interval over facts. A dash is a missing value: the attack failed, or "
    "left Base no better than Filtered. The second number, where there is one, is the retain accuracy left."
)


def sources(root):
    root = Path(root)
    return [root / "scoreboard.csv", root / "scoreboard.png", root / "collapse" / "collapse_steps.csv",
            *sorted(root.glob("*/extract/extract.csv"))]  # fmt: skip


def _signed(number, digits=2):
    return f"{number + 0:.{digits}f}".replace("-0.00", "0.00").replace("-", "−")


def cell(rows):
    """Recovery with its interval, and the retain accuracy where that fell; the mean where there are
    several seeds.
    """
    found = [
        [number(row.get(f"heldout_recovery{end}")) for end in ("", "_low", "_high")] for row in rows
    ]
    known = [f for f in found if None not in f]
    if not known:
        return "–"
    mean, low, high = (sum(part) / len(known) for part in zip(*known, strict=True))
    retain = [r for row in rows if (r := number(row.get("retain_accuracy"))) is not None]
    left = sum(retain) / len(retain) if retain else 1
    return f"{_signed(mean)} [{_signed(low)}, {_signed(high)}]" + (
        f" · {left:.2f}" if left < 0.9 else ""
    )


def board_table(rows):
    """The scoreboard as an HTML table: a row a method, a column an attack."""
    methods, attacks = (
        list(dict.fromkeys(row[key] for row in rows)) for key in ("method", "attack")
    )
    cells = {}
    for row in rows:
        cells.setdefault((row["method"], row["attack"]), []).append(row)
    body = [[m, *(cell(cells.get((m, a), [])) for a in attacks)] for m in methods]
    seeds = sorted({str(row["seed"]) for row in rows})
    return page_module.table(
        ["method", *attacks],
        body,
        f"Held-out recovery after each attack (seeds: {', '.join(seeds)})",
    )


def claims_table(root, rows=None):
    body = []
    for claim in claims(root, rows):
        number = "–" if claim.number is None else _signed(claim.number)
        if claim.low is not None:
            number += f" [{_signed(claim.low)}, {_signed(claim.high)}]"
        body.append([claim.claim, claim.source, number, claim.verdict, claim.detail])
    return page_module.table(
        ["claim", "source", "our number", "verdict", "what it is"],
        body,
        "Claims and what we measured",
    )


def board_html(rows, png, absent=()):
    parts = [f'<p class="soft">{page_module.esc(MEANS)}</p>']
    if Path(png).is_file():
        parts.append(
            page_module.figures(
                [(png, "Held-out recovery and retain accuracy", "Heat maps of the scoreboard")]
            )
        )
    parts.append(board_table(rows))
    if absent:
        text = f"No model, so not in the table: {', '.join(absent)}."
        parts.append(f'<p class="missing">{page_module.esc(text)}</p>')
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


def page(table, absent, png, root):
    """The scoreboard's own page. table: rows of experiment/scoreboard.py (numbers or None)."""
    parts = [
        ("scoreboard", "Scoreboard", board_html(table, png, absent)),
        ("claims", "Claims of the literature", claims_table(root, table)),
    ]
    methods = [
        m for m in dict.fromkeys(row["method"] for row in table) if m not in ("base", "filtered")
    ]
    attacks = len(dict.fromkeys(row["attack"] for row in table)) - 1
    count = [
        f"{n} {word}{'s' * (n != 1)}"
        for n, word in ((len(methods), "unlearned model"), (attacks, "attack"))
    ]
    title = " under ".join(count)
    return page_module.page(
        title, "", parts, "All numbers come from scoreboard.csv beside this page."
    )
