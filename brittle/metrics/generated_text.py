"""Metrics of generated text: ROUGE, and whether it is text at all.

ROUGE (Lin 2004) is the rouge-score package's: over lower-cased words of letters a-z and digits, and
with Porter's stemmer for words of more than three letters where that is asked for.
"""

import functools
import math
import re
import sys
from collections import Counter
from typing import NamedTuple

from rouge_score.tokenize import tokenize

TAGS = "think|thinking|thought|reason|reasoning"
OPENING = re.compile(rf"\s*<(?:{TAGS})>")
CLOSING = re.compile(rf"</(?:{TAGS})>")


class Overlap(NamedTuple):
    """Recall of the reference, precision of the prediction, and their harmonic mean."""

    recall: float
    precision: float
    f1: float


class Rouge(NamedTuple):
    """ROUGE-1 (words in common) and ROUGE-L (longest common subsequence of words)."""

    rouge_1: Overlap
    rouge_l: Overlap


@functools.cache
def _scorer(stem):
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk, which takes a second

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=stem)


def rouge(prediction, reference, *, stem=True):
    """The `Rouge` of a prediction; all 0 where one of the texts has no word."""
    scores = _scorer(stem).score(reference, prediction)
    overlaps = {
        kind: Overlap(float(score.recall), float(score.precision), float(score.fmeasure))
        for kind, score in scores.items()
    }
    return Rouge(overlaps["rouge1"], overlaps["rougeL"])


def rouge_words(text):
    """ROUGE's words of a text, without stemming."""
    return tokenize(text, None)


def token_entropy(text):
    """Entropy of the text's words over log2 of their number (arXiv:2410.08109).

    0: one word repeated; 1: all words differ. None without two words: nothing can be repeated.
    """
    counts = Counter(rouge_words(text))
    n = counts.total()
    if n < 2:
        return None
    return -sum(c / n * math.log2(c / n) for c in counts.values()) / math.log2(n)


def repetition(text, n=4):
    """Share of the text's n-grams that stood in it before; None where it has none."""
    words = rouge_words(text)
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else None


def degenerate(text, most=0.5):
    """Is it no answer at all: empty, or mostly repetition (of 4-grams, or of one word)?"""
    words = rouge_words(text)
    if not words:
        return True
    entropy, repeated = token_entropy(text), repetition(text)
    loops = entropy is not None and len(words) >= 4 and entropy < 1 - most
    return loops or (repeated is not None and repeated > most)


class Spoken(NamedTuple):
    """A generation of a reasoning model: its trace, and what follows the closing tag."""

    trace: str
    answer: str


def split_trace(text, *, opened=False):
    """The `Spoken` parts of a generation. All of it is the answer where there is no trace.

    opened: the prompt began a trace. A trace without its closing tag has no answer behind it.
    """
    *_, closing = [None, *CLOSING.finditer(text)]
    begun = OPENING.match(text)
    if closing is None and not opened and begun is None:
        return Spoken("", text)
    first = begun.end() if begun else 0
    if closing is None:
        return Spoken(text[first:].strip(), "")
    return Spoken(text[first : closing.start()].strip(), text[closing.end() :].strip())


def say_unfinished(spoken, flag, tokens):
    """Say on stderr how many traces do not end within so many tokens, the value of `flag`."""
    unfinished = sum(bool(one.trace and not one.answer) for one in spoken)
    if unfinished:
        print(
            f"note: {unfinished} of {len(spoken)} traces do not end within {tokens} tokens, so no "
            f"answer follows them. Raise {flag}.",
            file=sys.stderr,
        )


def cut(text, ends=("\n\n", "\nQuestion", "Question:")):
    """A generation up to where the next question begins (MUSE's knowmem)."""
    for end in ends:
        text = text.split(end)[0]
    return text
