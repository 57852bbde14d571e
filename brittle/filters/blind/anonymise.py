"""Anonymise texts before they leave their owner, and audit what is left.

This is the requester's half of blind unlearning. There are four ways, of which the last three need
the owner's table of private facts (names, and values by kind):

- `regex`: e-mails, links, phone numbers, dates, numbers, capitalised words that are no common ones,
  and whatever follows "Answer:" become typed tags. What it cannot recognise stays, and the audit
  says so.
- `template`: every name and value of the table becomes its tag: "The habitat of [NAME] is
  [HABITAT]."
- `surrogate`: every name becomes an invented one, every value another of its kind, the same in all
  texts of an entity. Values with digits or signs keep their format: letters and digits are drawn
  anew.
- `hash`: every name and value becomes `id` and eight digits of its HMAC-SHA256 under a salt, so
  equal things stay equal. Pools of values are small, so whoever has the salt can test guesses: by
  default it is drawn by the system and kept nowhere.

The audit does not trust the replacement. It looks for the private strings of each original in its
anonymised text, and for e-mails and numbers that no table knew.
"""

import hashlib
import hmac
import re
import secrets
import string
from collections import Counter
from dataclasses import dataclass, field

from brittle.base.errors import UserError
from brittle.data.rows import answer_of
from brittle.data.texts import numbered_jsonl
from brittle.data.world import Draws, new_names

HOW = ("regex", "template", "surrogate", "hash")
PATTERNS = {
    "E-MAIL": r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    "LINK": r"https?://\S+|www\.\S+",
    "DATE": r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}",
    "PHONE": r"\+?\d[\d ()-]{4,}\d",
    "NUMBER": r"\d+(?:[.,]\d+)*",
}
# words that are capitalised at a sentence's start without being names
COMMON_WORDS = """
    a an and answer are as at because but by can did do does everyone for from
    had has have he her his how i if in is it its no not of on or
    question she since some such that the their there these they this through to
    was were what when where which while who whose why with yes
"""
COMMON = set(COMMON_WORDS.split())


@dataclass
class PrivateFacts:
    """What is private: `names` of entities, and `kinds` {value: its kind}."""

    names: set = field(default_factory=set)
    kinds: dict = field(default_factory=dict)

    def pool(self, kind):
        """The values of a kind, sorted."""
        return sorted(value for value, other in self.kinds.items() if other == kind)

    def pattern(self):
        """A regular expression for every name and value."""
        return any_of([*self.names, *self.kinds])


def any_of(strings):
    """A regular expression for any of `strings` as whole words, whatever their case.

    The longest come first. Of no strings it matches nothing.
    """
    alternatives = sorted(map(re.escape, strings), key=len, reverse=True)
    if not alternatives:
        return re.compile(r"(?!)")
    return re.compile(rf"(?<!\w)(?:{'|'.join(alternatives)})(?!\w)", re.IGNORECASE)


def value_of(row):
    """The private value of a row, or None: `value`, `short_answer`, `answer`, or its choice."""
    named = [row[key] for key in ("value", "short_answer") if key in row]
    value = named[0] if named else answer_of(row)
    return value.strip() if isinstance(value, str) and value.strip() else None


def kind_of(row):
    """The kind of a row's value: `kind` or `attribute`, else the last part of its `fact`."""
    last_of_fact = str(row.get("fact", "value")).rpartition("/")[2]
    return (row.get("kind") or row.get("attribute") or last_of_fact).upper()


