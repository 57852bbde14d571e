"""The user's own data: questions and answers keep their structure, documents become passages.

A file whose every line is a question with its answer is a file of questions. It becomes texts,
`qa_*.jsonl` and four-way items. The wrong choices are answers of other lines of the same file. Any
other file holds texts. A text that is longer than a passage is a document, and is cut.
"""

from pathlib import Path
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.data.items import read_subjects, read_text_rows, text_files
from brittle.data.muse import PASSAGE, passages
from brittle.data.rows import PROMPTS, SAYS_ANSWER, as_object, framed, plain, question_and_answer
from brittle.data.sources import drawn, question_text, sidecars, subject, write_sets
from brittle.data.subjects import name_entities
from brittle.data.texts import numbered_jsonl
from brittle.data.tofu import WRONG
from brittle.data.world import Draws

FORMS = (*PROMPTS, *SAYS_ANSWER)  # the ways to write a question and its answer


class Options(NamedTuple):
    """How own files are read.

    limit: lines a file at most, drawn by `seed`. passage: characters of a passage. per_entity: how
    many lines in a row are one entity, where no column `entity` says it.
    """

    limit: int | None = None
    seed: int = 0
    passage: int = PASSAGE
    per_entity: int = 1


def question_rows(path):
    """The rows of a file of questions, each with `question` and `answer` as texts.

    None where the file is plain, or where one of its lines is no question with an answer.
    """
    if Path(path).suffix not in (".jsonl", ".json"):
        return None
    rows = []
    for _, row in numbered_jsonl(path):
        pair = question_and_answer(row)
        if pair is None:
            return None
        question, answer = pair
        others = {key: value for key, value in row.items() if key not in FORMS}
        rows.append({**others, "question": question, "answer": answer})
        if isinstance(row.get("choices"), list):
            choices = rows[-1].pop("choices")
            rows[-1]["perturbed_answer"] = [choice for choice in choices if choice != answer]
    return rows


# --- four-way items


def compared(answer):
    """An answer as it is compared: without case, outer signs and doubled blanks."""
    return " ".join(answer.casefold().split()).strip(" .")


def kind_of(row):
    """Which answers are alike: the column `kind`, else the first word of the question."""
    return str(row["kind"]) if row.get("kind") else row["question"].split()[0].casefold()


def four_way_items(rows, name, seed):
    """[item]: each row with the answers of three others as wrong choices.

    They are of the same kind (`kind_of`) where three are, else of the whole file. A row's own
    `perturbed_answer` comes first. No wrong choice is an answer to the same question. A row that
    finds fewer than three has no item.
    """
    draws = Draws(f"mcq {name} {seed}")
    pools, right = {}, {}
    for row in rows:
        for pool in (kind_of(row), None):  # None: the whole file
            pools.setdefault(pool, {}).setdefault(compared(row["answer"]), row["answer"])
        right.setdefault(compared(row["question"]), set()).add(compared(row["answer"]))
    items = []
    for row in rows:
        taken = set(right[compared(row["question"])])
        wrong = []
        own = row.get("perturbed_answer")
        stated = [text for text in own if isinstance(text, str)] if isinstance(own, list) else []
        for pool in ({compared(w): w for w in stated}, pools[kind_of(row)], pools[None]):
            wrong += _draw(draws, pool, taken, WRONG - len(wrong))
        if len(wrong) < WRONG:
            continue
        choices = draws.shuffled([row["answer"], *wrong])
        items.append(
            {
                **{key: row[key] for key in ("fact", "entity", "half")},
                "template": 0,
                "question": framed(row["question"]),
                "choices": choices,
                "answer": choices.index(row["answer"]),
            }
        )
    return items


def _draw(draws, pool, taken, count):
    """At most `count` answers of `pool` {compared: answer} that are not `taken`, which grows."""
    keys, chosen = list(pool), []
    free = len(keys) - sum(key in pool for key in taken)
    while len(chosen) < min(count, free):
        key = draws.choice(keys)
        if key not in taken:
            taken.add(key)
            chosen.append(pool[key])
    return chosen


# --- texts


def cut_texts(path, name, options):
    """([{text, entity?, fact?}], a line on the documents, or None) of a file of texts.

    A text longer than a passage is a document, and is cut; a question or a conversation is not.
    Where one is cut, the texts of the file are entities, unless the file names others.
    """
    rows, subjects = read_text_rows(path), read_subjects(path)
    texts = [plain(row) for row in rows]
    pieces = [
        passages(text, options.passage)
        if isinstance(row, str) and len(text) > options.passage
        else [text]
        for row, text in zip(rows, texts, strict=True)
    ]
    documents = sum(len(of_text) > 1 for of_text in pieces)
    every = []
    for number, of_text in enumerate(pieces):
        about = subject(subjects[number]) if subjects else {}
        if documents and not about:
            about = {"entity": f"{name}/{number:05d}"}
        if not isinstance(rows[number], str):
            about = {**about, **as_object(rows[number])}
        every += [{"text": piece, **about} for piece in of_text]
    chosen = drawn(every, options.limit, options.seed)
    said = None
    if documents or len(chosen) < len(every):
        share = sum(len(row["text"]) for row in chosen) / sum(len(row["text"]) for row in every)
        said = (
            f"{documents} of {len(texts)} texts are longer than {options.passage:,} characters; "
            f"{len(chosen):,} of {len(every):,} passages, {share:.0%} of the text, are used"
        )
    return chosen, said


# --- the folder


def write_own(outdir, files, options):
    """Write the user's own files as a data folder. Returns {file: lines}.

    files: {forget, retain, holdout, general: path, or None for one that is not given}. Prints which
    entities there are, which questions have no item, and how documents are cut.
    """
    texts, tables, subjects = {}, {}, {}
    for name, path in files.items():
        if path is None:
            continue
        rows = question_rows(path)
        if rows is None:
            subjects[name], said = cut_texts(path, name, options)
            if said:
                print(f"{path}: {said}.")
            file = "neutral.txt" if name == "general" else f"{name}.txt"
            texts[file] = [row["text"] for row in subjects[name]]
            continue
        if not rows:
            raise UserError(f"{path} holds no questions.")
        named = bool(rows[0].get("entity"))
        rows = name_entities(
            drawn(rows, options.limit, options.seed), name, path, options.per_entity, options.seed
        )
        items = four_way_items(rows, name, options.seed)
        print(f"{path}: {described(rows, items, options, named=named)}.")
        if name != "general":
            texts[f"{name}.txt"] = [question_text(row) for row in rows]
            tables[f"qa_{name}.jsonl"] = subjects[name] = rows
        if items:
            tables[f"mcq_{name}.jsonl"] = items
    tables |= sidecars(subjects["forget"], subjects["retain"], subjects.get("holdout"))
    settings = {"source": "files", **options._asdict()}
    inputs = text_files(*(path for path in files.values() if path is not None))
    return write_sets(outdir, texts, tables, inputs, options.seed, settings, line_feeds=True)


def described(rows, items, options, *, named):
    """What was made of a file of questions, in words."""
    entities = len({row["entity"] for row in rows})
    lines = "every line is one"
    if options.per_entity > 1:
        lines = f"every {options.per_entity} lines are one"
    rule = "named by the column entity" if named else f"{lines}: no column entity"
    without = len(rows) - len(items)
    lacking = f", {without} without three other answers" if without else ""
    return (
        f"{len(rows)} questions about {entities} entities ({rule}), "
        f"{len(items)} of them with four choices{lacking}"
    )
