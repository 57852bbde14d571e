"""Deep unlearning (Wu et al. 2024, arXiv:2410.15153): what still follows from what a model knows.

A clause says that a conclusion follows from its premises. A fact is forgotten on the surface where
the model fails on it, but it follows from facts that the model still knows.

The supports of a target are the minimal sets of stated facts that it follows from. A minimal deep
unlearning set is a minimal hitting set of them: facts whose removal makes the target no longer
follow, and of which none can be spared. The graphs here are small, so all of them are enumerated;
the paper samples them.
"""

from itertools import product
from typing import NamedTuple


def clauses(facts):
    """[(premises, conclusion)] of ids, from {id: Fact}.

    An inverse relation says the same as the relation, so it holds both ways.
    """
    forwards = [(frozenset(f.premises), f.id) for f in facts.values() if f.premises]
    inverse = [f for f in facts.values() if f.rule == "inverse"]
    return forwards + [(frozenset([f.id]), f.premises[0]) for f in inverse]


def closure(known, rules):
    """The set of all that follows from `known`."""
    follows, grew = set(known), True
    while grew:
        new = {head for body, head in rules if head not in follows and body <= follows}
        follows, grew = follows | new, bool(new)
    return follows


def minimal(sets):
    """The sets that hold none of the others."""
    smallest = []
    for candidate in sorted(set(sets), key=len):
        if not any(other <= candidate for other in smallest):
            smallest.append(candidate)
    return smallest


def supports(stated, rules):
    """{fact: minimal sets of stated facts that it follows from}."""
    supports_of, grew = {fact: [frozenset([fact])] for fact in stated}, True
    while grew:
        grew = False
        for body, head in rules:
            if not all(premise in supports_of for premise in body):
                continue
            choices = product(*(supports_of[premise] for premise in body))
            new = [frozenset().union(*chosen) for chosen in choices]
            better = minimal([*supports_of.get(head, []), *new])
            if set(better) != set(supports_of.get(head, [])):
                supports_of[head], grew = better, True
    return supports_of


def unlearning_sets(target, supports_of):
    """The minimal sets of facts to forget, so that `target` follows from the rest no more.

    `supports_of` is what `supports` returns.
    """
    if not supports_of.get(target):
        return []
    return minimal([frozenset(picked) for picked in product(*supports_of[target])])


class Forgotten(NamedTuple):
    """How deeply a target is forgotten, and the unlearning set that says so (S* of the paper)."""

    recall: float | None
    accuracy: float | None
    unlearning_set: frozenset


def recall_accuracy(sets, failed, stated):
    """`Forgotten` of a target with the minimal unlearning sets `sets`.

    U (`failed`) are the stated facts that the model fails on, and N = len(stated). Recall is the
    maximum over S of |U & S| / |S|; accuracy is 1 - |U - S*| / (N - |S*|). Of sets with equal
    recall the one that leaves the highest accuracy counts.
    """
    best = Forgotten(None, None, frozenset())
    for candidate in sets:
        rest = len(stated) - len(candidate)
        recall = len(failed & candidate) / len(candidate)
        accuracy = 1 - len(failed - candidate) / rest if rest else 1.0
        if best.recall is None or (recall, accuracy) > (best.recall, best.accuracy):
            best = Forgotten(recall, accuracy, candidate)
    return best
