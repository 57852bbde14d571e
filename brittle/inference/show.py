"""Answers on a terminal: as they come, two side by side with the differing words marked, and the next-token probabilities."""

import difflib
import re
import sys
import unicodedata

PICTURES, DELETE = 0x2400, 0x7F
BIDI = set(
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)  # a text must not reorder what stands around it
TOP = 5


def visible(text):
    """`text` with control characters as symbols: what a model writes must not move the cursor, colour or retitle anything."""

    def safe(c):
        if c in "\n\t" or (unicodedata.category(c) != "Cc" and c not in BIDI):
            return c
        return (
            chr(PICTURES + ord(c))
            if ord(c) < 0x20
            else "\u2421"
            if ord(c) == DELETE
            else f"<U+{ord(c):04X}>"
        )

    return "".join(map(safe, text))


def whole(text):
    """`text` without an unfinished character at its end: its last bytes come with the next token."""
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


def typed(loaded, stream, out=None):
    """Write an answer as it comes. Returns its text; after Ctrl-C, `KeyboardInterrupt.args` hold what there was."""
    out, shown, ids = out or sys.stdout, 0, []
    try:
        for ids, _, _ in stream:
            so_far = visible(whole(loaded.decode(ids)))
            out.write(so_far[shown:])
            out.flush()
            shown = len(so_far)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(loaded.decode(ids)) from None
    finally:
        out.write("\n")
    return loaded.decode(ids)


def differing(a, b):
    """({indices of words of `a` that `b` lacks there}, the same of `b`); words are what white space separates."""
    one, other = a.split(), b.split()
    moves = [
        m
        for m in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
        if m[0] != "equal"
    ]
    return {i for m in moves for i in range(m[1], m[2])}, {
        i for m in moves for i in range(m[3], m[4])
    }


def marked(text, words, colour=True):
    """A rich Text of `text`, the words of the given numbers marked: by style, or in [ ] where there is no colour."""
    from rich.text import Text

    made, number = Text(), 0
    for piece in re.findall(r"\s+|\S+", visible(text)):
        hit = not piece.isspace() and number in words
        number += not piece.isspace()
        made.append(
            f"[{piece}]" if hit and not colour else piece,
            "bold underline yellow" if hit and colour else "",
        )
    return made


def table_of(names, cells):
    """Columns side by side, wrapped."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, expand=True, show_edge=False)
    for name in names:
        table.add_column(Text(visible(name)), ratio=1, overflow="fold")
    table.add_row(*cells)
    return table


def side_by_side(sides, sampling, prompt, console, probs=False, before=lambda loaded: []):
    """Ask the models that `sides` make, one after the other, and show both answers growing; differing words are marked at
    the end. `sides` are [(name, function that gives a Loaded)]; `before(loaded)` are earlier messages. Returns the texts;
    after Ctrl-C what there is of them is shown, and `KeyboardInterrupt.args` hold it."""
    from rich.live import Live
    from rich.text import Text

    names, texts, steps, stopped = (
        [name for name, _ in sides],
        [""] * len(sides),
        [[] for _ in sides],
        False,
    )
    with Live(console=console, refresh_per_second=12, transient=True) as live:
        for k, (_, load) in enumerate(sides):
            if stopped:
                break
            loaded, ids = load(), []
            try:
                for ids, token, logits in loaded.stream(prompt, sampling, before(loaded)):
                    texts[k] = whole(loaded.decode(ids))
                    if probs:
                        steps[k].append(top_tokens(loaded, token, logits))
                    if console.is_terminal:
                        live.update(table_of(names, [Text(visible(t)) for t in texts]))
            except KeyboardInterrupt:
                names[k], stopped = f"{names[k]} (stopped)", True
            texts[k] = loaded.decode(ids).strip()
            del loaded  # a one-shot comparison needs one model in memory at a time
    marks = differing(*texts) if len(texts) == 2 else [set()] * len(texts)
    colour = console.is_terminal and not console.no_color
    console.print(
        table_of(names, [marked(t, m, colour) for t, m in zip(texts, marks, strict=True)])
    )
    if probs:
        console.print(probabilities(names, steps))
    if stopped:
        raise KeyboardInterrupt(texts)
    return texts


def top_tokens(loaded, token, logits, count=TOP):
    """(chosen token, [(token, probability)] of the most likely ones), from logits [V], before temperature and top-p."""
    import torch

    p = torch.softmax(logits.double(), -1)
    best = p.topk(min(count, len(p)))
    texts = [_token(loaded, i) for i in (token, *best.indices.tolist())]
    return texts[0], list(zip(texts[1:], best.values.tolist(), strict=True))


def _token(loaded, token):
    """One token as it can be seen: spaces and line ends too."""
    text = visible(loaded.tokenizer.decode([token])).replace(" ", "\u00b7").replace("\n", "\u21b5")
    return text or f"#{token}"


def probabilities(names, steps):
    """A table: at each step the token every model chose and its most likely ones."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, expand=True)
    table.add_column("step", justify="right")
    for name in names:
        table.add_column("token", no_wrap=True)
        table.add_column(Text(f"most likely: {visible(name)}"), ratio=1, overflow="fold")
    for k in range(max(map(len, steps), default=0)):
        cells = []
        for made in steps:
            chosen, likely = made[k] if k < len(made) else ("", [])
            cells += [Text(chosen), Text("  ".join(f"{token} {p:.2f}" for token, p in likely))]
        table.add_row(str(k + 1), *cells)
    return table
