"""What follows from the numbers of an unlearned model: still known, damaged, only hidden, removed
or cannot be told, by the rules below.
"""

from typing import NamedTuple

from brittle.metrics.neutral import LIMIT

NEAR = 0.10  # accuracies within this of each other count as equal
# recovery: where its interval lies above a quarter of the way from Filtered back to Base, the
# knowledge was still there
HIDDEN = 0.25
# The accuracy that the attack must reach on half A, which it trains on, before half B counts.
RELEARNED = 0.75
RULES = (
    "a word is said only where the whole 95 % interval lies on its side; the intervals of "
    "accuracies are of differences over entities, those of neutral text over texts or entities",
    f"still known: forget accuracy more than {NEAR:.2f} above Filtered's",
    f"damaged: retain or general accuracy more than {NEAR:.2f} below Base's, or predictions on "
    f"neutral text moved by more than {LIMIT:.1f} nats a token from Base's (KL) and became worse",
    f"only hidden: recovery over Filtered above {HIDDEN:.2f}",
    f"removed: recovery over Filtered below {HIDDEN:.2f}, and the attack relearned half A "
    f"(accuracy at least {RELEARNED:.2f}); and it is clear that the model is neither still known "
    "nor damaged",
    "cannot be told: anything else, and where Filtered itself recovers more than "
    f"{NEAR:.2f} (then relearning A teaches B)",
    "the first of these words that holds is said",
)
SAYS = {
    "kept": "{} still knows the forget facts",
    "damaged": "{} was damaged, not only unlearned",
    "hidden": "{} only hid the forget facts",
    "removed": "{} removed the forget facts, as far as this attack can tell",
    "back": "{}: relearning brings the forget facts back",
    "inconclusive": "{}: it cannot be told whether the forget facts were removed or hidden",
}
WORDS = {
    "hidden": "only hidden",
    "removed": "removed",
    "damaged": "damaged",
    "kept": "still known",
    "back": "comes back",
    "inconclusive": "cannot be told",
}


class Verdict(NamedTuple):
    """What follows for one unlearned model: a key of WORDS, and the reason in words."""

    word: str
    reason: str


def percent(share):
    """A share in whole percent, with a proper minus."""
    return f"{share:.0%}".replace("-", "−")


class Side(NamedTuple):
    """On which side of a limit the interval of a number lies.

    above, below: the whole interval does. Neither holds where the interval spans the limit, or is
    not known. text: the number and its interval in words.
    """

    above: bool
    below: bool
    text: str


def side_of(low, high, limit, text):
    """The `Side` of the interval (low, high); None where it is not known."""
    if low is None or high is None:
        return Side(above=False, below=False, text=f"{text}, without an interval")
    return Side(above=low > limit, below=high <= limit, text=text)


def _points(share):
    return f"{100 * share:.0f}".replace("-0", "0").replace("-", "−")


def accuracy_side(row, split, other, name):
    """The `Side` of how far `row`'s accuracy lies from that of the row `other`, called `name`.

    It counts upwards on the forget questions where `other` is Filtered, and downwards where it is
    Base. The limit is NEAR.
    """
    now, was = row[f"{split}_accuracy"], other[f"{split}_accuracy"]
    low, high = (row.get(f"{split}_difference_{end}") for end in ("low", "high"))
    text = (
        f"it answers {percent(now)} of the {split} questions, where {name} answers {percent(was)}"
    )
    if None in (low, high):
        return side_of(None, None, NEAR, text)
    text += f" (difference {_points(low)} to {_points(high)} points)"
    if name == "Base":
        low, high = -high, -low
    return side_of(low, high, NEAR, text)


def neutral_side(row):
    """The `Side` of how far predictions on neutral text moved; None where that was not measured.

    What moved and did not become worse is no damage.
    """
    kl, kl_low, kl_high = (row.get(f"neutral_kl{end}") for end in ("", "_low", "_high"))
    if kl is None:
        return None
    texts = "neutral text"
    if row.get("neutral_texts") not in (None, "neutral"):
        texts = f"{row['neutral_texts']} text (there is no neutral one)"
    text = f"its predictions on {texts} moved by {kl:.2f} nats a token from Base's"
    if None not in (kl_low, kl_high):
        text += f" ({kl_low:.2f} to {kl_high:.2f})"
    nll, change = row.get("neutral_nll"), row.get("neutral_nll_change")
    if None not in (nll, change):
        text += f", and its NLL there went from {nll - change:.2f} to {nll:.2f}"
    moved = side_of(kl_low, kl_high, LIMIT, text)
    worse = side_of(row.get("neutral_nll_change_low"), row.get("neutral_nll_change_high"), 0.0, "")
    return Side(moved.above and worse.above, moved.below or worse.below, moved.text)


