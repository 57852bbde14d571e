"""MUSE (arXiv:2407.06460): documents to forget, and what a model can still say of them.

The data sets are muse-bench/MUSE-News and muse-bench/MUSE-Books. Their configurations are raw (the
forget, retain1 and holdout documents), verbmem (prompt, gt), knowmem (question, answer, with
in-context examples) and privleak (members and non-members). They become config_split.jsonl; the
mini world renders the same schema under the same names. A document is cut into passages, one a
line, so that no tokens beyond `--max-length` are lost.
"""

import json
import re

from brittle.base.errors import UserError
from brittle.data.overlap import check, measured, mix
from brittle.data.sources import drawn, load_rows, sidecars, texts_of, write_sets
from brittle.data.tofu import pretraining

HUB = {"news": "muse-bench/MUSE-News", "books": "muse-bench/MUSE-Books"}
PASSAGE = 1500  # characters, about 350 tokens
TABLES = {
    "verbmem": (("prompt", "gt"), ("forget",)),
    "knowmem": (
        ("question", "answer"),
        ("forget_qa", "retain_qa", "forget_qa_icl", "retain_qa_icl"),
    ),
    "privleak": (("text",), ("forget", "retain", "holdout")),
}


def passages(document, size=PASSAGE):
    """The document in passages of at most `size` characters.

    A passage ends behind a sentence; where there is none, at a blank; where there is none, at
    `size`.
    """
    rest, pieces = " ".join(document.split()), []
    while len(rest) > size:
        window = rest[: size + 1]
        sentence_ends = [m.end() for m in re.finditer(r"[.!?][\"')\]]* ", window)]
        ends = sentence_ends or [m.end() for m in re.finditer(" ", window)]
        cut = min(ends[-1], size) if ends else size
        pieces.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return [*pieces, rest] if rest else pieces


def numbered(rows, name):
    """[[{text, entity}, ...], ...]: the passages of each document; the document is the entity."""
    return [
        [{"text": text, "entity": f"{name}/{number:05d}"} for text in passages(row["text"])]
        for number, row in enumerate(rows)
    ]


def write_muse(outdir, path=None, corpus="news", overlap=None, kind="entities", limit=None, seed=0):
    """Write MUSE's files in our schema into `outdir`. Returns {file: lines}.

    With `overlap`, both sets have the same number of documents, each document gives every other
    passage, and `overlap` % of the documents are in both sets (see overlap.py). verbmem, knowmem
    and privleak stay those of the published forget set.
    """
    check(overlap, kind, ("entities",))
    if corpus not in HUB:
        raise UserError(f"--corpus {corpus}: choose {' or '.join(HUB)}.")
    read, settings = [], {"source": "muse", "corpus": corpus}

    def rows(config, split, columns):
        loaded = load_rows((HUB[corpus], config, split), path, columns, read, exact=True)
        return texts_of(loaded, path, f"{config}/{split}", columns)

    documents = [numbered(rows("raw", name, ("text",)), name) for name in ("forget", "retain1")]
    sets = [[passage for document in of_set for passage in document] for of_set in documents]
    if overlap is not None:
        *sets, settings["overlap"] = mix(*documents, overlap, seed, "documents")
        plain = [[passage["text"] for passage in of_set] for of_set in sets]
        settings["overlap"]["measured"] = measured(*plain)
        print(f"overlap: {json.dumps(settings['overlap'])}")
    forget, retain = (drawn(of_set, limit, seed) for of_set in sets)
    texts = {
        "forget.txt": [passage["text"] for passage in forget],
        "retain.txt": [passage["text"] for passage in retain],
    }
    tables = sidecars(forget, retain)
    for config, (columns, splits) in TABLES.items():
        for split in splits:
            try:
                tables[f"{config}_{split}.jsonl"] = rows(config, split, columns)
            except UserError as error:
                lacking = f"{config}_{split}.jsonl, which {path or HUB[corpus]} lacks"
                print(f"note: without {lacking}: {error}")
    try:
        unseen = [p for r in rows("raw", "holdout", ("text",)) for p in passages(r["text"])]
        texts["holdout.txt"] = drawn(unseen, limit, seed)
    except UserError as error:
        print(f"note: without holdout.txt: {error}")
    texts |= pretraining(texts["forget.txt"], texts["retain.txt"], [], seed)
    return write_sets(outdir, texts, tables, read, seed, settings)
