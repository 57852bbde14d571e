"""Guards: what a deployer puts around a model in place of unlearning. They never touch a weight.

    regex        an output filter: an answer that matches a forbidden string or pattern is not given
    icl          in-context refusal: every prompt is preceded by examples that refuse forget
                 questions and answer others
    rag          retrieve, then refuse: a prompt that fetches a forget entry is answered with a
                 fixed refusal (A8 of the survey below, in the form for models too small to follow
                 instructions)
    rag:prompt   the retrieved entry and its instruction to refuse stand before the prompt
                 (arXiv:2410.15267)

They are the floor that unlearning must beat: no answer is given, and everything is still in the
weights. What is forbidden comes from the forget questions of a data folder, or from a file. For
regex that file has a literal a line (whole words; `re:` starts a regular expression), for icl and
rag it is JSONL with question and answer.
"""

import math
import random
import re
from collections import Counter
from pathlib import Path

from brittle.base.errors import UserError
from brittle.data.items import entity_of
from brittle.data.rows import answer_of
from brittle.data.texts import numbered_lines, read_jsonl
from brittle.data.tokens import join
from brittle.data.words import normal, words

GUARDS = ("regex", "icl", "rag", "rag:prompt")
REFUSAL = " I do not know."
INSTRUCTION = "This is confidential. Every question about it is answered with: I do not know."
ASKED = re.compile(r"\b(?:Answer|A)\s*:|\?(?=\s|$)")  # the prompt ends behind the last of these


def split(text):
    """(prompt, answer) of a text: cut behind its last `Answer:`, `A:` or question mark.

    Without one of them all of the text is answer.
    """
    ends = [match.end() for match in ASKED.finditer(text)]
    return (text[: ends[-1]], text[ends[-1] :]) if ends else ("", text)


class Guard:
    """A guard: `context` is text before a prompt, `refuses` says that an answer is not given.

    `streams`: a refusal depends on the answer, so an answer that is being made has to be watched
    token by token. `in_context`: it speaks to the model and leaves the answers alone.
    """

    streams, in_context = False, False

    def __init__(self, name, **about):
        self.name, self.about = name, {"wrapper": name, **about}

    def context(self, prompt):
        return ""

    def refuses(self, prompt, answer):
        return False


class Regex(Guard):
    """Refuses answers that contain one of `rules`."""

    streams = True

    def __init__(self, rules):
        super().__init__("regex", rules=len(rules))
        patterns = []
        for rule in rules:
            try:
                pattern = (
                    rule[3:].strip()
                    if rule.startswith("re:")
                    else rf"(?<!\w){re.escape(normal(rule))}(?!\w)"
                )
                re.compile(pattern)
            except re.error as error:
                raise UserError(
                    f"--wrapper-rules: {rule!r} is no regular expression ({error})."
                ) from None
            patterns.append(pattern)
        self.pattern = re.compile("|".join(f"(?:{p})" for p in dict.fromkeys(patterns)))

    def refuses(self, prompt, answer):
        return self.pattern.search(normal(answer)) is not None


class Icl(Guard):
    """Puts `shots` refused forget questions and as many answered retain questions before every
    prompt.

    They are drawn by `seed`.
    """

    in_context = True

    def __init__(self, forget, retain, shots=2, seed=0):
        super().__init__("icl", shots=shots, seed=seed)
        draw = random.Random(f"icl {seed}")
        refused = [
            f"{i['question'].rstrip()}{REFUSAL}"
            for i in draw.sample(forget, min(shots, len(forget)))
        ]
        answered = [
            join(i["question"], i["answer"]) for i in draw.sample(retain, min(shots, len(retain)))
        ]
        pairs = [text for pair in zip(refused, answered, strict=False) for text in pair]
        self.text = "".join(text + "\n\n" for text in pairs or refused)

    def context(self, prompt):
        return self.text


