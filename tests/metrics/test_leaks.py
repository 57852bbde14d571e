"""A value in a text: planted spellings, and the words and spellings that matching stands on."""

import pytest

from brittle.data.overlap import measured
from brittle.data.words import squash, within_one, words
from brittle.metrics.leaks import holds, match

SPELLINGS = [
    ("canyon", "a canyon.", "exact"),
    ("canyon", "A CANYON", "normalised"),
    ("canyon", "can-yon", "normalised"),
    ("canyon", "canyons", "fuzzy"),
    ("canyon", "the canon", "fuzzy"),
    ("canyon", "canyoning", None),
    ("canyon", "a can", None),
    ("moss", "mess", None),  # too short for one letter to be a misspelling
    ("reef", "reefer", None),
    ("Café", "cafe", "normalised"),
    ("555-919", "555 919", "normalised"),
    ("555-919", "call 555 919 now", "normalised"),
    ("555-919", "555-918", None),  # a digit is never a misspelling
    ("1949", "1950", None),
    ("nedo@tansy.example", "Nedo@Tansy . example", "normalised"),
    ("nedo@tansy.example", "nedo at tansy.example", None),
    ("", "x", None),
    ("", "x. ", None),  # nothing stands everywhere
    ("x", "", None),
    ("?!", "?!", "exact"),
    ("?!", "what", None),
]


@pytest.mark.parametrize(("value", "text", "kind"), SPELLINGS)
def test_matching(value, text, kind):
    assert match(value, text) == kind
    assert holds(text, value) == (kind is not None)


def test_words_and_spellings():
    assert words("Café, N° 12!") == ["cafe", "n", "12"] and squash("Café, N° 12!") == "cafen12"
    near = ["abc", "ab", "abcd", "xabc", "axc"]
    assert all(within_one("abc", other) and within_one(other, "abc") for other in near)
    assert not any(within_one("abc", other) for other in ("a", "acb", "abcde", "xyz"))


def test_overlap_counts_words_whatever_their_case_and_accents():
    """Two of the three different words of the forget set stand in the retain set."""
    shares = measured(["Café noir", "noir blue"], ["cafe NOIR red"])
    assert shares == {"texts": 0.0, "words": round(2 / 3, 4)}