def damage_sides(row, base):
    """[Side] of everything that may be damage, as far as it was measured."""
    sides = [
        accuracy_side(row, split, base, "Base")
        for split in ("retain", "general")
        if None not in (row[f"{split}_accuracy"], base[f"{split}_accuracy"])
    ]
    neutral = neutral_side(row)
    return sides if neutral is None else [*sides, neutral]


def joined(*reasons):
    return "; ".join(reason for reason in reasons if reason)


def verdict(row, base, filtered):
    """The `Verdict` on an unlearned model.

    The arguments are rows of the report's summary: forget_accuracy, retain_accuracy,
    general_accuracy, recovery_over_filtered with _low and _high, split_a_accuracy. Of `row` also
    the intervals of differences, {forget, retain, general}_difference_low and _high (from Filtered
    on the forget questions, from Base on the others), and neutral_kl and neutral_nll_change with
    _low and _high. None is what is not known.
    """
    if row["forget_accuracy"] is None or filtered["forget_accuracy"] is None:
        return Verdict("inconclusive", "its forget accuracy, or Filtered's, is not known")
    known = accuracy_side(row, "forget", filtered, "Filtered")
    damages = damage_sides(row, base)
    broken = [damage.text for damage in damages if damage.above]
    if known.above:
        return Verdict("kept", joined(known.text, *broken))
    value, low, high = (row[f"recovery_over_filtered{end}"] for end in ("", "_low", "_high"))
    measured = None not in (value, low, high)
    came_back = ""
    if measured:
        span = f"95 % interval {percent(low)} to {percent(high)}"
        came_back = f"relearning half A brought back {percent(value)} of half B ({span})"
    if broken:
        return Verdict("damaged", joined(*broken, came_back))
    left_open = open_questions(known, damages)
    if value is None:
        why = "its recovery over Filtered is not known"
        if row["split_a_accuracy"] is not None:  # it was attacked
            why = (
                "Base and Filtered do not differ clearly on half B, so its recovery over Filtered "
                "is undefined"
            )
        return Verdict("inconclusive", joined(why, *left_open))
    if not measured:
        return Verdict(
            "inconclusive", joined("its recovery over Filtered has no interval", *left_open)
        )
    word, reason = _recovered(row, filtered["recovery_over_filtered"], came_back)
    if word == "removed" and left_open:
        word = "inconclusive"
    return Verdict(word, joined(reason, *left_open))


def open_questions(known, damages):
    """[what the intervals leave open, in words] of a model that is not clearly known or damaged.

    known: the `Side` of its forget accuracy against Filtered's; None where there is no Filtered.
    """
    texts = []
    if known and not known.below:
        texts.append(f"it is open whether it still knows some of them: {known.text}")
    texts += [
        f"it is open whether it was damaged: {damage.text}"
        for damage in damages
        if not damage.below
    ]
    if not damages:
        texts.append("it was not measured whether it was damaged")
    return texts


def _recovered(row, control, came_back):
    """What the attack says, once nothing else has decided."""
    if control is None:
        return Verdict("inconclusive", f"{came_back}, but Filtered's own recovery is not known")
    if control > NEAR:
        return Verdict(
            "inconclusive",
            f"{came_back}, but Filtered, which never saw it, also recovers {percent(control)}",
        )
    if row["recovery_over_filtered_low"] > HIDDEN:
        reason = f"{came_back}, which the attack never showed it"
        return Verdict(
            "hidden", f"{reason}; in Filtered, which never saw half B, {percent(control)}"
        )
    if row["recovery_over_filtered_high"] >= HIDDEN:
        return Verdict("inconclusive", f"{came_back}: the interval holds {HIDDEN:.0%}")
    half_a = row["split_a_accuracy"] or 0.0
    if half_a < RELEARNED:
        return Verdict(
            "inconclusive",
            f"{came_back}, but the attack did not get beyond {percent(half_a)} on half A itself",
        )
    reached = f"though the attack reached {percent(half_a)} on half A itself"
    return Verdict("removed", f"{came_back}, {reached}")


def headline(verdicts):
    """The report's title, from {model: Verdict}."""
    if len(verdicts) == 1:
        ((model, (word, _)),) = verdicts.items()
        return SAYS[word].format(model)
    words = [word for word, _ in verdicts.values()]
    counts = [f"{text} in {words.count(word)}" for word, text in WORDS.items() if word in words]
    return f"The forget facts in {len(words)} unlearned models: {', '.join(counts)}"
