"""WMDP-Bio (arXiv:2403.03218) to forget, WikiText-2 to retain, MMLU to ask about the rest."""

import re

from brittle.base.errors import UserError
from brittle.data.sources import drawn, load_rows, sidecars, write_sets
from brittle.data.world import Draws

# (hub id, configuration, split)
WMDP = ("cais/wmdp", "wmdp-bio", "test")
BIO_REMOVE = ("Unlearning/WMDP-Bio-Remove-Dataset", None, "train")
WIKITEXT = ("Salesforce/wikitext", "wikitext-2-raw-v1", "train")
MMLU = ("cais/mmlu", "all", "test")
TITLE = re.compile(r"= [^=]+ =")  # of an article; those of its sections have more marks
MIN_CHARACTERS = 50  # shorter WikiText lines are headings and empty lines
MMLU_ITEMS = 500  # a split
# MMLU subjects beside WMDP-Bio that unlearning must spare
NEAR = ("biology", "medicine", "virology", "anatomy")


def write_wmdp(outdir, corpus, wmdp_path, wikitext_path, mmlu_path, limit, seed):
    """Write forget.txt from WMDP-Bio, retain.txt from WikiText-2, and multiple-choice items.

    The forget items are WMDP-Bio, the retain items MMLU's biology and medicine, which unlearning
    must spare, and the general items the rest of MMLU. All have halves A and B for the attack.
    Returns {file: lines}.
    """
    tables, read = {}, []
    if corpus == "questions":
        questions = load_rows(WMDP, wmdp_path, ("question", "choices", "answer"), read)
        forget = [row["question"] for row in questions]
        tables["mcq_forget.jsonl"] = _items(questions, "wmdp-bio", seed)
    elif corpus == "bio-remove":
        rows = load_rows(BIO_REMOVE, wmdp_path, ("title", "abstract", "text"), read)
        forget = [
            "  ".join(filter(None, (row["title"], row["abstract"], row["text"]))) for row in rows
        ]
    else:
        raise UserError(f"--forget-corpus {corpus}: choose questions or bio-remove.")
    forget_name = "wmdp-bio" if corpus == "questions" else corpus
    forget_rows = [
        {"text": text, "entity": f"{forget_name}/{i:05d}"} for i, text in enumerate(forget)
    ]
    rows = load_rows(WIKITEXT, wikitext_path, ("text",), read)
    retain_rows = articles(rows)
    if not retain_rows:
        raise UserError(f"no WikiText line is longer than {MIN_CHARACTERS} characters.")
    try:
        mmlu = load_rows(MMLU, mmlu_path, ("question", "choices", "answer", "subject"), read)
        near = [any(word in row["subject"] for word in NEAR) for row in mmlu]
        for split, wanted in (("retain", True), ("general", False)):
            rows = [row for row, is_near in zip(mmlu, near, strict=True) if is_near == wanted]
            tables[f"mcq_{split}.jsonl"] = drawn(
                _items(rows, f"mmlu-{split}", seed), MMLU_ITEMS, seed
            )
    except UserError as error:
        if mmlu_path is not None:
            raise
        missing = "mcq_retain.jsonl and mcq_general.jsonl, which evaluation and attack need"
        print(f"note: no {missing}: {error}")
    forget_rows, retain_rows = (drawn(rows, limit, seed) for rows in (forget_rows, retain_rows))
    texts = {
        "forget.txt": [row["text"] for row in forget_rows],
        "retain.txt": [row["text"] for row in retain_rows],
    }
    tables |= sidecars(forget_rows, retain_rows)
    return write_sets(outdir, texts, {k: v for k, v in tables.items() if v}, read, seed)


def articles(rows):
    """[{text, entity?}]: WikiText's lines that are no headings; the entity is the article.

    An article begins with its title, " = Title = ". Lines that no title precedes name no entity.
    """
    texts, number = [], 0
    for row in rows:
        line = row["text"].strip()
        if TITLE.fullmatch(line):
            number += 1
        if len(line) > MIN_CHARACTERS:
            entity = {"entity": f"wikitext/{number:05d}"} if number else {}
            texts.append({"text": row["text"], **entity})
    return texts


def _items(rows, name, seed):
    """Items in our schema, in a seeded order.

    Halves alternate in that order, so they are a blind, balanced split.
    """
    if rows and not isinstance(rows[0]["choices"], list):
        wrong = f"{name}: choices must be lists of texts, which CSV cannot hold"
        raise UserError(f"{wrong}. Give parquet or JSONL.")
    draws = Draws(f"halves {name} {seed}")
    return [
        {
            "fact": f"{name}/{i:05d}/answer",  # `entity_of` a fact's id is its entity
            "entity": f"{name}/{i:05d}",
            "half": "AB"[place % 2],
            "template": 0,
            "question": f"Question: {row['question'].strip()} Answer:",
            "choices": list(row["choices"]),
            "answer": int(row["answer"]),
        }
        for place, (i, row) in enumerate(draws.shuffled(list(enumerate(rows))))
    ]
