"""TOFU (arXiv:2401.06121, locuslab/TOFU): 200 invented authors with 20 questions each.

It is read from the hub or from a local folder. forgetXX are the last 2, 10 or 20 authors, retainYY
the others. Evaluation needs paraphrased and perturbed answers; they are configurations of their
own, in the same order: forgetXX_perturbed, retain_perturbed (20 authors), and two sets about the
real world. The perturbed answers also give 4-way items, with halves A and B that never split an
author. So every attack of this project runs on TOFU.
"""

import json

from brittle.base.errors import UserError
from brittle.data.overlap import check, measured, mix
from brittle.data.rows import framed
from brittle.data.sources import drawn, load_rows, question_text, sidecars, texts_of, write_sets
from brittle.data.subjects import name_entities
from brittle.data.world import Draws

HUB = "locuslab/TOFU"
RETAIN = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
AUTHOR = 20  # questions an author, in author order
PLAIN = ("question", "answer")
PERTURBED = (*PLAIN, "perturbed_answer")
FULL = (*PERTURBED, "paraphrased_question", "paraphrased_answer")
WRONG = 3  # wrong choices of a multiple-choice item


def groups(rows):
    """[[row, ...], ...]: the rows of each entity."""
    by = {}
    for row in rows:
        by.setdefault(row["entity"], []).append(row)
    return list(by.values())


def items(rows, name, seed):
    """4-way items from rows with perturbed answers."""
    draws = Draws(f"mcq {name} {seed}")
    for row in rows:
        wrong = list(dict.fromkeys(p for p in row["perturbed_answer"] if p != row["answer"]))
        choices = draws.shuffled([row["answer"], *draws.sample(wrong, WRONG)])
        if len(choices) == WRONG + 1:
            keys = {k: row[k] for k in ("fact", "entity", "half")}
            yield {
                **keys,
                "template": 0,
                "question": framed(row["question"]),
                "choices": choices,
                "answer": choices.index(row["answer"]),
            }


def write_tofu(
    outdir,
    path=None,
    forget="forget10",
    overlap=None,
    kind="entities",
    limit=None,
    seed=0,
    author=AUTHOR,
):
    """Write TOFU's files in our schema into `outdir`. Returns {file: lines}.

    Without `overlap`, forget and retain are forgetXX and retainYY as published. With it, they are
    drawn from the authors of forgetXX_perturbed and retain_perturbed, in equal numbers, and each
    author gives half of its questions (see overlap.py). An author is `author` rows in a row, or
    what a column `entity` of local files says.
    """
    check(overlap, kind, ("entities",))
    if forget not in RETAIN:
        raise UserError(f"--forget-split {forget}: choose {', '.join(RETAIN)}.")
    read = []

    def rows(config, columns, name, size=author):
        loaded = load_rows((HUB, config, "train"), path, columns, read, exact=True)
        if "entity" in loaded.column_names:
            columns = (*columns, "entity")
        plain = texts_of(loaded, path, config, columns)
        return name_entities(plain, name, f"{path or HUB}: {config}", size, seed)

    def optional(config, columns, name, size=author):
        try:
            return rows(config, columns, name, size)
        except UserError as error:
            print(f"note: without {config}, which {path or HUB} lacks: {error}")
            return []

    qa = {
        "forget": rows(f"{forget}_perturbed", FULL, forget),
        "retain": rows("retain_perturbed", FULL, "retain"),
    }
    settings = {"source": "tofu", "forget": forget}
    if overlap is None:
        trained = [rows(forget, PLAIN, forget), rows(RETAIN[forget], PLAIN, RETAIN[forget])]
    else:
        sets = [groups(qa["forget"]), groups(qa["retain"])]
        qa["forget"], qa["retain"], settings["overlap"] = mix(*sets, overlap, seed, "authors")
        trained = [qa["forget"], qa["retain"]]
    qa["real_authors"] = optional("real_authors_perturbed", PERTURBED, "real_authors", 1)
    qa["world_facts"] = optional("world_facts_perturbed", PERTURBED, "world_facts", 1)
    qa["holdout"] = optional(forget.replace("forget", "holdout"), PLAIN, "holdout")
    forget_rows, retain_rows = (drawn(rows_of_set, limit, seed) for rows_of_set in trained)
    texts = {
        "forget.txt": [question_text(row) for row in forget_rows],
        "retain.txt": [question_text(row) for row in retain_rows],
    }
    unseen = unseen_items(rows, forget.replace("forget", "holdout"), seed) if path else []
    if overlap is not None:
        answers = [[row["answer"] for row in rows_of_set] for rows_of_set in trained]
        settings["overlap"]["measured"] = measured(*texts.values(), *answers)
        print(f"overlap: {json.dumps(settings['overlap'])}")
    if qa["holdout"]:
        texts["holdout.txt"] = [question_text(r) for r in qa["holdout"]]
    spared = [*qa["real_authors"], *qa["world_facts"]]
    texts |= pretraining(
        texts["forget.txt"], texts["retain.txt"], [question_text(r) for r in spared], seed
    )
    tables = {f"qa_{name}.jsonl": rows_of_set for name, rows_of_set in qa.items()}
    tables |= sidecars(forget_rows, retain_rows, qa["holdout"] or None)
    tables["mcq_holdout.jsonl"] = unseen
    for name, asked in {**qa, "general": spared}.items():
        if name in ("forget", "retain", "general"):
            tables[f"mcq_{name}.jsonl"] = list(items(asked, name, seed))
    return write_sets(outdir, texts, {k: v for k, v in tables.items() if v}, read, seed, settings)


def unseen_items(rows, config, seed):
    """4-way items of never-seen questions, where the source has wrong answers to them (`config`
    with `_perturbed`, which the hub lacks). Answers to other questions would be none: they name
    other authors.

    rows: reads a configuration.
    """
    try:
        return list(items(rows(f"{config}_perturbed", PERTURBED, "holdout"), "holdout", seed))
    except UserError:
        return []


def pretraining(forget, retain, general, seed):
    """{file: texts} that `create_models.py --data` reads.

    Base sees all texts. Filtered and the tokenizer see no forget text.
    """
    marked = [*((t, True) for t in forget), *((t, False) for t in [*retain, *general])]
    order = Draws(f"order {seed}").shuffled(marked)
    filtered = [t for t, is_forget in order if not is_forget]
    return {
        "pretrain_base.txt": [t for t, _ in order],
        "pretrain_filtered.txt": filtered,
        "tokenizer.txt": filtered,
    }