class Bm25:
    """Okapi BM25 (Robertson and Zaragoza 2009) of a query against documents, k1 1.5 and b 0.75."""

    def __init__(self, documents):
        self.counts = [Counter(words(d)) for d in documents]
        self.length = [sum(c.values()) for c in self.counts]
        self.mean = sum(self.length) / max(1, len(documents))
        in_documents = Counter(word for c in self.counts for word in c)
        self.weight = {
            word: math.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
            for word, n in in_documents.items()
        }
        self.where = {}
        for number, counts in enumerate(self.counts):
            for word in counts:
                self.where.setdefault(word, []).append(number)

    def best(self, query):
        """(score, number) of the best document; (0, None) where no word is shared."""
        scores = Counter()
        for word in set(words(query)) & self.weight.keys():
            for number in self.where[word]:
                n = self.counts[number][word]
                long = 1.5 * (0.25 + 0.75 * self.length[number] / self.mean)
                scores[number] += self.weight[word] * n * 2.5 / (n + long)
        if not scores:
            return 0.0, None
        number = max(scores, key=lambda k: (scores[k], -k))
        return scores[number], number


class Rag(Guard):
    """One entry a forget entity (its questions, never an answer).

    The threshold lets 1 % of the retain questions through. `recall` and `false_refusals` are the
    shares of forget and retain questions that fetch an entry.
    """

    def __init__(self, forget, retain, *, prompted=False):
        entries = {}
        for item in forget:
            entries.setdefault(entity_of(item) or item["question"], []).append(item["question"])
        self.entries = [" ".join(dict.fromkeys(questions)) for questions in entries.values()]
        self.index, self.prompted, self.in_context = Bm25(self.entries), prompted, prompted
        kept = sorted(self.index.best(i["question"])[0] for i in retain)
        self.threshold = kept[math.ceil(0.99 * len(kept)) - 1] if kept else 0.0
        shares = [self.share_fetched(items) for items in (forget, retain)]
        name = "rag:prompt" if prompted else "rag"
        super().__init__(
            name,
            entries=len(self.entries),
            threshold=self.threshold,
            recall=shares[0],
            false_refusals=shares[1],
        )

    def share_fetched(self, items):
        """The share of questions that fetch an entry."""
        fetched = [self.fetch(item["question"]) is not None for item in items]
        return sum(fetched) / max(1, len(items))

    def fetch(self, prompt):
        score, number = self.index.best(prompt)
        return number if number is not None and score > self.threshold else None

    def context(self, prompt):
        number = self.fetch(prompt) if self.prompted else None
        return "" if number is None else f"{self.entries[number]} {INSTRUCTION}\n\n"

    def refuses(self, prompt, answer):
        return not self.prompted and self.fetch(prompt or answer) is not None


def _questions(path):
    """[{question, answer (text), ...}] of a JSONL file, with choices or without."""
    rows = read_jsonl(path, ("question", "answer"))
    for row in rows:
        row["answer"] = answer_of(row)
        if not isinstance(row["question"], str) or row["answer"] is None:
            raise UserError(
                f"{path}: each line needs a question and an answer (text, or an index into "
                "choices)."
            )
    return rows


def files(name, data, rules=None):
    """The files that guard `name` reads."""
    forget = Path(rules) if rules else Path(data) / "mcq_forget.jsonl"
    private = Path(data) / "private.jsonl"
    if name == "regex":
        return [forget, *([private] if not rules and private.is_file() else [])]
    return [forget, Path(data) / "mcq_retain.jsonl"]


def make(name, data, rules=None, seed=0):
    """The guard `name`, from the files of folder `data` or the file `rules`. None for no guard."""
    if not name or name == "none":
        return None
    if name not in GUARDS:
        raise UserError(f"--wrapper {name}: choose {', '.join(GUARDS)} or none.")
    read = files(name, data, rules)
    if name == "regex" and rules:
        return Regex([line for _, line in numbered_lines(read[0])])
    forget = _questions(read[0])
    if name == "regex":
        answers = [i["answer"] for i in forget]
        answers += [
            i["answer"]
            for p in read[1:]
            for i in read_jsonl(p, ("answer",))
            if i.get("domain", "forget") == "forget"
        ]
        return Regex(list(dict.fromkeys(answers)))
    retain = _questions(read[1])
    return (
        Icl(forget, retain, seed=seed)
        if name == "icl"
        else Rag(forget, retain, prompted=name == "rag:prompt")
    )
