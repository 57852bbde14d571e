"""Does a text give away a value? Exactly, after normalisation, or but for one letter (digits exact)."""

import re

from brittle.data.words import digits, squash, within_one

KINDS = ("exact", "normalised", "fuzzy")  # each includes the ones before it
SHORTEST = 5  # letters and digits of a value that fuzzy matching may be used on


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
            if (
                len(wanted) >= SHORTEST
                and digits(run) == digits(wanted)
                and within_one(run, wanted)
            ):
                found = "fuzzy"
            if len(run) > len(wanted):
                break
    return found
