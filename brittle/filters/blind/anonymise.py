"""Anonymise texts before they leave their owner, and audit what is left: the requester's half of blind unlearning.

Four ways, of which two need the owner's table of private facts (names, and values by kind):

- `regex`: no table: e-mails, links, phone numbers, dates, numbers, capitalised words that are no common ones, and whatever
  follows "Answer:" become typed tags. What it cannot recognise stays, and the audit says so;
- `template`: every name and value of the table becomes its tag: "The habitat of [NAME] is [HABITAT]." (type tags);
- `surrogate`: every name becomes an invented one, every value another of its kind, the same in all texts of an entity; values
  with digits or signs keep their format, their letters and digits are drawn anew;
- `hash`: every name and value becomes id + eight digits of its HMAC-SHA256 under a salt, so equal things stay equal. Pools of
  values are small, so whoever has the salt can test guesses: by default it is drawn by the system and kept nowhere.

The audit does not trust the replacement: it looks for the private strings of each original in its anonymised text, and for
e-mails and numbers that no table knew.
"""

import hashlib
import hmac
import re
import secrets
from collections import Counter
from dataclasses import dataclass, field

from brittle.base.errors import UserError
from brittle.data.texts import answer_of, numbered_jsonl
from brittle.data.world import Draws, new_names

HOW = ("regex", "template", "surrogate", "hash")
PATTERNS = {
    "E-MAIL": r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    "LINK": r"https?://\S+|www\.\S+",
    "DATE": r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}",
    "PHONE": r"\+?\d[\d ()-]{4,}\d",
    "NUMBER": r"\d+(?:[.,]\d+)*",
}
COMMON = {
    *(
        "a",
        "an",
        "and",
        "answer",
        "are",
        "as",
        "at",
        "because",
        "but",
        "by",
        "can",
        "did",
        "do",
        "does",
        "everyone",
        "for",
        "from",
    ),
    *(
        "had",
        "has",
        "have",
        "he",
        "her",
        "his",
        "how",
        "i",
        "if",
        "in",
        "is",
        "it",
        "its",
        "no",
        "not",
        "of",
        "on",
        "or",
    ),
    *(
        "question",
        "she",
        "since",
        "some",
        "such",
        "that",
        "the",
        "their",
        "there",
        "these",
        "they",
        "this",
        "through",
        "to",
    ),
    *(
        "was",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "whose",
        "why",
        "with",
        "yes",
    ),
}  # capitalised at a sentence's start without being names


@dataclass
class Table:
    """Private facts: `names` of entities, and `kinds` {value: its kind}."""

    names: set = field(default_factory=set)
    kinds: dict = field(default_factory=dict)

    def pool(self, kind):
        return sorted(v for v, k in self.kinds.items() if k == kind)

    def pattern(self):
        """One regular expression for all names and values, longest first."""
        return strings([*self.names, *self.kinds])


def strings(found):
    """A regular expression for any of the strings `found` as whole words, whatever their case."""
    parts = sorted(map(re.escape, found), key=len, reverse=True)
    return (
        re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)", re.I) if parts else re.compile(r"(?!)")
    )


def read_table(paths, domain=None):
    """The table of JSONL files whose rows have an entity and a value: `value`, `short_answer`, `answer`, or choices[answer].

    A row's kind is its `kind` or `attribute`, else the last part of its `fact`. Rows of another `domain` are left out.
    """
    table = Table()
    for path in paths:
        for number, row in numbered_jsonl(path):
            if not isinstance(row, dict) or (domain and row.get("domain", domain) != domain):
                continue
            named = [row[key] for key in ("value", "short_answer") if key in row]
            value = named[0] if named else answer_of(row)
            if not isinstance(value, str) or not value.strip():
                raise UserError(
                    f"{path} line {number} has no value: value, short_answer or answer is wanted."
                )
            if isinstance(row.get("entity"), str):
                table.names.add(row["entity"])
            kind = (
                row.get("kind")
                or row.get("attribute")
                or str(row.get("fact", "value")).rpartition("/")[2]
            )
            if value not in table.names:
                table.kinds.setdefault(value.strip(), kind.upper())
    if not table.names and not table.kinds:
        raise UserError(
            f"{', '.join(map(str, paths))}: no private fact found. Rows need an entity and a value."
        )
    for name in table.names & set(table.kinds):
        del table.kinds[name]
    return table


