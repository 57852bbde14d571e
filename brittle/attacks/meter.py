"""How well an attacked model answers: the sets asked, one attack on one model, and which of its variants counts.

Half A, which the attacker has, chooses among an attack's variants; half B, which it never saw, is what is reported. The
variant that counts has the highest accuracy on half A, among equals the earlier one: of a rate's steps the first that answers
as much. (Not the one with the lowest loss on half A: there the attack has learned A by heart, and B suffers from it.)
"""

from dataclasses import dataclass, field

from brittle.attacks.material import halves
from brittle.base.errors import UserError
from brittle.data.items import read_items, subset
from brittle.maths import intervals
from brittle.metrics import mcq

FEWEST = 5  # questions of half B: with fewer an interval is all of [0, 1]
COLUMNS = ["variant", "split", "accuracy", "accuracy_low", "accuracy_high", "n", "answer_nll"]


def eval_sets(data, max_items=200, seed=0):
    """{split: items}: all of half B, at most `max_items` of half A and of retain."""
    a, b = halves(data)
    if len(b) < FEWEST:
        raise UserError(
            f"{data}/mcq_forget.jsonl has {len(b)} questions of half B: at least {FEWEST}, or nothing can be told."
        )
    retain = read_items(data / "mcq_retain.jsonl")
    return {
        "forget_a": subset(a, max_items, seed),
        "forget_b": b,
        "retain": subset(retain, max_items, seed),
    }


def interval(right, facts):
    """Wilson's interval of the mean of `right` [0 or 1], with the facts as its sample: the questions of one fact go together."""
    count = len(set(facts))
    return intervals.wilson(sum(right) / len(right) * count, count)


@dataclass
class Meter:
    """`measure` of one attack on one model. rows: COLUMNS and the attack's own; facts: {variant: {fact: [right, asked]}}.

    Unless `everything` is wanted, half B and retain are asked only of a variant that answers more of half A than those before:
    the others cannot be chosen. `best` is the accuracy on half A of the best variant so far that answered every split.
    """

    model: object
    tokenizer: object
    sets: dict
    batch_size: int = 256
    everything: bool = False
    rows: list = field(default_factory=list)
    facts: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    best: float = -1.0

    def __call__(self, variant, prompt=None, model=None, **columns):
        """Ask the model, or `model` in its place (anything that answers model(**batch).logits)."""
        model, made, facts, half_a = model or self.model, [], {}, 0.0
        for split, items in self.sets.items():
            try:
                outcomes = mcq.outcomes(model, self.tokenizer, items, prompt, self.batch_size)
            except UserError as error:
                return self.broken(variant, error, **columns)
            right = [outcome.right for outcome in outcomes]
            nlls = [outcome.answer_nll for outcome in outcomes]
            names = [item.get("fact", item["question"]) for item in items]
            share, (low, high) = sum(right) / len(right), interval(right, names)
            values = (variant, split, share, low, high, len(right), sum(nlls) / len(nlls))
            made.append(dict(zip(COLUMNS, values, strict=True)) | columns)
            if split == "forget_b":
                for name, one in zip(names, right, strict=True):
                    had = facts.get(name, [0, 0])
                    facts[name] = [had[0] + one, had[1] + 1]
            elif split == "forget_a":
                half_a = share
                if not self.everything and share <= self.best:
                    break
        self.best = max(
            self.best, half_a
        )  # only now: a variant that breaks on half B cannot be chosen
        self.rows += made
        self.facts[variant] = facts
        return None

    def broken(self, variant, error, **columns):
        """A variant without a measurement: empty cells, never chance."""
        self.notes.append(f"{variant}: {error}")
        for split, items in self.sets.items():
            values = (variant, split, None, None, None, len(items), None)
            self.rows.append({**dict(zip(COLUMNS, values, strict=True)), **columns})


def choose(rows):
    """The first variant with the highest accuracy on half A; None where all are broken. B is not read."""
    known = [row for row in rows if row["split"] == "forget_a" and row["accuracy"] is not None]
    return max(known, key=lambda row: row["accuracy"])["variant"] if known else None


def attack_model(
    attack, model, tokenizer, material, sets, banned, batch_size=256, everything=False
):
    """The `Meter` of one attack, run. Raises UserError where the attack has read half B, or its settings are none."""
    attack.check()
    meter = Meter(model, tokenizer, sets, batch_size, everything)
    attack.run(model, tokenizer, material, meter)
    material.check(banned)
    return meter
