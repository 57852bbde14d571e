"""Forget and retain sets that overlap by a chosen share, at sizes that are the same at every share.

Two definitions of "overlap X %", after the two that the literature mixes up (same people, or same kind of answers):

- `entities` (every source): both sets are about N entities (TOFU: authors, MUSE: documents, mini: names), and X % of them
  are the same ones. No *item* is in both sets: a shared entity gives half of its items to the forget set and the other half to
  the retain set, so that a model which forgets the one and keeps the other exists. Entities that are not shared give half
  of their items too, so both sets have one size at every X. In the mini world a shared name is an organism (forget) and a
  town (retain), with the facts that each has anyway.
- `values` (mini only): X % of each forget attribute's pool of twelve values are values of the retain attribute of the same
  number. At 100 % the two sets have the same answers in the same sentences; only names and attributes differ.

Shared entities and values of a lower share are a subset of those of a higher one (nested levels), so that a curve over X
compares like with like. `measured` says what the texts share in fact: a nominal share is a cause, not a measurement.
"""

import re

from brittle.base.errors import UserError
from brittle.data.world import Draws

KINDS = ("entities", "values", "both")


def check(share, kind, kinds=KINDS):
    if kind not in kinds:
        raise UserError(f"--overlap-of {kind}: choose {', '.join(kinds)}. Only the mini world can share values.")
    if share is not None and not 0 <= share <= 100:
        raise UserError(f"--overlap {share}: a share between 0 and 100 %.")


def shared_count(share, count, what="entities"):
    """How many of `count` are `share` %, rounded half up; says so where that is another share than was asked."""
    shared = int(share * count / 100 + 0.5)
    if share * count % 100:
        print(f"note: --overlap {share:g} of {count} {what} is {shared} of them, {100 * shared / count:.1f} %.")
    return shared


def mix(forget, retain, share, seed=0, what="entities"):
    """(forget items, retain items, about) at `share` %; forget and retain are lists of groups, one an entity, of its items.

    Both use N = min(len(forget), len(retain)) entities in seeded orders. An entity's items of even number may go to the
    forget set, those of odd number to the retain set.
    """
    draws = Draws(f"overlap {seed}")
    forget, retain = ([g for g in draws.shuffled(groups) if len(g) > 1] for groups in (forget, retain))
    count = min(len(forget), len(retain))
    if count < 2:
        raise UserError(
            f"--overlap needs two {what} of at least two items in each set; there are {len(forget)} and {len(retain)}."
        )
    shared = shared_count(share, count, what)
    own = forget[:count]
    kept = [*own[:shared], *retain[: count - shared]]
    items = [i for g in own for i in g[0::2]], [i for g in kept for i in g[1::2]]
    return *items, {"overlap": share, "of": "entities", "shared": shared, "entities": count, "what": what}


def words(texts):
    return {w for text in texts for w in re.findall(r"\w+", text.lower())}


def measured(forget, retain, forget_answers=(), retain_answers=()):
    """What two lists of texts share: the share of the forget set's different texts, words and answers that retain has too."""
    pairs = {
        "texts": (set(forget), set(retain)),
        "words": (words(forget), words(retain)),
        "answers": (set(forget_answers), set(retain_answers)),
    }
    return {name: round(len(f & r) / len(f), 4) for name, (f, r) in pairs.items() if f}
