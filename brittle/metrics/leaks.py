"""Does a text give away a value? Exactly, after normalisation, or but for one letter.

The one home of matching a value in a text: evaluations, attacks, judges and filters ask here.
"""

import re

from brittle.data.words import digits, squash, within_one

KINDS = ("exact", "normalised", "fuzzy")  # each includes the ones before it
SHORTEST = 5  # letters and digits of a value that fuzzy matching may be used on


def match(value, text):
    """The strictest of KINDS by which `text` holds `value`, as whole words, or None.

    exact: as it is spelled. normalised: without case, accents, blanks and punctuation. fuzzy: with
    one letter more, less or other; digits must be the same.
    """
    if not value.strip() or not text.strip():
        return None
    if re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text):
        return "exact"
    wanted = squash(value)
    if not wanted:
        return None
    words = [squash(word) for word in re.findall(r"[^\W_]+", text)]
    strictest = None
    for run in runs_of_words(words, len(wanted)):
        if run == wanted:
            return "normalised"
        if len(wanted) >= SHORTEST and within_one(run, wanted) and digits(run) == digits(wanted):
            strictest = "fuzzy"
    return strictest


def runs_of_words(words, length):
    """Yield the runs of neighbouring words, written as one, to the first longer than `length`."""
    for first in range(len(words)):
        run = ""
        for word in words[first:]:
            run += word
            yield run
            if len(run) > length:
                break


def holds(text, value):
    """Does `text` hold `value`, spelled in any way that `match` knows?"""
    return match(value, text) is not None
