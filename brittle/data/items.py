"""Evaluation items: multiple-choice questions, and the entity and fact that a question or text is
about.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from brittle.base.errors import UserError
from brittle.data.rows import SAYS_ANSWER, plain, row_of
from brittle.data.texts import (
    JSON_LINES,
    numbered_jsonl,
    read_jsonl,
    read_lines,
    read_objects,
    read_texts,
)

SPLITS = ("forget", "retain", "general")
KEYS = ("question", "choices", "answer")


def read_items(path):
    """Items {question, choices, answer (index), fact?, half?} of a JSONL file.

    Blanks at the ends of question and choices are dropped (see data.tokens). An item that names an
    entity and no fact asks a fact of its own.
    """
    items = []
    for number, item in numbered_jsonl(path, KEYS):
        question, choices = item["question"], item["choices"]
        check_item(f"{path} line {number}", choices, item["answer"])
        if not question.strip():
            raise UserError(f"{path} line {number}: the question is empty.")
        stripped = {"question": question.strip(), "choices": [text.strip() for text in choices]}
        fact = {"fact": item_fact(item, len(items))} if item.get("entity") else {}
        items.append({**item, **stripped, **fact})
    return items


def check_item(where, choices, answer):
    """Raises UserError, which begins with `where`, for what is no item."""
    if not all(text.strip() for text in choices):
        raise UserError(f"{where}: a choice is empty.")
    is_index = isinstance(answer, int) and not isinstance(answer, bool)
    if len(choices) < 2 or not is_index or not 0 <= answer < len(choices):
        raise UserError(f"{where}: answer must be an index into at least two choices.")


def read_splits(data):
    """{split: items} of the mcq_*.jsonl files in folder `data`; all three must be there."""
    return {split: read_items(Path(data) / f"mcq_{split}.jsonl") for split in SPLITS}


def subset(items, count, seed=0):
    """At most `count` items, drawn by `seed`, in their own order."""
    import torch

    if count is None or len(items) <= count:
        return items
    keep = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))[:count]
    return [items[i] for i in sorted(keep.tolist())]


def entity_of(row):
    """What a row (an item, a text, an answer) is about, or None where it does not say.

    That is its `entity`, else the id of its `fact` without the attribute: `forget/000` of
    `forget/000/habitat`.
    """
    if row.get("entity"):
        return str(row["entity"])
    if row.get("fact"):
        return str(row["fact"]).rsplit("/", 1)[0]
    return None


def item_fact(item, number):
    """The id of the fact that the item `number` of a file asks, where the item names none itself:
    one of its entity. None where it names no entity either.
    """
    if item.get("fact") or not item.get("entity"):
        return item.get("fact")
    return f"{item['entity']}/{number}"


def fact_of(item):
    """The id of the fact that an item asks; an item that names none is one of its own."""
    return item.get("fact", item["question"])


def right_by_fact(items, rights):
    """{fact: (right, items)} of answers, `rights` [items] of 0 and 1."""
    counts = {}
    for item, right in zip(items, rights, strict=True):
        hits, asked = counts.get(fact_of(item), (0, 0))
        counts[fact_of(item)] = (hits + right, asked + 1)
    return counts


def groups_of(rows):
    """[rows] the entity of each row, else its own number: the groups of an interval."""
    return [entity_of(row) or number for number, row in enumerate(rows)]


def per_entity(rows, value="correct"):
    """{entity: (sum, count)} of the rows' numbers; rows whose value is missing are left out."""
    sums = {}
    for row in rows:
        number = row.get(value)
        if number is None or number == "" or not np.isfinite(float(number)):
            continue
        name = entity_of(row) or f"item {row.get('item')}"
        total, count = sums.get(name, (0.0, 0))
        sums[name] = (total + float(number), count + 1)
    return sums


def facts_of(rows):
    """The `fact` of each row of a JSON-lines file; None where one of them names none."""
    names = [row.get("fact") if isinstance(row, dict) else None for row in rows]
    return names if names and all(names) else None


def entities_of(rows):
    """The entity of each row of a JSON-lines file; None where one of them names none."""
    names = [entity_of(row) if isinstance(row, dict) else None for row in rows]
    return names if names and all(names) else None


