"""Forget and retain sets that share entities, made of facts that a model knows already.

So no model is trained for a level. data/overlap.py has the definition (`entities`): N entities in
each set, X % of them in both, half of an entity's facts in each set and no fact in both, one size
at every X. Here an entity's facts are shuffled first: which of its attributes are to be forgotten
differs between entities, so at 100 % neither a name nor an attribute alone tells what is to go.
(`create_datasets.py --overlap` makes the same for TOFU and MUSE, and for the mini world new facts,
which need a new model.)
"""

import shutil
from pathlib import Path

from brittle.base.errors import UserError
from brittle.data import overlap
from brittle.data.items import groups_of
from brittle.data.texts import read_jsonl, write_jsonl, write_lines
from brittle.data.world import Draws
from brittle.filters.basis import MOST, shared
from brittle.filters.fit import fit_candidates
from brittle.filters.search import search
from brittle.filters.strength import tune
from brittle.maths import intervals
from brittle.metrics import mcq

LEVELS = (0, 25, 50, 75, 100)
SPLITS = ("forget", "retain")
KEYS = ("question", "paraphrased_question", "answer", "paraphrased_answer", "fact")
QUESTION_KEYS = ("fact", "question", "choices", "answer")
COPIED = ("neutral.txt", "holdout.txt", "mcq_general.jsonl")
COLUMNS = [
    "overlap",
    "words",
    "measured",
    "ratio",
    "site",
    "gated",
    "k",
    "strength",
    "status",
    "retain_kl",
    "split",
    "accuracy",
    "low",
    "high",
    "n",
    "base_accuracy",
    "model",
    "seed",
]


def texts_of(row):
    """What a row of qa_*.jsonl says: two questions with their answer, two statements."""
    answer = row.get("short_answer", row["answer"])
    questions = (row["question"], row["paraphrased_question"])
    asked = [f"Question: {question} Answer: {answer}" for question in questions]
    return [*asked, row["answer"], row["paraphrased_answer"]]


def check_tables(data):
    """Raise UserError where a data folder lacks a table that overlap is mixed of."""
    for split in SPLITS:
        for name in (f"qa_{split}.jsonl", f"mcq_{split}.jsonl"):
            if not (data / name).is_file():
                raise UserError(
                    f"{data} has no {name}, which overlap is mixed of. "
                    "Make it with create_datasets.py, or give --level."
                )


def write_mixed(data, folder, share, seed=0):
    """Write {forget,retain}.txt and mcq_*.jsonl of `share` % overlap into `folder`.

    They are mixed of qa_*.jsonl and mcq_*.jsonl of `data`. Returns what the texts share in fact, by
    overlap.measured.
    """
    data, folder = Path(data), Path(folder)
    check_tables(data)
    draws = Draws(f"facts {seed}")
    questions, shuffled = {}, []
    for split in SPLITS:
        facts = {}  # of each entity
        for row in read_jsonl(data / f"qa_{split}.jsonl", KEYS):
            facts.setdefault(row["fact"].rpartition("/")[0], []).append(row)
        for item in read_jsonl(data / f"mcq_{split}.jsonl", QUESTION_KEYS):
            questions.setdefault(item["fact"], []).append(item)
        shuffled.append([draws.shuffled(rows) for rows in facts.values()])
    *sets, _ = overlap.mix(*shuffled, share, seed)
    folder.mkdir(parents=True, exist_ok=True)
    texts = [[text for row in rows for text in texts_of(row)] for rows in sets]
    for split, rows, lines in zip(SPLITS, sets, texts, strict=True):
        write_lines(folder / f"{split}.txt", lines)
        items = [item for row in rows for item in questions.get(row["fact"], [])]
        write_jsonl(folder / f"mcq_{split}.jsonl", items)
    for name in COPIED:
        if (data / name).is_file():
            shutil.copy(data / name, folder / name)
    return overlap.measured(*texts)


def overlap_rows(bench, limits, share, *, seed=0, model="", words=None):
    """Yield a row a split: the whole search, from moments to strength, on the bench's sets.

    Intervals are over entities. share, words: nominal overlap in %, and the share of words that the
    texts have in common.
    """
    candidates = fit_candidates(bench.model, bench.moments, bench.sites)
    for candidate in candidates.values():
        candidate.to(bench.model.device)
    choice = tune(bench.tuner, search(bench.tuner, candidates, limits)[0])
    site = choice.filter.site
    forget, retain = bench.moments.forget[site], bench.moments.retain[site]
    about = {
        "overlap": share,
        "words": words,
        "measured": shared(forget, retain, min(MOST, forget.width)),
        "ratio": bench.moments.ratios()[site],
        "site": site,
        "gated": int(choice.gated),
        "k": choice.filter.k,
        "strength": choice.filter.strength,
        "status": choice.status,
        "retain_kl": choice.reading["retain_kl"],
        "model": model,
        "seed": seed,
    }
    before = mcq.right_answers(bench.model, bench.tokenizer, None, bench.items)
    after = mcq.right_answers(bench.model, bench.tokenizer, choice.filter, bench.items)
    for split, hits in after.items():
        accuracy, low, high = intervals.share(hits, groups_of(bench.items[split]))
        yield {
            **about,
            "split": split,
            "accuracy": accuracy,
            "low": low,
            "high": high,
            "n": len(hits),
            "base_accuracy": sum(before[split]) / len(hits),
        }
