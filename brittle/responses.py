"""Responses to be rated: CSV or JSONL files with question and response, from one source (a model) or several, in blind order."""

import csv
import random
from pathlib import Path

from brittle.errors import UserError
from brittle.text import read_jsonl

NEEDED = ("question", "response")


def read_responses(named):
    """[{source, item, question, response, ...}] of `NAME=FILE` texts; `reference` or `answer` is the right answer."""
    rows, seen = [], set()
    for pair in named:
        source, found, file = pair.partition("=")
        if not found or not source.strip() or source in seen:
            raise UserError(f"--responses {pair}: NAME=FILE, every name once.")
        seen.add(source)
        path = Path(file)
        if path.suffix == ".csv":
            if not path.is_file():
                raise UserError(f"{path} not found. eval/leakage.py and eval/forget_quality.py write responses.")
            with open(path, newline="", encoding="utf-8") as opened:
                part = list(csv.DictReader(opened))
        else:
            part = read_jsonl(path)
        missing = [k for k in NEEDED if not part or k not in part[0]]
        if missing:
            raise UserError(f"{path} has no {missing[0]}: each row needs {' and '.join(NEEDED)}.")
        rows += [{"item": i, **row, "source": source} for i, row in enumerate(part)]
    return rows


def files(named):
    return [pair.partition("=")[2] for pair in named]


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
        picked += [part[turn] for _, part in sorted(strata.items()) if turn < len(part)][: count - len(picked)]
        turn += 1
    return [rows[i] for i in draw.sample(picked, len(picked))]
