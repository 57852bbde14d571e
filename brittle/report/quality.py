"""The report's section on forget quality against utility, from eval/forget_quality.py --models."""

from pathlib import Path

from brittle.base.tables import read_rows
from brittle.metrics.quality_overview import FIGURE, FILE, SCORES, headings, kept_column
from brittle.report import page

FOLDER = "forget_quality"
MEANS = (
    "Forget quality is the p of a test that the model's truth ratios on the forget set are those "
    "of a model that never saw it (the reference). With few questions a high p says little: the "
    "distance D and its interval say more."
)


def sources(root):
    """The files below `root` that the section is made from."""
    return [Path(root) / FOLDER / name for name in (FILE, FIGURE)]


def sections(root):
    """[(anchor, heading, HTML)]; none where the table is absent."""
    table_path, figure_path = sources(root)
    table = read_rows(table_path, text=("model", "role", "definition", "note"))
    if not table:
        return []
    kept = kept_column(table)
    columns = ["model", *dict.fromkeys((kept, *SCORES))]
    shown = [column for column in columns if any(row[column] is not None for row in table)]
    names = [f"{row['model']} ({row['role']})" if row["role"] else row["model"] for row in table]
    body = [
        [name, *(row[column] for column in shown[1:])]
        for name, row in zip(names, table, strict=True)
    ]
    parts = [f'<p class="soft">{page.esc(MEANS)}</p>']
    if figure_path.is_file():
        caption = "Forget quality against what is kept"
        parts.append(page.figures([(figure_path, caption, caption)]))
    parts.append(page.table(shown, body, f"{FOLDER}/{FILE}"))
    read = [f"{page.esc(name)} ({page.esc(text)})" for name, text in headings().items()]
    parts.append(f"<ul>{''.join(f'<li>{line}</li>' for line in read)}</ul>")
    notes = [
        f"{name}: {row['note']}" for name, row in zip(names, table, strict=True) if row["note"]
    ]
    parts.append("".join(f'<p class="missing">{page.esc(note)}</p>' for note in notes))
    return [("forget-quality", "Forget quality against utility", "".join(parts))]
