"""Responses to be rated, from one source (a model) or several, in blind order.

They stand in CSV or JSONL files with question and response, or prompt and output, as infer.py
--sweep writes them.
"""

import random
from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.tables import read_cells
from brittle.data.texts import read_jsonl

NEEDED = ("question", "response")
ALSO = {"question": "prompt", "response": "output"}  # the names that infer.py --sweep gives them
WRITERS = "eval/leakage.py and infer.py --sweep write responses"


def read_responses(named):
    """[{source, item, question, response, ...}] of NAME=FILE or NAME=FOLDER; `reference` or
    `answer` is the right one.
    """
    rows, seen = [], set()
    for pair in named:
        source, equals, path = pair.partition("=")
        if not equals or not source.strip() or source in seen:
            raise UserError(f"--responses {pair}: NAME=FILE or NAME=FOLDER, every name once.")
        seen.add(source)
        own = one_model([row for file in files_at(path) for row in read_file(file)], source, path)
        rows += [{"item": i, **row, "source": source} for i, row in enumerate(own)]
    return rows


def files_at(path):
    """The file at `path`, or all CSVs of the folder at `path`."""
    if not Path(path).is_dir():
        return [Path(path)]
    tables = sorted(Path(path).glob("*.csv"))
    if not tables:
        raise UserError(f"{path} holds no CSV. {WRITERS}.")
    return tables


def read_file(path):
    """Rows of a CSV or JSONL file, each with NEEDED."""
    if path.suffix == ".csv":
        if not path.is_file():
            raise UserError(f"{path} not found. {WRITERS}.")
        rows = read_cells(path)
    else:
        rows = read_jsonl(path)
    return [renamed(row, path) for row in rows] or [renamed({}, path)]


def renamed(row, path):
    """The row with question and response under these names."""
    row = row if isinstance(row, dict) else {}
    for name, other in ALSO.items():
        if name not in row and other in row:
            row = {**row, name: row[other]}
        if name not in row:
            raise UserError(
                f"{path} has no {name}: each row needs {' and '.join(NEEDED)} "
                f"(or {' and '.join(ALSO.values())})."
            )
    return row


def one_model(rows, source, path):
    """The rows whose `model` is `source`; all, where they are of one model or name none. Raises
    UserError where it is open.
    """
    models = list(dict.fromkeys(row["model"] for row in rows if row.get("model")))
    if source in models:
        return [row for row in rows if row.get("model") == source]
    if len(models) > 1:
        names = ", ".join(models)
        raise UserError(
            f"--responses {source}={path}: of several models, none called {source}. "
            f"NAME must be one of: {names}."
        )
    return rows


def files(named):
    return [file for pair in named for file in files_at(pair.partition("=")[2])]


def blind(rows, seed=0, count=None, stratify=("source",)):
    """The rows in an order drawn by `seed`; with `count`, about as many of each stratum."""
    draw = random.Random(f"blind {seed}")
    order = draw.sample(range(len(rows)), len(rows))
    if count is None or count >= len(rows):
        return [rows[i] for i in order]
    strata = {}
    for i in order:
        strata.setdefault(tuple(str(rows[i].get(k)) for k in stratify), []).append(i)
    picked, turn = [], 0
    while len(picked) < count:
        picked += [members[turn] for _, members in sorted(strata.items()) if turn < len(members)][
            : count - len(picked)
        ]
        turn += 1
    return [rows[i] for i in draw.sample(picked, len(picked))]
