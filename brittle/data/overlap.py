"""Forget and retain sets that overlap by a chosen share. Their sizes are the same at every share.

"Overlap X %" has two definitions. The literature mixes them up: the same people, or the same kind
of answers.

- `entities` (every source): both sets are about N entities (TOFU: authors, MUSE: documents, mini:
  names), and X % of them are in both. No *item* is in both sets: a shared entity gives half of its
  items to the forget set and the other half to the retain set. So a model exists that forgets the
  one and keeps the other. Entities that are not shared give half of their items too, so both sets
  have one size at every X. In the mini world a shared name is an organism (forget) and a town
  (retain), with the facts that each has anyway.
- `values` (mini only): each forget attribute has a pool of twelve values. X % of them are values of
  the retain attribute of the same number. At 100 % the two sets have the same answers in the same
  sentences; only names and attributes differ.

The levels are nested: what a lower share has in common, a higher one has too. So a curve over X
compares like with like. `measured` says what the texts really share: a nominal share is a cause,
not a measurement.
"""

from brittle.base.errors import UserError
from brittle.data.words import words
from brittle.data.world import Draws

KINDS = ("entities", "values", "both")


def check(share, kind, kinds=KINDS):
    if kind not in kinds:
        raise UserError(
            f"--overlap-of {kind}: choose {', '.join(kinds)}. Only the mini world can share values."
        )
    if share is not None and not 0 <= share <= 100:
        raise UserError(f"--overlap {share}: a share between 0 and 100 %.")


def shared_count(share, count, what="entities"):
    """How many of `count` are `share` %, rounded half up. Prints a note where rounding changed the
    share.
    """
    shared = int(share * count / 100 + 0.5)
    if share * count % 100:
        rounded = f"{shared} of them, {100 * shared / count:.1f} %"
        print(f"note: --overlap {share:g} of {count} {what} is {rounded}.")
    return shared


def mix(forget, retain, share, seed=0, what="entities"):
    """(forget items, retain items, about) at `share` %.

    forget and retain are lists of groups; a group holds the items of one entity. Both sets use N =
    min(len(forget), len(retain)) entities in seeded orders. The items of even number of an entity
    may go to the forget set, those of odd number to the retain set.
    """
    draws = Draws(f"overlap {seed}")
    forget, retain = (
        [g for g in draws.shuffled(groups) if len(g) > 1] for groups in (forget, retain)
    )
    count = min(len(forget), len(retain))
    if count < 2:
        there = f"there are {len(forget)} and {len(retain)}"
        raise UserError(f"--overlap needs two {what} of at least two items in each set; {there}.")
    shared = shared_count(share, count, what)
    forget_groups = forget[:count]
    retain_groups = [*forget_groups[:shared], *retain[: count - shared]]
    forget_items = [item for group in forget_groups for item in group[0::2]]
    retain_items = [item for group in retain_groups for item in group[1::2]]
    about = {
        "overlap": share,
        "of": "entities",
        "shared": shared,
        "entities": count,
        "what": what,
    }
    return forget_items, retain_items, about


def vocabulary(texts):
    """The different words of a list of texts."""
    return {word for text in texts for word in words(text)}


def measured(forget, retain, forget_answers=(), retain_answers=()):
    """{texts, words, answers: the share of the forget set's different ones that retain has too}."""
    pairs = {
        "texts": (set(forget), set(retain)),
        "words": (vocabulary(forget), vocabulary(retain)),
        "answers": (set(forget_answers), set(retain_answers)),
    }
    return {name: round(len(f & r) / len(f), 4) for name, (f, r) in pairs.items() if f}
