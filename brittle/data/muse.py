"""MUSE (arXiv:2407.06460, muse-bench/MUSE-News and -Books): documents to forget, and what of them a model can still say.

Configurations: raw (forget, retain1, holdout documents), verbmem (prompt, gt), knowmem (question, answer, with in-context
examples) and privleak (members and non-members). They become config_split.jsonl, the names under which the mini world
renders the same schema. A document is cut into passages, one a line, so that no tokens beyond `--max-length` are lost.
"""

import json
import re

from brittle.base.errors import UserError
from brittle.data.overlap import check, measured, mix
from brittle.data.sources import load_rows, texts_of, write_sets
from brittle.data.tofu import pretraining

HUB = {"news": "muse-bench/MUSE-News", "books": "muse-bench/MUSE-Books"}
PASSAGE = 1500  # characters, about 350 tokens
TABLES = {
    "verbmem": (("prompt", "gt"), ("forget",)),
    "knowmem": (("question", "answer"), ("forget_qa", "retain_qa", "forget_qa_icl", "retain_qa_icl")),
    "privleak": (("text",), ("forget", "retain", "holdout")),
}


def passages(document, size=PASSAGE):
    """The document in passages of at most `size` characters, cut behind a sentence, else at a blank, else at `size`."""
    rest, made = " ".join(document.split()), []
    while len(rest) > size:
        window = rest[: size + 1]
        ends = [m.end() for m in re.finditer(r"[.!?][\"')\]]* ", window)] or [m.end() for m in re.finditer(" ", window)]
        cut = min(ends[-1], size) if ends else size
        made.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return [*made, rest] if rest else made


def write_muse(outdir, path=None, corpus="news", overlap=None, kind="entities", limit=None, seed=0):
    """MUSE's files in our schema into `outdir`. Returns {file: lines}.

    With `overlap`, forget and retain documents are as many, each gives every other passage, and `overlap` % of the documents
    are in both sets (see overlap.py). verbmem, knowmem and privleak stay those of the published forget set.
    """
    check(overlap, kind, ("entities",))
    if corpus not in HUB:
        raise UserError(f"--corpus {corpus}: choose {' or '.join(HUB)}.")
    read, settings = [], {"source": "muse", "corpus": corpus}

    def rows(config, split, columns):
        found = load_rows((HUB[corpus], config, split), path, columns, read, exact=True)
        return texts_of(found, path, f"{config}/{split}", columns)

    documents = {name: [passages(r["text"]) for r in rows("raw", name, ("text",))] for name in ("forget", "retain1")}
    forget, retain = ([p for d in part for p in d] for part in documents.values())
    if overlap is not None:
        forget, retain, settings["overlap"] = mix(*documents.values(), overlap, seed, "documents")
        settings["overlap"]["measured"] = measured(forget, retain)
        print(f"overlap: {json.dumps(settings['overlap'])}")
    texts, tables = {"forget.txt": forget[:limit], "retain.txt": retain[:limit]}, {}
    for config, (columns, splits) in TABLES.items():
        for split in splits:
            try:
                found = rows(config, split, columns)
            except UserError as error:
                print(f"note: without {config}_{split}.jsonl, which {path or HUB[corpus]} lacks: {error}")
                continue
            tables[f"{config}_{split}.jsonl"] = found
    try:
        texts["holdout.txt"] = [p for r in rows("raw", "holdout", ("text",)) for p in passages(r["text"])][:limit]
    except UserError as error:
        print(f"note: without holdout.txt: {error}")
    texts |= pretraining(texts["forget.txt"], texts["retain.txt"], [], seed)
    return write_sets(outdir, texts, tables, read, seed, settings)
