"""Forget and retain sets that share entities, made of facts that a model knows already, so that no model is trained for a level.

overlap.py has the definition (`entities`): N entities in each set, X % of them in both, half of an entity's facts in each set
and no fact in both, one size at every X. Here an entity's facts are shuffled first: which of its attributes are to be forgotten
differs between entities, so at 100 % neither a name nor an attribute alone tells what is to go.
(`create_datasets.py --overlap` makes the same for TOFU and MUSE, and for the mini world new facts, which need a new model.)
"""

import shutil
from pathlib import Path

from brittle.base.errors import UserError
from brittle.data import overlap
from brittle.data.texts import read_jsonl, write_jsonl, write_lines
from brittle.data.world import Draws

LEVELS = (0, 25, 50, 75, 100)
KEYS = ("question", "paraphrased_question", "answer", "paraphrased_answer", "fact")
COLUMNS = ["overlap", "words", "measured", "ratio", "site", "gated", "k", "strength", "status", "retain_kl", "split", "accuracy",
           "low", "high", "n", "base_accuracy", "model", "seed"]  # fmt: skip


def texts_of(row):
    """What a row of qa_*.jsonl says: two questions with their answer, two statements."""
    asked = [
        f"Question: {row[q]} Answer: {row.get('short_answer', row['answer'])}"
        for q in ("question", "paraphrased_question")
    ]
    return [*asked, row["answer"], row["paraphrased_answer"]]


def write_mixed(data, folder, share, seed=0):
    """Write {forget,retain}.txt and mcq_*.jsonl of `share` % overlap into `folder`, from qa_*.jsonl and mcq_*.jsonl of `data`.

    Returns what the texts share in fact, by overlap.measured.
    """
    data, folder = Path(data), Path(folder)
    missing = [
        n
        for s in ("forget", "retain")
        for n in (f"qa_{s}.jsonl", f"mcq_{s}.jsonl")
        if not (data / n).is_file()
    ]
    if missing:
        raise UserError(
            f"{data} has no {missing[0]}, which overlap is mixed of. Make it with create_datasets.py, or give --level."
        )
    groups, questions = {"forget": {}, "retain": {}}, {}
    for split, found in groups.items():
        for row in read_jsonl(data / f"qa_{split}.jsonl", KEYS):
            found.setdefault(row["fact"].rpartition("/")[0], []).append(row)
        for item in read_jsonl(
            data / f"mcq_{split}.jsonl", ("fact", "question", "choices", "answer")
        ):
            questions.setdefault(item["fact"], []).append(item)
    draws = Draws(f"facts {seed}")
    shuffled = [[draws.shuffled(rows) for rows in groups[s].values()] for s in ("forget", "retain")]
    *sets, _ = overlap.mix(*shuffled, share, seed)
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in zip(("forget", "retain"), sets, strict=True):
        write_lines(folder / f"{split}.txt", [t for row in rows for t in texts_of(row)])
        write_jsonl(
            folder / f"mcq_{split}.jsonl",
            [i for row in rows for i in questions.get(row["fact"], [])],
        )
    for name in ("neutral.txt", "holdout.txt", "mcq_general.jsonl"):
        if (data / name).is_file():
            shutil.copy(data / name, folder / name)
    return overlap.measured(*([t for row in rows for t in texts_of(row)] for rows in sets))


def rows(bench, limits, share, seed=0, model="", words=None):
    """Yield a row a split: the whole search, from moments to strength, on the bench's sets; intervals over entities."""
    from brittle.data.items import groups_of
    from brittle.filters import fit, search
    from brittle.filters.basis import MOST, shared
    from brittle.maths import intervals
    from brittle.metrics import mcq

    candidates = fit.candidates(bench.model, bench.found, bench.sites)
    for made in candidates.values():
        made.to(bench.model.device)
    choice = search.tune(bench.tuner, search.search(bench.tuner, candidates, limits)[0])
    made, site = choice.made, choice.made.site
    forget, retain = bench.found.forget[site], bench.found.retain[site]
    about = {"overlap": share, "words": words, "measured": shared(forget, retain, min(MOST, forget.width)), "site": site,
             "ratio": fit.ratios(bench.found)[site], "gated": int(made.gate is not None), "k": made.k,
             "strength": made.strength, "status": choice.status, "retain_kl": choice.reading["retain_kl"], "model": model,
             "seed": seed}  # fmt: skip
    before, after = (
        mcq.right_answers(bench.model, bench.tokenizer, m, bench.items) for m in (None, made)
    )
    for split, hits in after.items():
        accuracy, low, high = intervals.share(hits, groups_of(bench.items[split]))
        base = sum(before[split]) / len(hits)
        yield {
            **about,
            "split": split,
            "accuracy": accuracy,
            "low": low,
            "high": high,
            "n": len(hits),
            "base_accuracy": base,
        }
