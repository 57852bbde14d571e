"""The sequential log's rows, ours beside the log's: a section of the report, and the tables of
docs/sequential.md.
"""

from pathlib import Path

from brittle.base.tables import mean, number, read_rows

FOLDER = "sequential"
HEAD = [
    "group / run",
    "adapter, blocks",
    "remove / retain",
    "lr",
    "log: WMDP / MMLU",
    "ours: forget / retain / general",
    "held-out after 0 / 10 / 100 attack steps",
]

AS_MADE = ("forget_accuracy", "retain_accuracy", "general_accuracy")
ATTACKED = ("heldout_accuracy", "heldout_accuracy_10", "heldout_accuracy_100")


def _shown(value, digits=2):
    value = number(value)
    return "–" if value is None else f"{value:.{digits}f}"


def _means(rows, key):
    return mean(number(row[key]) for row in rows)


def _seeds(rows):
    """How many seeds the rows of a run stand for: a mean over several says so in its column
    `seeds`.
    """
    return sum(int(row.get("seeds") or 1) for row in rows)


def lines(results):
    """A line a run, seeds averaged, by HEAD; rows that the log left blank carry a star."""
    runs = {}
    for row in results:
        runs.setdefault((row["group"], row["run"]), []).append(row)
    for (group, run), members in runs.items():
        row, count = members[0], _seeds(members)
        star = "*" if row["filled"] else ""
        seeds = f" ({count} seeds)" if count > 1 else ""
        adapter, weights = "none", "–"
        if row["adapter"]:
            adapter = f"{row['adapter']}, {row['layers']}"
            weights = f"{_shown(row['remove_coef'], 0)} / {float(row['retain_coef']):g}"
        in_log = f"{_shown(row['log_wmdp'], 3)} / {_shown(row['log_mmlu'], 3)}"
        yield [
            f"{group} / {run}{star}{seeds}",
            adapter,
            weights,
            f"{float(row['lr']):.1g}" if row["lr"] else "–",
            "–" if row["role"] == "control" else in_log,
            " / ".join(_shown(_means(members, column)) for column in AS_MADE),
            " / ".join(_shown(_means(members, column)) for column in ATTACKED),
        ]


def finding_lines(findings):
    """A line a finding and measure: mean difference or recovery, 95 % interval, seeds."""
    for row in findings:
        interval = f"{_shown(row['mean'])} [{_shown(row['low'])}, {_shown(row['high'])}]"
        yield [row["finding"], row["measure"].replace("_", " "), interval, row["n"]]


FINDING_HEAD = ["finding", "measure", "mean [95 %]", "seeds"]


def markdown(folder):
    """Both tables of docs/sequential.md; of the findings those that answer the log's questions."""
    results, findings = (read_rows(Path(folder) / name) for name in ("results.csv", "findings.csv"))
    findings = [
        row
        for row in findings
        if row["measure"] in ("selectivity", "forget_accuracy", "recovery_over_start_10")
    ]
    parts = []
    for head, body in ((HEAD, lines(results)), (FINDING_HEAD, finding_lines(findings))):
        rows = [head, ["---"] * len(head), *body]
        parts.append("\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows))
    return "\n\n".join(parts)


def sources(root):
    folder = Path(root) / FOLDER
    return [
        folder / name
        for name in ("results.csv", "findings.csv", "sequential.png")
        if (folder / name).is_file()
    ]


def sections(root):
    """[(anchor, heading, HTML)]; none where the grid has not run."""
    from brittle.report import page

    folder = Path(root) / FOLDER
    results, findings = (read_rows(folder / name) for name in ("results.csv", "findings.csv"))
    if not results:
        return []
    parts = [
        "<p>The rows of a published log of sequential back-to-front unlearning (6.9B), run on this "
        "model with settings scaled to it. A star marks what the log left blank. Accuracy on "
        "WMDP-bio and MMLU does not compare with ours in level; what compares is which row "
        "forgets, which breaks, and how fast the attack brings it back.</p>"
    ]
    if findings:
        parts.append(
            page.table(FINDING_HEAD, list(finding_lines(findings)), "Findings, over seeds")
        )
    if (folder / "sequential.png").is_file():
        caption = (
            "Left: forgetting against damage, a mark a run. Right: held-out half B under attack."
        )
        parts.append(page.figures([(folder / "sequential.png", caption, "sequential grid")]))
    table = page.table(HEAD, list(lines(results)), "Every row of the log")
    parts.append(f"<details><summary>Table: every row of the log</summary>{table}</details>")
    return [("sequential", "Sequential unlearning", "".join(parts))]
