"""Does a text give away a value? Exactly, after normalisation, or but for one letter (digits exact)."""

import re

from brittle.guards import normal

KINDS = ("exact", "normalised", "fuzzy")  # each includes the ones before it
SHORTEST = 5  # letters and digits of a value that fuzzy matching may be used on


def squash(text):
    """Letters and digits alone, in lower case, without accents."""
    return re.sub(r"[\W_]+", "", normal(text))


def within_one(a, b):
    """Can `a` be turned into `b` by changing, adding or removing at most one character?"""
    if abs(len(a) - len(b)) > 1:
        return False
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    if len(a) == len(b):
        return a[start + 1 :] == b[start + 1 :]
    longer, shorter = (a, b) if len(a) > len(b) else (b, a)
    return longer[start + 1 :] == shorter[start:]


def digits(text):
    return [c for c in text if c.isdigit()]


def match(value, text):
    """The strictest of KINDS by which `text` holds `value` (as whole words, where it is spelled), or None."""
    if not value.strip() or not text.strip():
        return None
    if re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text):
        return "exact"
    wanted, words = squash(value), [squash(word) for word in re.findall(r"[^\W_]+", text)]
    found = None
    if not wanted:
        return None
    for first in range(len(words)):  # runs of whole words, as long as the value
        run = ""
        for word in words[first:]:
            run += word
            if run == wanted:
                return "normalised"
            if len(wanted) >= SHORTEST and digits(run) == digits(wanted) and within_one(run, wanted):
                found = "fuzzy"
            if len(run) > len(wanted):
                break
    return found
