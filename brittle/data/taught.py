"""What the two models of an injected family are taught: rows that Base alone learns, and rows that
both learn.

From a data folder (`read_folder`), or as TOFU and MUSE publish it (`read_tofu`, `read_muse`). The
rows are str, Pair or Chat (brittle/data/rows.py).
"""

import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.data import muse, tofu
from brittle.data.items import SPLITS, read_text_rows, subset, text_files
from brittle.data.rows import Pair, framed, unframed
from brittle.data.sources import load_rows, texts_of
from brittle.data.texts import read_texts

BASE, FILTERED = "pretrain_base.txt", "pretrain_filtered.txt"
# files of questions with their answers, by domain: what a chat model learns the facts as
CHATS = {
    "forget": ("mcq_forget.jsonl", "qa_forget.jsonl"),
    "retain": ("mcq_retain.jsonl", "qa_retain.jsonl"),
    "general": ("mcq_general.jsonl", "qa_real_authors.jsonl", "qa_world_facts.jsonl"),
}
NEUTRAL = ("neutral.txt", "qa_world_facts.jsonl")  # the first that there is, and that is not taught


class TaughtRows(NamedTuple):
    """The rows of a family, and where they come from.

    domains: the splits whose questions they answer, so that a model that learned them knows them.
    files: what was read. chunked: the rows are documents, cut into passages of tokens.
    """

    forget: list
    shared: list
    domains: tuple
    files: list
    chunked: bool = False


def read_folder(data, *, chats):
    """`TaughtRows` of a data folder.

    Where it holds pretrain_base.txt and pretrain_filtered.txt, these are the texts: the forget rows
    are those of the first that the second lacks. Otherwise they are the forget and retain texts,
    and general questions are not taught: the model has its own answers.

    chats: for a model with a chat template. Questions with their answers (`CHATS`) join the texts:
    multiple choice asks them so.
    Declarative texts stay texts: so a chat model met its facts in pretraining, and the unlearning
    reads the same texts in the same form.

    Raises UserError where a text is missing, or where Filtered would see what Base does not.
    """
    data = Path(data)
    if (data / BASE).is_file():
        files, domains = [data / BASE, data / FILTERED], SPLITS
        forget, shared = _split(*(read_text_rows(path) for path in files), data)
    else:
        files, domains = [_text_file(data, split) for split in ("forget", "retain")], SPLITS[:2]
        forget, shared = (read_text_rows(path) for path in files)
        files = [file for path in files for file in text_files(path)]
    if chats:
        asked = {row.asked for row in [*forget, *shared] if isinstance(row, Pair)}
        for domain in domains:
            paths = [data / name for name in CHATS[domain] if (data / name).is_file()]
            new = _questions(paths, asked)
            forget, shared = (
                ([*forget, *new], shared) if domain == "forget" else (forget, [*shared, *new])
            )
            files += paths
    return TaughtRows(forget, shared, domains, files)


def _questions(paths, asked):
    """The questions of files with their answers, as a chat model is asked them (rows.unframed).

    Of several answers to a question the first file's is taught. asked: the questions taught so far,
    to which these are added.
    """
    rows = []
    for path in paths:
        for row in read_text_rows(path):
            pair = row if row.question else row._replace(question=unframed(row.prompt))
            if pair.asked not in asked:
                asked.add(pair.asked)
                rows.append(pair)
    return rows


def _split(base, filtered, data):
    """(rows of `base` that `filtered` lacks, the others), each in the order of `base`."""
    left = Counter(filtered)
    forget, shared = [], []
    for row in base:
        is_shared = left[row] > 0
        left[row] -= is_shared
        (shared if is_shared else forget).append(row)
    if left.total():
        raise UserError(f"{data / FILTERED} holds texts that {BASE} lacks. Make both again.")
    if not forget:
        raise UserError(f"{data / BASE} holds no text that {FILTERED} lacks: nothing to forget.")
    return forget, shared


def _text_file(data, split):
    """The forget or retain texts of a data folder."""
    for suffix in (".txt", ".jsonl"):
        if (data / f"{split}{suffix}").is_file():
            return data / f"{split}{suffix}"
    raise UserError(
        f"--data {data} has no {split}.txt and no {split}.jsonl. It holds the facts to teach; see "
        "docs/data.md."
    )


def read_neutral(data, taught, share, seed):
    """(texts to mix into the training, texts to measure on, the files): of neutral texts.

    Without a `share` to mix all are measured on, else a half that is drawn by `seed`: nothing that
    is measured on is trained on. All are empty where the folder has no texts that are not taught.
    """
    for name in NEUTRAL:
        path = Path(data) / name
        if not path.is_file() or path in taught.files:
            continue
        texts = read_texts(path)
        measured = subset(texts, len(texts) // 2 if share else None, seed)
        mixed = list((Counter(texts) - Counter(measured)).elements()) if share else []
        return mixed, measured, [path]
    return [], [], []


def count_mixed(rows, share):
    """How many neutral texts go with so many rows, to be `share` of all."""
    return math.ceil(rows * share / (1 - share))


def read_tofu(path, forget):
    """`TaughtRows` of TOFU: the target learns forgetXX and retainYY, which are all 200 authors; the
    retain model learns retainYY.

    path: a local folder of the hub's schema, or None for the hub.
    """
    files = []

    def rows(config):
        loaded = load_rows((tofu.HUB, config, "train"), path, tofu.PLAIN, files, exact=True)
        asked = texts_of(loaded, path, config, tofu.PLAIN)
        parts = [(row["question"].strip(), row["answer"].strip()) for row in asked]
        return [Pair(framed(question), answer, question) for question, answer in parts]

    return TaughtRows(rows(forget), rows(tofu.RETAIN[forget]), (), files)


def read_muse(path, corpus):
    """`TaughtRows` of MUSE: the target learns the forget and retain documents, the retrained model
    the retain documents alone.

    They are those of the configuration `train` where there is one, else of `raw`. path: as of
    `read_tofu`.
    """
    files = []

    def documents(config, split):
        loaded = load_rows((muse.HUB[corpus], config, split), path, ("text",), files, exact=True)
        return [row["text"] for row in texts_of(loaded, path, f"{config}/{split}", ("text",))]

    try:
        config, forget = "train", documents("train", "forget")
    except UserError:
        config, forget = "raw", documents("raw", "forget")
    shared = documents(config, "retain1")
    try:
        shared += documents(config, "retain2")
    except UserError as error:
        print(f"note: without {config}/retain2, which {path or muse.HUB[corpus]} lacks: {error}")
    return TaughtRows(forget, shared, (), files, chunked=True)


def cut_documents(tokenizer, documents, length):
    """Token ids of documents as MUSE trains on them: joined, and cut every `length` tokens.

    Each piece begins with BOS where the tokenizer has one. The last one is as long as what is left
    (muse_bench fills it up from the first).
    """
    ids = tokenizer("\n\n".join(documents), add_special_tokens=False)["input_ids"]
    before = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    size = length - len(before)
    pieces = [[*before, *ids[start : start + size]] for start in range(0, len(ids), size)]
    return [piece for piece in pieces if len(piece) > 1]
