"""Metrics of generated text: ROUGE, and whether it is text at all.

ROUGE (Lin 2004) over lower-cased words of letters and digits, with Porter's stemmer for words of more than three letters where
asked: the convention of the rouge-score package, which the tests compare with.
"""

import functools
import math
import re
from collections import Counter
from typing import NamedTuple


class Overlap(NamedTuple):
    """Recall of the reference, precision of the prediction, and their harmonic mean."""

    recall: float
    precision: float
    f1: float


@functools.cache
def _stemmer():
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


def words(text, stem=True):
    found = re.findall(r"[a-z0-9]+", text.lower())
    return [_stemmer().stem(w) if len(w) > 3 else w for w in found] if stem else found


def overlap(matched, predicted, reference):
    """Overlap of `matched` of the given lengths; 0 where one of the texts has no word."""
    recall, precision = matched / max(1, reference), matched / max(1, predicted)
    return Overlap(
        recall, precision, 2 * recall * precision / (recall + precision) if matched else 0.0
    )


def common_subsequence(a, b):
    """Length of the longest common subsequence of two lists."""
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            row[j], diagonal = diagonal + 1 if x == y else max(row[j], row[j - 1]), row[j]
    return row[-1]


def rouge_l(prediction, reference, stem=True):
    a, b = words(prediction, stem), words(reference, stem)
    return overlap(common_subsequence(a, b), len(a), len(b))


def rouge_1(prediction, reference, stem=True):
    a, b = words(prediction, stem), words(reference, stem)
    return overlap((Counter(a) & Counter(b)).total(), len(a), len(b))


def token_entropy(text):
    """Entropy of the text's words over log2 of their number: 0 one word repeated, 1 all different (arXiv:2410.08109).

    None without two words: there is nothing to repeat.
    """
    counts = Counter(words(text, stem=False))
    n = counts.total()
    if n < 2:
        return None
    return -sum(c / n * math.log2(c / n) for c in counts.values()) / math.log2(n)


def repetition(text, n=4):
    """Share of the text's n-grams that stood in it before; None where it has none."""
    found = words(text, stem=False)
    grams = [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else None


def degenerate(text, most=0.5):
    """Is it no answer at all: empty, or mostly repetition (of 4-grams, or of one word)?"""
    entropy, repeated = token_entropy(text), repetition(text)
    loops = entropy is not None and len(words(text, False)) >= 4 and entropy < 1 - most
    return not words(text, stem=False) or loops or (repeated is not None and repeated > most)


def cut(text, ends=("\n\n", "\nQuestion", "Question:")):
    """A generation up to where the next question begins (MUSE's knowmem)."""
    for end in ends:
        text = text.split(end)[0]
    return text
