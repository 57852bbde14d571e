"""How well an attacked model answers, and which of an attack's variants counts.

Half A, which the attacker has, chooses among an attack's variants; half B, which it never saw, is
what is reported. `choose` is the only place that chooses:

- An attack that trains on half A trains on a part of its facts, A1, and is chosen by the lowest
  answer NLL on the others, A2 (`material.split_half_a`). What it was trained on cannot choose: an
  attack soon answers all of it, ties decide, and the lowest loss there is that of the variant that
  has learned it by heart and damages all else.
- Any other attack is chosen by the highest accuracy on half A, among equals the earlier variant.
"""

import math
from dataclasses import dataclass, field

from brittle.attacks.material import halves, split_half_a
from brittle.base.errors import UserError
from brittle.data.examples import DEFAULT, Reading
from brittle.data.items import groups_of, read_items, right_by_fact, subset
from brittle.maths.intervals import share
from brittle.metrics import mcq

JUDGE = "forget_a2"  # the split of A2: where it is measured, it chooses
# the split of questions of the forget kind that no model was shown, and their file
NEVER_SEEN, NEVER_SEEN_FILE = "never_seen", "mcq_holdout.jsonl"
FEWEST = 5  # questions of half B: with fewer an interval is all of [0, 1]
COLUMNS = ["variant", "split", "accuracy", "accuracy_low", "accuracy_high", "n", "answer_nll"]


def eval_sets(data, max_items=200, seed=0):
    """{split: items}: all of half B, at most `max_items` of half A.

    So many also of the retain and of the never-seen questions, where the folder has some.
    """
    a, b = halves(data)
    if len(b) < FEWEST:
        raise UserError(
            f"{data}/mcq_forget.jsonl has {len(b)} questions of half B: at least {FEWEST}, "
            "or nothing can be told."
        )
    sets = {"forget_a": subset(a, max_items, seed), "forget_b": b}
    for split, name in (("retain", "mcq_retain.jsonl"), (NEVER_SEEN, NEVER_SEEN_FILE)):
        if (data / name).is_file():
            sets[split] = subset(read_items(data / name), max_items, seed)
    return sets


def judging_set(data, seed=0):
    """{JUDGE: items}: A2, the part of half A that an attack with this seed does not train on."""
    return {JUDGE: split_half_a(halves(data)[0], seed)[1]}


def sets_of(attack, data, max_items):
    """{split: items} that an attack is measured on: A2 first where it trains on half A."""
    judging = judging_set(data, attack.seed) if attack.HOLDS_OUT else {}
    return judging | eval_sets(data, max_items, attack.seed)


def judge_of(splits):
    """The split that chooses among an attack's variants."""
    return JUDGE if JUDGE in splits else "forget_a"


def merit(row):
    """What `choose` maximises, of a variant's row for the split that chooses."""
    return -row["answer_nll"] if row["split"] == JUDGE else row["accuracy"]


@dataclass
class Meter:
    """`measure` of one attack on one model: asks it every split, and keeps what it answered.

    sets        {split: items}, the one that chooses (`judge_of`) first
    everything  is every variant asked every split? If not, the others are asked only of a variant
                that the split which chooses prefers to those before: no other can be chosen
    reading     whether a chat model is asked through its template
    rows        a row a variant and split: COLUMNS, and the attack's own columns
    rights      {variant: {split: [1 where the item was answered rightly, else 0]}}
    notes       what went wrong, as text
    best        `merit` of the best variant so far that answered every split
    """

    model: object
    tokenizer: object
    sets: dict
    batch_size: int = 256
    everything: bool = False
    reading: Reading = DEFAULT
    rows: list = field(default_factory=list)
    rights: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    best: float = -math.inf

    def __call__(self, variant, prompt=None, model=None, **columns):
        """Ask the model, or `model` in its place (anything that answers model(**batch).logits).

        Returns the variant's `merit`, None where it broke.
        """
        rows, rights, reached = [], {}, -math.inf
        judge = judge_of(self.sets)
        try:
            for split, items in self.sets.items():
                outcomes = mcq.outcomes(
                    model or self.model,
                    self.tokenizer,
                    items,
                    prompt,
                    self.batch_size,
                    reading=self.reading,
                )
                row = measure_split(split, items, outcomes)
                rows.append({"variant": variant, **row, **columns})
                rights[split] = [outcome.right for outcome in outcomes]
                if split == judge:
                    reached = merit(row)
                    if not self.everything and reached <= self.best:
                        break
        except UserError as error:
            self.broken(variant, error, **columns)
            return None
        # only now: a variant that breaks on half B cannot be chosen
        self.best = max(self.best, reached)
        self.rows += rows
        self.rights[variant] = rights
        return reached

    def broken(self, variant, error, **columns):
        """A variant without a measurement: empty cells, never chance."""
        self.notes.append(f"{variant}: {error}")
        for split, items in self.sets.items():
            blank = dict.fromkeys(COLUMNS) | {"variant": variant, "split": split, "n": len(items)}
            self.rows.append(blank | columns)

    def facts(self, variant):
        """{fact: (right, asked)} of half B under a variant; empty where it was not asked."""
        rights = self.rights.get(variant, {}).get("forget_b", [])
        return right_by_fact(self.sets["forget_b"], rights) if rights else {}


def measure_split(split, items, outcomes):
    """A row of COLUMNS, but for the variant, of what a model answered to the items of a split."""
    rights = [outcome.right for outcome in outcomes]
    accuracy, low, high = share(rights, groups_of(items))
    return {
        "split": split,
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "n": len(rights),
        "answer_nll": sum(outcome.answer_nll for outcome in outcomes) / len(outcomes),
    }


def choose(rows):
    """The variant that counts; None where all are broken. Half B is not read.

    Where A2 was asked it has the lowest answer NLL there, else the highest accuracy on half A;
    among equals it is the first.
    """
    judge = judge_of({row["split"] for row in rows})
    known = [row for row in rows if row["split"] == judge and row["accuracy"] is not None]
    return max(known, key=merit)["variant"] if known else None


def outcome(rows):
    """What an attack brought back, in words: half B as made, and at the variant that counts.

    rows: of one attack, the model as made among the first.
    """
    known = [row for row in rows if row["split"] == "forget_b" and row["accuracy"] is not None]
    counts = choose(rows)
    at = [row for row in known if row["variant"] == counts]
    if not at:
        return "every variant broke the model"
    return (
        f"half B {known[0]['accuracy']:.2f} with {known[0]['variant']}, {at[0]['accuracy']:.2f} "
        f"with {counts}, which half A chooses (of {len({row['variant'] for row in rows})})"
    )


def attack_model(attack, meter, material, banned):
    """Run one attack on the meter's model.

    Raises UserError where the attack has read a text of half B (`banned`, see `forbidden`), or
    where its settings do not go together.
    """
    attack.check()
    attack.run(meter.model, meter.tokenizer, material, meter)
    material.check(banned)