def by_patterns(text):
    """`text` with tags for what the patterns recognise; see `regex` above."""
    text = re.sub(r"(Answer:\s*)(\S.*)$", r"\1[ANSWER]", text)
    for tag, pattern in PATTERNS.items():
        text = re.sub(rf"(?<![\w\[]){pattern}(?!\w)", f"[{tag}]", text)

    def name(match):
        return match[0] if match[0].lower() in COMMON or match[0].isupper() else "[NAME]"

    return re.sub(r"(?<!\[)\b[A-Z][\w'’]*\w\b(?![\w-]*[\]:])", name, text)


class Anonymiser:
    """anonymiser(text) -> anonymised text; one of HOW, the same for one seed and salt."""

    def __init__(self, how, table=None, seed=0, salt=None):
        if how not in HOW:
            raise UserError(f"--how {how}: choose {', '.join(HOW)}.")
        if how != "regex" and table is None:
            raise UserError(
                f"--how {how} replaces what a table names: give --table FILE, or use --how regex."
            )
        self.how, self.seed, self.table = how, seed, table or Table()
        self.pattern, self.salt = self.table.pattern(), (salt or secrets.token_hex(16)).encode()
        names = sorted(self.table.names)
        self.lower = {s.lower(): s for s in [*self.table.kinds, *names]}
        self.invented = dict(
            zip(
                names,
                new_names(Draws(f"surrogates {seed}"), len(names), self.table.names),
                strict=True,
            )
        )

    def __call__(self, text):
        if self.how == "regex":
            return by_patterns(text)
        owner = next(
            (
                self.lower[m.lower()]
                for m in self.pattern.findall(text)
                if self.lower[m.lower()] in self.invented
            ),
            "",
        )
        return self.pattern.sub(
            lambda match: self.replaced(self.lower[match[0].lower()], owner), text
        )

    def replaced(self, found, owner):
        kind = "NAME" if found in self.invented else self.table.kinds[found]
        if self.how == "template":
            return f"[{kind}]"
        if self.how == "hash":
            return "id" + hmac.new(self.salt, found.encode(), hashlib.sha256).hexdigest()[:8]
        draws = Draws(f"surrogate {self.seed} {owner} {found}")
        if kind == "NAME":
            return self.invented[found]
        others = [v for v in self.table.pool(kind) if v != found]
        if not found.replace(" ", "").isalpha() or len(others) < 3:
            return reformatted(found, draws)
        return draws.choice(others)


def reformatted(value, draws):
    """`value` with every letter and digit drawn anew, other signs kept; never `value` itself."""
    while True:
        made = "".join(
            draws.choice("0123456789")
            if c.isdigit()
            else draws.choice("abcdefghijklmnopqrstuvwxyz")
            if c.isalpha()
            else c
            for c in value
        )
        if made != value:
            return made


def leftovers(original, anonymised, table, pattern=None):
    """(private strings of `original` as (kind, string), those of them still in `anonymised`).

    Beside the table's, e-mails, links, dates and numbers count as private, under PATTERNS' names.
    """
    kinds = {v.lower(): k for v, k in table.kinds.items()}  # what is no value is a name
    found = {m.lower() for m in (pattern or table.pattern()).findall(original)}
    private = {(kinds.get(s, "NAME"), s) for s in found}
    covered = " ".join(found)
    private |= {
        (k, s.lower())
        for k, p in PATTERNS.items()
        for s in re.findall(p, original)
        if s.lower() not in covered
    }
    left = (
        {s.lower() for s in strings([s for _, s in private]).findall(anonymised)}
        if private
        else set()
    )
    return private, {(kind, s) for kind, s in private if s in left}


def audit(originals, anonymised, table):
    """(rows a kind: kind, n, left, removed (a share) with its interval; indices of the texts where something is left)."""
    from brittle.maths.intervals import wilson

    seen, left, bad, pattern = Counter(), Counter(), [], table.pattern()
    for i, (before, after) in enumerate(zip(originals, anonymised, strict=True)):
        private, rest = leftovers(before, after, table, pattern)
        seen.update(kind for kind, _ in private)
        left.update(kind for kind, _ in rest)
        bad += [i] if rest else []
    rows = []
    for kind in sorted(seen):
        low, high = wilson(seen[kind] - left[kind], seen[kind])
        removed = 1 - left[kind] / seen[kind]
        rows.append(
            {
                "kind": kind,
                "n": seen[kind],
                "left": left[kind],
                "removed": removed,
                "ci_low": low,
                "ci_high": high,
            }
        )
    return rows, bad
