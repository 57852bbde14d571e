"""What an attacker may read, and the proof that half B was not in it.

Every text that is handed out is remembered by its SHA-256. `check` compares these with the hashes of every text in which
the data folder asks or tells a fact of half B (`forbidden`). Attacks get a `Material` and no path.
"""

import hashlib
import re
from pathlib import Path

from brittle.attacks.base import right_answers
from brittle.base.errors import UserError
from brittle.data.items import read_items
from brittle.data.texts import read_jsonl, read_texts

QUESTIONS, ANSWERS = (
    ("question", "paraphrased_question"),
    ("answer", "paraphrased_answer", "short_answer"),
)
TELLING = (
    "forget.txt",
    "forget.jsonl",
    "pretrain_base.txt",
)  # training texts with the forget facts, which no attack reads


def hash_text(text):
    return hashlib.sha256(text.encode()).hexdigest()


def halves(data):
    """(items of half A, items of half B) of the forget questions. Raises UserError where one is missing."""
    items = read_items(Path(data) / "mcq_forget.jsonl")
    found = {half: [i for i in items if i.get("half") == half] for half in "AB"}
    for half, part in found.items():
        if not part:
            raise UserError(
                f"{data}/mcq_forget.jsonl has no item with half {half}: an attack needs both halves, A and B."
            )
    return found["A"], found["B"]


def asked_and_told(rows):
    """Texts of question-and-answer rows: every question, every answer that is a sentence, each question with each answer."""
    for row in rows:
        asked, told = (
            [row[key] for key in keys if isinstance(row.get(key), str)]
            for keys in (QUESTIONS, ANSWERS)
        )
        yield from asked
        yield from (answer for answer in told if answer != row.get("short_answer"))
        for question in asked:
            yield from (
                text
                for answer in told
                for text in (f"{question} {answer}", f"Question: {question} Answer: {answer}")
            )


def telling(rows, texts):
    """The texts that hold, as whole words, the subject (`entity`) and the `short_answer` of one of the rows together."""
    answers = {}
    for row in rows:
        if isinstance(row.get("entity"), str) and isinstance(row.get("short_answer"), str):
            answers.setdefault(row["entity"], set()).add(row["short_answer"])
    if not answers:
        return []

    def whole(words):
        return re.compile(
            rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})(?!\w)"
        )

    subject, values = whole(answers), {name: whole(words) for name, words in answers.items()}
    return [
        text
        for text in texts
        if any(values[name].search(text) for name in set(subject.findall(text)))
    ]


def forbidden(data):
    """{hash: text} of every text of the folder that tells or asks a fact of half B.

    These are half B's multiple-choice questions, alone and with the right answer; its rows of qa_forget.jsonl
    (`asked_and_told`); and, where these rows name subject and short answer, every text of TELLING that holds both together,
    but for the questions and answers of half A, in which they may meet by chance (the attacker owns them).
    """
    data, (mine, items) = Path(data), halves(data)
    texts, path = [i["question"] for i in items] + right_answers(items), data / "qa_forget.jsonl"
    if path.is_file():
        rows = [row for row in read_jsonl(path) if row.get("half") == "B"]
        lines = [
            text for name in TELLING if (data / name).is_file() for text in read_texts(data / name)
        ]
        own = {i["question"] for i in mine} | set(right_answers(mine))
        texts += [
            *asked_and_told(rows),
            *(text for text in telling(rows, lines) if text not in own),
        ]
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
        items = read_items(self.data / "mcq_retain.jsonl")
        self._give([i["question"] for i in items] + right_answers(items))
        return items

    def benign(self):
        """Texts without a word on the forget set: the retain set's, and neutral ones where there are any."""
        paths = [self.data / name for name in ("retain.txt", "retain.jsonl", "neutral.txt")]
        texts = [text for path in paths if path.is_file() for text in read_texts(path)]
        if not texts:
            raise UserError(
                f"{self.data} has no benign text (retain.txt, retain.jsonl or neutral.txt)."
            )
        self._give(texts)
        return texts

    def check(self, banned):
        """Raises UserError where a text that was handed out is among the texts of half B, `banned` {hash: text}."""
        for digest in sorted(self.read & set(banned)):
            raise UserError(
                f"the attack read a text of half B, which it is measured on: {banned[digest][:80]!r} stands twice."
            )

    def digest(self):
        """One hash of all that was read, whatever the order."""
        return hash_text("\n".join(sorted(self.read)))
