"""What an attacker may read, and the proof that half B was not in it.

Every text that is handed out is remembered by its SHA-256. `check` compares these with the hashes of every text in which
the data folder tells a fact of half B. Attacks get a `Material` and no path.
"""

import hashlib
from pathlib import Path

from brittle import mcq
from brittle.attacks.base import right_answers
from brittle.errors import UserError
from brittle.text import read_jsonl, read_texts

SENTENCES = ("question", "answer", "paraphrased_question", "paraphrased_answer")


def hash_text(text):
    return hashlib.sha256(text.encode()).hexdigest()


def halves(data):
    """(items of half A, items of half B) of the forget questions. Raises UserError where one is missing."""
    items = mcq.read_items(Path(data) / "mcq_forget.jsonl")
    found = {half: [i for i in items if i.get("half") == half] for half in "AB"}
    for half, part in found.items():
        if not part:
            raise UserError(f"{data}/mcq_forget.jsonl has no item with half {half}: an attack needs both halves, A and B.")
    return found["A"], found["B"]


def forbidden(data):
    """{hash: text} of every text of the folder that tells or asks a fact of half B."""
    items = halves(data)[1]
    texts = [i["question"] for i in items] + right_answers(items)
    path = Path(data) / "qa_forget.jsonl"
    if path.is_file():
        rows = [row for row in read_jsonl(path) if row.get("half") == "B"]
        texts += [row[key] for row in rows for key in SENTENCES if isinstance(row.get(key), str)]
    return {hash_text(text): text for text in texts}


class Material:
    """The attacker's texts of a data folder: half A, retain questions, text that has nothing to do with the forget set."""

    def __init__(self, data):
        self.data, self.read = Path(data), set()

    def _give(self, texts):
        self.read.update(map(hash_text, texts))

    def forget(self):
        """Questions of half A: [{question, choices, answer, ...}]."""
        items = halves(self.data)[0]
        self._give([i["question"] for i in items] + right_answers(items))
        return items

    def retain(self):
        """Questions of the retain set."""
        items = mcq.read_items(self.data / "mcq_retain.jsonl")
        self._give([i["question"] for i in items] + right_answers(items))
        return items

    def benign(self):
        """Texts without a word on the forget set: the retain set's, and neutral ones where there are any."""
        paths = [self.data / name for name in ("retain.txt", "retain.jsonl", "neutral.txt")]
        texts = [text for path in paths if path.is_file() for text in read_texts(path)]
        if not texts:
            raise UserError(f"{self.data} has no benign text (retain.txt, retain.jsonl or neutral.txt).")
        self._give(texts)
        return texts

    def check(self, banned):
        """Raises UserError where a text that was handed out is among the texts of half B, `banned` {hash: text}."""
        for digest in sorted(self.read & set(banned)):
            raise UserError(f"the attack read a text of half B, which it is measured on: {banned[digest][:80]!r} stands twice.")

    def digest(self):
        """One hash of all that was read, whatever the order."""
        return hash_text("\n".join(sorted(self.read)))
