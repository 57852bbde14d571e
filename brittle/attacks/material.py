"""What an attacker may read, and the proof that half B was not in it.

Every text that is handed out is remembered by its SHA-256. `check` compares these with the hashes
of every text in which the data folder asks or tells a fact of half B (`forbidden`). Attacks get a
`Material` and no path.
"""

import hashlib
import random
import re
from pathlib import Path

from brittle.attacks.base import right_answers
from brittle.base.errors import UserError
from brittle.data.items import entity_of, fact_of, read_items, read_text_rows
from brittle.data.rows import plain
from brittle.data.subjects import with_halves
from brittle.data.texts import read_jsonl, read_texts
from brittle.data.tokens import join

QUESTIONS = ("question", "paraphrased_question")
ANSWERS = ("answer", "paraphrased_answer", "short_answer")
JUDGING = 0.2  # share of half A's facts that choose among an attack's variants (A2)
# training texts with the forget facts, which no attack reads
TELLING = ("forget.txt", "forget.jsonl", "pretrain_base.txt")


def hash_text(text):
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def halves(data):
    """(items of half A, items of half B) of the forget questions.

    Where no question names its half, `with_halves` draws them. Raises UserError where a half is
    missing.
    """
    items = with_halves(read_items(Path(data) / "mcq_forget.jsonl"))
    by_half = {half: [item for item in items if item.get("half") == half] for half in "AB"}
    for half, members in by_half.items():
        if not members:
            raise UserError(
                f"{data}/mcq_forget.jsonl has no item with half {half}: "
                "an attack needs both halves, A and B."
            )
    return by_half["A"], by_half["B"]


def split_half_a(items, seed):
    """(A1, A2) of half A's items: what an attack trains on, and what chooses among its variants.

    A2 holds JUDGING of the facts, drawn by `seed`, each with all its questions. Raises UserError
    where half A has fewer than two facts.
    """
    names = sorted({fact_of(item) for item in items})
    if len(names) < 2:
        raise UserError(
            "half A of the forget facts has only one fact: an attack needs two, "
            "one to train on and one to choose its learning rate and step by."
        )
    count = max(1, round(JUDGING * len(names)))
    judging = set(random.Random(f"half A {seed}").sample(names, count))
    train = [item for item in items if fact_of(item) not in judging]
    return train, [item for item in items if fact_of(item) in judging]


def rows_of_half_b(rows, half_a, half_b):
    """The question-and-answer rows that are of half B: by their own `half`, where one names it.

    Otherwise a row goes with the question that it asks, or else with its entity. One that goes with
    neither half may tell a fact of half B, and is counted there.
    """
    if any(row.get("half") for row in rows):
        return [row for row in rows if row.get("half") == "B"]

    def names(row):
        asked = str(row.get("question", "")).strip()
        return {asked.removeprefix("Question:").removesuffix("Answer:").strip(), entity_of(row)}

    owned, held_out = ({name for item in half for name in names(item)} for half in (half_a, half_b))
    only_a = owned - held_out - {None, ""}
    return [row for row in rows if not names(row) & only_a]


def asked_and_told(rows):
    """Yield the texts of question-and-answer rows.

    These are every question, every answer that is a sentence, and each question with each answer.
    """
    for row in rows:
        questions = [row[key] for key in QUESTIONS if isinstance(row.get(key), str)]
        answers = [row[key] for key in ANSWERS if isinstance(row.get(key), str)]
        yield from questions
        yield from (answer for answer in answers if answer != row.get("short_answer"))
        for question in questions:
            for answer in answers:
                yield join(question, answer)
                yield join(f"Question: {question.strip()} Answer:", answer)


def telling(rows, texts):
    """The texts in which the subject and the answer of one of the rows stand together.

    The subject is the row's `entity`, the answer its `short_answer`; both count as whole words.
    """
    answers = {}
    for row in rows:
        if isinstance(row.get("entity"), str) and isinstance(row.get("short_answer"), str):
            answers.setdefault(row["entity"], set()).add(row["short_answer"])
    if not answers:
        return []

    def whole(words):
        longest_first = sorted(words, key=len, reverse=True)
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")

    subject = whole(answers)
    values = {name: whole(words) for name, words in answers.items()}
    return [
        text
        for text in texts
        if any(values[name].search(text) for name in set(subject.findall(text)))
    ]


def forbidden(data):
    """{hash: text} of every text of the folder that tells or asks a fact of half B.

    - half B's multiple-choice questions, alone and with the right answer
    - its rows of qa_forget.jsonl (`asked_and_told`)
    - where these rows name subject and short answer, every text of TELLING that holds both. The
      questions and answers of half A are left out: the attacker owns them, and there the two may
      meet by chance.
    """
    data = Path(data)
    half_a, half_b = halves(data)
    texts = [item["question"] for item in half_b] + right_answers(half_b)
    path = data / "qa_forget.jsonl"
    if path.is_file():
        rows = rows_of_half_b(read_jsonl(path), half_a, half_b)
        files = [data / name for name in TELLING if (data / name).is_file()]
        lines = [text for file in files for text in read_texts(file)]
        owned = {item["question"] for item in half_a} | set(right_answers(half_a))
        # where halves were drawn over questions, two that ask one fact may lie in both
        own_halves = any(row.get("half") for row in rows)
        texts += [text for text in asked_and_told(rows) if own_halves or text not in owned]
        texts += [text for text in telling(rows, lines) if text not in owned]
    return {hash_text(text): text for text in texts}


class Material:
    """The attacker's texts of a data folder, and the hashes of those that were handed out.

    They are half A, the retain questions, and texts that have nothing to do with the forget set.
    seed: the attack's, which draws the part of half A that it does not train on (`split_half_a`).
    """

    def __init__(self, data, seed=0):
        self.data, self.read = Path(data), set()
        self.seed = seed

    def _give(self, texts):
        self.read.update(map(hash_text, texts))

    def forget(self):
        """Questions of half A: [{question, choices, answer, ...}]."""
        items = halves(self.data)[0]
        self._give([i["question"] for i in items] + right_answers(items))
        return items

    def forget_to_train(self):
        """Questions of A1: half A without the facts that choose among the attack's variants."""
        items = split_half_a(halves(self.data)[0], self.seed)[0]
        self._give([i["question"] for i in items] + right_answers(items))
        return items

    def half_b(self):
        """Questions of half B, for a measurement that is no attack (brittle/attacks/price.py)."""
        items = halves(self.data)[1]
        self._give([i["question"] for i in items] + right_answers(items))
        return items

    def retain(self):
        """Questions of the retain set."""
        items = read_items(self.data / "mcq_retain.jsonl")
        self._give([i["question"] for i in items] + right_answers(items))
        return items

    def benign(self):
        """Rows without a word on the forget set: the retain set's, and neutral ones if any."""
        paths = [self.data / name for name in ("retain.txt", "retain.jsonl", "neutral.txt")]
        rows = [row for path in paths if path.is_file() for row in read_text_rows(path)]
        if not rows:
            raise UserError(
                f"{self.data} has no benign text (retain.txt, retain.jsonl or neutral.txt)."
            )
        self._give(map(plain, rows))
        return rows

    def check(self, banned):
        """Raises UserError where a text that was handed out is among `banned` {hash: text}."""
        for digest in sorted(self.read & set(banned)):
            raise UserError(
                "the attack read a text of half B, which it is measured on: "
                f"{banned[digest][:80]!r} stands twice."
            )

    def digest(self):
        """One hash of all that was read, whatever the order."""
        return hash_text("\n".join(sorted(self.read)))
