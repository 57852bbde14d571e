"""Deep unlearning (Wu et al. 2024, arXiv:2410.15153): what still follows from what a model knows.

A clause says that a conclusion follows from its premises. A fact is superficially forgotten where the model fails on it, but it
follows from facts that the model still knows. Facts whose removal makes the target no longer follow, and of which none can be
spared, are a minimal deep unlearning set: a minimal hitting set of the target's supports (the minimal sets of stated facts
that it follows from). The graphs here are small, so all of them are found; the paper samples them.
"""

from itertools import product


def clauses(facts):
    """[(premises, conclusion)] of ids. An inverse relation says the same as the relation, so it holds both ways."""
    found = [(frozenset(f.premises), f.id) for f in facts.values() if f.premises]
    return found + [
        (frozenset([f.id]), f.premises[0]) for f in facts.values() if f.rule == "inverse"
    ]


def closure(known, rules):
    """All that follows from `known`."""
    found, grew = set(known), True
    while grew:
        new = {head for body, head in rules if head not in found and body <= found}
        found, grew = found | new, bool(new)
    return found


def minimal(sets):
    """The sets that hold none of the others."""
    found = []
    for s in sorted(set(sets), key=len):
        if not any(other <= s for other in found):
            found.append(s)
    return found


def supports(stated, rules):
    """{fact: minimal sets of stated facts that it follows from}."""
    found, grew = {f: [frozenset([f])] for f in stated}, True
    while grew:
        grew = False
        for body, head in rules:
            if not all(premise in found for premise in body):
                continue
            new = [frozenset().union(*parts) for parts in product(*(found[p] for p in body))]
            better = minimal([*found.get(head, []), *new])
            if set(better) != set(found.get(head, [])):
                found[head], grew = better, True
    return found


def unlearning_sets(target, found):
    """The minimal sets of facts to forget so that `target` follows from the rest no more; `found` from `supports`."""
    return (
        minimal([frozenset(picked) for picked in product(*found.get(target, []))])
        if found.get(target)
        else []
    )


def recall_accuracy(sets, failed, stated):
    """(recall, accuracy, the set S*) of the paper: recall is max over S of |U & S| / |S|, accuracy 1 - |U - S*| / (N - |S*|).

    U (`failed`) are the stated facts that the model fails on, N = len(stated); of sets with equal recall the one that leaves
    the highest accuracy counts.
    """
    best = None
    for s in sets:
        rest = len(stated) - len(s)
        recall, accuracy = len(failed & s) / len(s), 1 - len(failed - s) / rest if rest else 1.0
        if best is None or (recall, accuracy) > best[:2]:
            best = recall, accuracy, s
    return best or (None, None, frozenset())
