"""Words and characters compared: normal forms, and spellings within one edit."""

import functools
import re
import unicodedata


def normal(text):
    """Case, accents, width, digit scripts and runs of blanks taken away."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    digits = "".join(str(unicodedata.digit(c, c)) if not c.isascii() else c for c in plain)
    return " ".join(digits.casefold().split())


def words(text):
    return re.findall(r"\w+", normal(text))


@functools.lru_cache(maxsize=1 << 16)  # the same few words are compared again and again
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
