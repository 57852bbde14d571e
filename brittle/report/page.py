"""The report's HTML: one self-contained page, light and dark, for a phone and a desktop. No
scripts, nothing from a network.
"""

import base64
import html
import json
import struct
from itertools import compress
from pathlib import Path

WIDE = 820  # pixels: a wider figure takes the page's whole width
UNEVEN = 1.05  # one axis against another: more is said
CSS = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--line:#d5dae0;--page:#fff;\
--card:#f5f7f9;--link:#0860a8;
--bad:#a8320a;--good:#0b6b4f;--open:#6b5300;--chance:#8a2f7d}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ec;--soft:#a0a9b3;--line:#3a424b;--page:#14181c;\
--card:#1e2429;
--link:#74b9f2;--bad:#ff9d76;--good:#6fd3b0;--open:#e2c45c;--chance:#e29bd8}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);\
font:1rem/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main,header,footer{max-width:76rem;margin:0 auto;padding:0 1rem}
h1{font-size:clamp(1.4rem,1rem + 2vw,2.1rem);line-height:1.2;margin:1.6rem 0 .4rem;\
text-wrap:balance}
h2{font-size:1.25rem;margin:2.6rem 0 .2rem;padding-top:.9rem;border-top:1px solid var(--line)}
h3{font-size:1.05rem;margin:1.6rem 0 .2rem}
.says{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));\
margin:.8rem 0}
.says div{background:var(--card);border-radius:8px;padding:.7rem 1rem}\
.says strong{overflow-wrap:anywhere}
p{margin:.4rem 0;max-width:46rem;overflow-wrap:anywhere}ul{margin:.4rem 0;padding-left:1.2rem;\
max-width:46rem}
a{color:var(--link)}.soft,figcaption,.caption,.missing{color:var(--soft)}.missing{font-size:.88rem}
nav{font-size:.92rem;margin:1rem 0}nav a{display:inline-block;margin:.1rem .9rem .1rem 0}
.scroll{overflow-x:auto;margin:.2rem 0 .7rem}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
.caption{font-size:.88rem;margin-top:.9rem}
th,td{padding:.3rem .7rem .3rem 0;text-align:left;border-bottom:1px solid var(--line);\
vertical-align:top}
th{font-weight:600}td.number,th.number{text-align:right}td.number{white-space:nowrap}
thead th{vertical-align:bottom}@media(min-width:44rem){.scroll td:first-child{white-space:nowrap}}
.summary{width:100%;font-size:.98rem;margin:.8rem 0}.summary th[scope=row]{overflow-wrap:anywhere;\
min-width:8rem}
.summary .missing{display:inline-block;max-width:8rem;white-space:normal;line-height:1.25}
.summary small{color:var(--soft);white-space:nowrap}
.hidden,.damaged,.kept,.back{color:var(--bad)}.removed{color:var(--good)}.inconclusive{color:var(--open)}
.hidden,.damaged,.kept,.back,.removed,.inconclusive{font-weight:600}
.chance{color:var(--chance)}p.chance{border-left:3px solid;padding-left:.7rem}
.figures{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));\
margin:.8rem 0}
.figures.wide{grid-template-columns:1fr;max-width:64rem}
.figures.one{max-width:44rem}
figure{margin:0;overflow-x:auto}figcaption{font-size:.88rem;position:sticky;left:0;\
overflow-wrap:anywhere}
img{display:block;width:100%;height:auto;background:#fff;border-radius:6px;\
border:1px solid var(--line)}
.wide img{min-width:40rem}
details{margin:.7rem 0}summary{cursor:pointer;color:var(--link)}
code{font:.86em ui-monospace,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
footer{margin:3rem auto 2rem;color:var(--soft);font-size:.88rem}
@media(max-width:44rem){.summary thead{position:absolute;clip-path:inset(50%);height:1px;\
overflow:hidden}
.summary,.summary tbody,.summary tr,.summary th,.summary td{display:block}
.summary tr{background:var(--card);border-radius:8px;padding:.5rem .8rem;margin:.6rem 0}
.summary th[scope=row]{padding:.1rem 0;border-color:var(--line)}
.summary td,.summary td.number{display:flex;justify-content:space-between;gap:1rem;\
padding:.12rem 0;border:0;text-align:right;
white-space:normal}.summary td::before{content:attr(data-label);color:var(--soft);text-align:left}
.summary .missing{max-width:none}}
"""


def esc(text):
    return html.escape(str(text))


def png_width(data):
    """Width in pixels, from the header of a PNG."""
    return struct.unpack(">I", data[16:20])[0] if data[:4] == b"\x89PNG" else 0


def png_axes(data):
    """[[label, low, high]] of the y axes in a PNG that `record.Run.figure` wrote; [] in others."""
    at = 8
    while at + 12 <= len(data) and data[at + 4 : at + 8] != b"IDAT":
        length = struct.unpack(">I", data[at : at + 4])[0]
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if kind in (b"tEXt", b"iTXt") and content.startswith(b"Axes\0"):
            return json.loads(content[content.index(b"[") :].decode("utf-8"))
        at += length + 12
    return []


def uneven_axes(shown_figures):
    """Where figures [(path, caption, alt)] side by side have other y axes, that in words."""
    every = [png_axes(Path(path).read_bytes()) for path, _, _ in shown_figures]
    if len({len(axes) for axes in every}) != 1:
        return ""
    says = []
    for panel in zip(*every, strict=True):
        tops = [high for _, _, high in panel]
        if min(tops) > 0 and max(tops) / min(tops) > UNEVEN:
            label = panel[0][0]
            says.append(f"{label} up to {', '.join(shown(top) for top in tops)}")
    return f"These axes differ: {'; '.join(says)}." if says else ""


def figure(path, caption, alt):
    """One inlined PNG with its caption."""
    data = base64.b64encode(Path(path).read_bytes()).decode()
    image = f'<img alt="{esc(alt)}" loading="lazy" src="data:image/png;base64,{data}">'
    return f"<figure><figcaption>{esc(caption)}</figcaption>{image}</figure>"


def figures(shown_figures):
    """Figures [(path, caption, alt)] side by side, or one below the other where they are wide."""
    if not shown_figures:
        return ""
    wide = max(png_width(Path(path).read_bytes()[:24]) for path, _, _ in shown_figures) > WIDE
    kind = "figures"
    if wide:
        kind = "figures wide"
    elif len(shown_figures) == 1:
        kind = "figures one"
    differ = uneven_axes(shown_figures)
    note = f'<p class="missing">{esc(differ)}</p>' if differ else ""
    return f'{note}<div class="{kind}">{"".join(figure(*f) for f in shown_figures)}</div>'


def is_number(cell):
    """Whether the cell is a number, or text that reads as one; True and False are words."""
    if isinstance(cell, bool):
        return False
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def shown(value):
    """A number in at most four digits, whole numbers whole, None as an empty cell; other text as it
    is.
    """
    if value is None:
        return ""
    if not is_number(value):
        return str(value)
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < 1e6 else f"{number:.3g}"


def without_empty_columns(columns, rows):
    """(columns, rows) less the columns that are empty in every row; all where there is no row."""
    filled = [
        not rows or any(row[i] not in (None, "") for row in rows) for i in range(len(columns))
    ]
    return list(compress(columns, filled)), [list(compress(row, filled)) for row in rows]


def table(columns, rows, caption=""):
    """Rows (lists of text or numbers) under `columns`, in a box that scrolls sideways where the
    screen is narrow. A column without a value in any row is left out.
    """
    columns, rows = without_empty_columns(columns, rows)
    numeric = [
        all(is_number(r[i]) or r[i] in (None, "", "–") for r in rows) for i in range(len(columns))
    ]
    kind = [' class="number"' if n else "" for n in numeric]
    names = [esc(c).replace("_", "_<wbr>") for c in columns]  # long column names may break
    head = "".join(f'<th scope="col"{k}>{c}</th>' for c, k in zip(names, kind, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{k}>{esc(shown(v))}</td>" for v, k in zip(row, kind, strict=True))
        + "</tr>"
        for row in rows
    )
    # The caption stands outside the box: it must not scroll away.
    title = f'<p class="caption">{esc(caption)}</p>' if caption else ""
    name = esc(caption or "table")
    return (
        f'{title}<div class="scroll" tabindex="0" role="region" aria-label="{name}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def summary_table(columns, rows):
    """The first screen's table: {label: cell HTML} a row; on a phone each row becomes a card."""
    head = "".join(
        f'<th scope="col"{"" if i < 2 else " class=number"}>{esc(c)}</th>'
        for i, c in enumerate(columns)
    )
    body = []
    for row in rows:
        cells = [f'<th scope="row">{row[columns[0]]}</th>']
        for i, c in enumerate(columns[1:]):
            kind = "" if i < 1 else " class=number"
            cells.append(f'<td data-label="{esc(c)}"{kind}><span>{row[c]}</span></td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<table class="summary"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def side_by_side(said, rules):
    """Sentences [(label, text)] in boxes side by side, and the rules behind them folded below."""
    boxes = "".join(
        f"<div><strong>{esc(label)}</strong><p>{esc(text)}</p></div>" for label, text in said
    )
    listed = "".join(f"<li>{esc(rule)}</li>" for rule in rules)
    summary = "<summary>The rules behind the words</summary>"
    return f'<div class="says">{boxes}</div><details>{summary}<ul>{listed}</ul></details>'


def page(title, first_screen, sections, foot):
    """The whole document. sections: [(anchor, heading, HTML)]."""
    links = "".join(
        f'<a href="#{esc(anchor)}">{esc(heading)}</a>' for anchor, heading, _ in sections
    )
    parts = "".join(
        f'<section id="{esc(anchor)}"><h2>{esc(heading)}</h2>{body}</section>'
        for anchor, heading, body in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{esc(title)}</title><style>{CSS}</style></head>"
        f"<body><header><h1>{esc(title)}</h1>{first_screen}</header>"
        f'<main><nav aria-label="Sections">{links}</nav>{parts}</main>'
        f"<footer>{foot}</footer></body></html>\n"
    )
