"""Answers on a terminal: as they come, two side by side with the differing words marked, and the
next-token probabilities.
"""

import difflib
import re
import sys
import unicodedata

PICTURES, DELETE = 0x2400, 0x7F
# directional marks: a text must not reorder what stands around it
BIDI = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
TOP = 5


def visible(text):
    """`text` with control characters as symbols: what a model writes must not move the cursor,
    colour or retitle anything.
    """

    def safe(c):
        if c in "\n\t" or (unicodedata.category(c) != "Cc" and c not in BIDI):
            return c
        if ord(c) < 0x20:
            return chr(PICTURES + ord(c))
        return "\u2421" if ord(c) == DELETE else f"<U+{ord(c):04X}>"

    return "".join(map(safe, text))


def whole(text):
    """`text` without an unfinished character at its end, which the next token completes."""
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


def typed(loaded, stream, out=None):
    """Write an answer as it comes. Returns its text; after Ctrl-C, `KeyboardInterrupt.args` hold
    what there was.
    """
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
    """({indices of words of `a` that `b` lacks there}, the same of `b`); words are what white space
    separates.
    """
    matcher = difflib.SequenceMatcher(None, a.split(), b.split(), autojunk=False)
    of_a, of_b = set(), set()
    for kind, start_a, end_a, start_b, end_b in matcher.get_opcodes():
        if kind != "equal":
            of_a.update(range(start_a, end_a))
            of_b.update(range(start_b, end_b))
    return of_a, of_b


def marked(text, words, *, colour=True):
    """A rich Text of `text` in which the words of the given numbers are marked.

    The mark is a style. Where there is no colour it is [ ] around each run of such words.
    """
    from rich.text import Text

    output, number, is_open = Text(), 0, False
    for blank, word in re.findall(r"(\s*)(\S*)", visible(text)):
        is_marked = bool(word) and number in words
        if is_open and not is_marked:
            output.append("]")
        output.append(blank)
        if is_marked and not (colour or is_open):
            output.append("[")
        output.append(word, "bold underline yellow" if colour and is_marked else "")
        is_open = is_marked and not colour
        number += bool(word)
    return output


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


def side_by_side(sides, sampling, prompt, console, *, probs=False, before=lambda loaded: []):
    """Ask models one after the other and show their answers growing; at the end mark what differs.

    `sides` are [(name, function that gives a Loaded)]; `before(loaded)` are earlier messages.
    Returns the texts. After Ctrl-C what there is of them is shown, and `KeyboardInterrupt.args`
    hold it.
    """
    from rich.live import Live
    from rich.text import Text

    names = [name for name, _ in sides]
    texts = [""] * len(sides)
    steps = [[] for _ in sides]
    stopped = False
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
    pairs = zip(texts, marks, strict=True)
    console.print(table_of(names, [marked(text, m, colour=colour) for text, m in pairs]))
    if probs:
        console.print(probabilities(names, steps))
    if stopped:
        raise KeyboardInterrupt(texts)
    return texts


def top_tokens(loaded, token, logits, count=TOP):
    """(chosen token, [(token, probability)] of the most likely ones), from logits [V], before
    temperature and top-p.
    """
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
        for of_model in steps:
            chosen, likely = of_model[k] if k < len(of_model) else ("", [])
            cells += [Text(chosen), Text("  ".join(f"{token} {p:.2f}" for token, p in likely))]
        table.add_row(str(k + 1), *cells)
    return table
