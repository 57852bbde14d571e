"""What making a model cost, as its record says it; no model is loaded."""

import json
from pathlib import Path

COST = ("flops", "label_share", "train_seconds", "peak_memory_mb")
UNLEARNED, TRAINED = "training_history.run.json", "model.run.json"


def read_cost(path):
    """{name of COST: number} of the record of a training; None where it does not say it."""
    try:
        stated = json.loads(Path(path).read_text(encoding="utf-8"))["settings"].get("cost") or {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        stated = {}
    return {name: stated.get(name) for name in COST}


def cost_of(model):
    """`read_cost` of a model's folder, made by unlearn/unlearn.py or create_models.py."""
    files = [Path(model) / name for name in (UNLEARNED, TRAINED)]
    return read_cost(next((file for file in files if file.is_file()), files[0]))


def with_teacher(cost, model, beside):
    """`cost` of a training, with what the models cost that it learned from.

    model: the folder that it starts from: itself unlearned or not. beside: {name: folder} of
    others. FLOPs add up; `flops_before` are theirs, None where a record does not say them. Of the
    labels the largest share counts: they are of the same texts.
    """
    read = [folder for folder in beside.values() if Path(folder) != Path(model)]
    started = Path(model) / UNLEARNED
    costs = [cost_of(folder) for folder in read]
    costs += [read_cost(started)] if started.is_file() else []
    before = [one["flops"] for one in costs]
    shares = [cost["label_share"], *(one["label_share"] for one in costs)]
    total = None if None in before else sum(before)
    return cost | {
        "flops": cost["flops"] + (total or 0),
        "flops_before": total,
        "label_share": None if None in shares else max(shares),
    }