def read_table(paths, domain=None):
    """The PrivateFacts of JSONL files whose rows have an entity and a value (see `value_of`).

    Rows of another `domain` are left out. A string that is a name is no value. Raises UserError for
    a row without a value, and where no row is left.
    """
    table = PrivateFacts()
    for path in paths:
        for number, row in numbered_jsonl(path):
            if not isinstance(row, dict) or (domain and row.get("domain", domain) != domain):
                continue
            value = value_of(row)
            if value is None:
                raise UserError(
                    f"{path} line {number} has no value: value, short_answer or answer is wanted."
                )
            if isinstance(row.get("entity"), str):
                table.names.add(row["entity"])
            table.kinds.setdefault(value, kind_of(row))
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
    """anonymiser(text) -> anonymised text, by one of HOW; the same for one seed and salt.

    Raises UserError for another way, and for one that needs a table without one.
    """

    def __init__(self, how, table=None, seed=0, salt=None):
        if how not in HOW:
            raise UserError(f"--how {how}: choose {', '.join(HOW)}.")
        if how != "regex" and table is None:
            raise UserError(
                f"--how {how} replaces what a table names: give --table FILE, or use --how regex."
            )
        self.how, self.seed, self.table = how, seed, table or PrivateFacts()
        self.pattern = self.table.pattern()
        self.salt = (salt or secrets.token_hex(16)).encode()
        names = sorted(self.table.names)
        self.spelling = {phrase.lower(): phrase for phrase in [*self.table.kinds, *names]}
        invented = new_names(Draws(f"surrogates {seed}"), len(names), self.table.names)
        self.invented = dict(zip(names, invented, strict=True))

    def __call__(self, text):
        if self.how == "regex":
            return by_patterns(text)
        owner = self.owner_of(text)

        def replace(match):
            return self.replacement(self.spelling[match[0].lower()], owner)

        return self.pattern.sub(replace, text)

    def owner_of(self, text):
        """The first name in a text, or an empty string."""
        private = [self.spelling[phrase.lower()] for phrase in self.pattern.findall(text)]
        return next((phrase for phrase in private if phrase in self.invented), "")

    def replacement(self, private, owner):
        """What stands for a private string in a text of an entity, `owner`."""
        is_name = private in self.invented
        kind = "NAME" if is_name else self.table.kinds[private]
        if self.how == "template":
            return f"[{kind}]"
        if self.how == "hash":
            return "id" + hmac.new(self.salt, private.encode(), hashlib.sha256).hexdigest()[:8]
        if is_name:
            return self.invented[private]
        draws = Draws(f"surrogate {self.seed} {owner} {private}")
        others = [value for value in self.table.pool(kind) if value != private]
        is_words = private.replace(" ", "").isalpha()
        if is_words and len(others) >= 3:
            return draws.choice(others)
        return reformatted(private, draws)


def reformatted(value, draws):
    """`value` with every letter and digit drawn anew, other signs kept; never `value` itself."""

    def drawn(character):
        if character.isdigit():
            return draws.choice(string.digits)
        if character.isalpha():
            return draws.choice(string.ascii_lowercase)
        return character

    while True:
        other = "".join(drawn(character) for character in value)
        if other != value:
            return other


def leftovers(original, anonymised, table, pattern=None):
    """(private strings of `original` as {(kind, string)}, those of them still in `anonymised`).

    Beside the table's, e-mails, links, dates and numbers count as private, under PATTERNS' names.
    pattern: the table's, where it is compiled already.
    """
    # what is no value is a name
    kinds = {value.lower(): kind for value, kind in table.kinds.items()}
    known = {phrase.lower() for phrase in (pattern or table.pattern()).findall(original)}
    private = {(kinds.get(phrase, "NAME"), phrase) for phrase in known}
    covered = " ".join(known)
    for kind, expression in PATTERNS.items():
        phrases = {phrase.lower() for phrase in re.findall(expression, original)}
        private |= {(kind, phrase) for phrase in phrases if phrase not in covered}
    still_there = any_of([phrase for _, phrase in private]).findall(anonymised)
    left = {phrase.lower() for phrase in still_there}
    return private, {(kind, phrase) for kind, phrase in private if phrase in left}


def audit(originals, anonymised, table):
    """(rows, indices of the texts where something is left).

    A row a kind: kind, n, left, and the share that was removed with its 95 % interval.
    """
    from brittle.maths.intervals import wilson

    seen, left, bad, pattern = Counter(), Counter(), [], table.pattern()
    for i, (before, after) in enumerate(zip(originals, anonymised, strict=True)):
        private, rest = leftovers(before, after, table, pattern)
        seen.update(kind for kind, _ in private)
        left.update(kind for kind, _ in rest)
        if rest:
            bad.append(i)
    rows = []
    for kind in sorted(seen):
        low, high = wilson(seen[kind] - left[kind], seen[kind])
        row = {
            "kind": kind,
            "n": seen[kind],
            "left": left[kind],
            "removed": 1 - left[kind] / seen[kind],
            "ci_low": low,
            "ci_high": high,
        }
        rows.append(row)
    return rows, bad