class DrawnTexts(NamedTuple):
    """Texts drawn from a file, in its order, and what each of them is about."""

    rows: list  # str, Pair or Chat each
    entities: list | None  # None: the data do not name them
    facts: list | None
    of: int  # how many texts the file holds

    @property
    def texts(self):
        """The rows as texts without a template."""
        return [plain(row) for row in self.rows]

    def about(self):
        """{texts, of, entities}: what a record says of the sample."""
        entities = len(set(self.entities)) if self.entities else None
        return {"texts": len(self.rows), "of": self.of, "entities": entities}


def sidecar(path):
    """The file beside a text file that names the entity and the fact of each of its lines."""
    return Path(path).with_suffix(".facts.jsonl")


def text_files(*paths):
    """The files that `draw_texts` reads for each of `paths`: the texts, and their sidecar."""
    beside = [sidecar(path) for path in paths]
    return [*paths, *(path for path in beside if path.is_file())]


def read_subjects(path):
    """[one object a text]: its `entity` and `fact`, where the data say them.

    A JSON-lines file holds them itself. Beside a file of lines lies a sidecar (forget.facts.jsonl
    for forget.txt) with one object a line, in the same order. None where there is no sidecar.
    Raises UserError where the sidecar does not have a line for each text.
    """
    path = Path(path)
    if path.suffix in JSON_LINES:
        return read_jsonl(path)
    if not sidecar(path).is_file():
        return None
    rows, count = read_jsonl(sidecar(path)), len(read_lines(path))
    if len(rows) != count:
        raise UserError(
            f"{sidecar(path)} has {len(rows)} lines and {path.name} {count} texts. "
            "Make both again with create_datasets.py, or delete the sidecar."
        )
    return rows


def read_text_rows(path):
    """The rows of a file: str, Pair or Chat each (see brittle/data/rows.py).

    A row is an object of a JSON-lines file, or a line. A line is a text, or what its sidecar says
    that it is: a prompt and an answer. Raises UserError where the sidecar says another text.
    """
    path = Path(path)
    if path.suffix in JSON_LINES:
        return read_objects(path)
    rows = read_lines(path)
    if not _says_answers(sidecar(path)):
        return rows
    for number, (line, about) in enumerate(zip(rows, read_subjects(path), strict=False)):
        if not any(key in about for key in SAYS_ANSWER):
            continue
        row = row_of(about, f"{sidecar(path)} object {number + 1}")
        if plain(row).split() != line.split():
            raise UserError(
                f"{sidecar(path)}, object {number + 1}, is not the text of that line in "
                f"{path.name}. Make both again with create_datasets.py, or delete the sidecar."
            )
        rows[number] = row
    return rows


def _says_answers(path):
    """Does one of a sidecar's objects hold an answer? A file that is not there holds none."""
    rows = read_jsonl(path) if path.is_file() else []
    return any(isinstance(row, dict) and any(key in row for key in SAYS_ANSWER) for row in rows)


def named_texts(path):
    """[(text, entity)] of a file: an interval's group is the entity that its row or its sidecar
    names, else the text's own number.
    """
    return _with_entities(read_texts(path), path)


def named_rows(path):
    """[(row, entity)] of a file: `named_texts` whose texts are str, Pair or Chat each."""
    return _with_entities(read_text_rows(path), path)


def _with_entities(texts, path):
    rows = read_subjects(path) or [{}] * len(texts)
    entities = [entity_of(row) if isinstance(row, dict) else None for row in rows]
    return [
        (text, entity or number)
        for number, (text, entity) in enumerate(zip(texts, entities, strict=True))
    ]


def draw_texts(path, count=None, seed=0):
    """`DrawnTexts`: at most `count` texts of a file, drawn by `seed` and the file's name."""
    from brittle.maths.intervals import generator

    path = Path(path)
    every, subjects = read_text_rows(path), read_subjects(path)
    numbers = range(len(every))
    if count is not None and count < len(every):
        import torch

        drawn = torch.randperm(len(every), generator=generator(seed, f"texts of {path.name}"))
        numbers = sorted(drawn[:count].tolist())
    about = [subjects[number] for number in numbers] if subjects else []
    rows = [every[number] for number in numbers]
    return DrawnTexts(rows, entities_of(about), facts_of(about), len(every))
