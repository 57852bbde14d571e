"""TOFU_EVAL.json and MUSE_EVAL.json, the files of open-unlearning: read, checked, and written.

A file is {metric: {"agg_value": x, "value_by_index": {"0": {...}, ...}}}. An item of a probability
is {"prob", "avg_loss"}, one of ROUGE {"rouge1_recall", "rougeL_f1", "rougeL_recall", "generation",
"ground_truth"}, any other {"score"}.
"""

import json
import math
from pathlib import Path

from brittle.base.errors import UserError

FILES = {"tofu": "TOFU_EVAL.json", "muse": "MUSE_EVAL.json"}
SHORT = {"forget": "forget", "retain": "retain", "real_authors": "ra", "world_facts": "wf"}
MUSE = {
    "verbmem": "forget_verbmem_ROUGE",
    "knowmem_forget": "forget_knowmem_ROUGE",
    "knowmem_retain": "retain_knowmem_ROUGE",
}


def read(path):
    """{metric: {"agg_value", "value_by_index"}} of a file. Raises UserError for anything else."""
    try:
        metrics = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as an evaluation file ({str(error)[:100]})."
        ) from None
    well_formed = isinstance(metrics, dict) and all(
        isinstance(metric, dict) and "agg_value" in metric for metric in metrics.values()
    )
    if not metrics or not well_formed:
        raise UserError(
            f"{path} is no TOFU_EVAL.json or MUSE_EVAL.json: each metric needs an agg_value."
        )
    return metrics


def scores(metric, keys=("score", "prob", "rougeL_recall")):
    """The per-item values of one metric, in the order of their index; None where an item has none.

    The first of `keys` that an item has is its value.
    """
    items = sorted((metric.get("value_by_index") or {}).items(), key=lambda pair: int(pair[0]))
    return [
        next((item[key] for key in keys if isinstance(item, dict) and key in item), None)
        for _, item in items
    ]


def recomputed(name, metric):
    """The aggregate made anew from the items, or None where it cannot be.

    It is their mean; a truth ratio's is the mean of the scores that its items stand for.
    """
    rouge = "rougeL_f1" if name in MUSE.values() else "rougeL_recall"
    values = scores(metric, ("prob", rouge, "score"))
    known = [v for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
    if not known:
        return None
    if "truth_ratio" in name.lower():
        if name.startswith("forget"):
            known = [min(v, 1 / (v + 1e-10)) for v in known]
        else:
            known = [max(0.0, 1 - v) for v in known]
    return math.fsum(known) / len(known)


def _metric(items, mean_of, **names):
    """One metric of a file: the mean of the items' `mean_of`, and {their name: ours} an item."""
    known = [item[mean_of] for item in items if item[mean_of] is not None]
    by_index = {
        str(item["index"]): {theirs: item[ours] for theirs, ours in names.items()} for item in items
    }
    aggregate = math.fsum(known) / len(known) if known else None
    return {"agg_value": aggregate, "value_by_index": by_index}


ROUGE = {
    "rouge1_recall": "rouge_1_recall",
    "rougeL_f1": "rouge_l_f1",
    "rougeL_recall": "rouge_l_recall",
    "ground_truth": "gold",
    "generation": "generation",
}


def _tofu_metrics(name, items):
    """{their metric: its entry} of one of TOFU's sets."""
    short = SHORT[name]
    metrics = {
        f"{short}_Q_A_Prob": _metric(items, "probability", prob="probability", avg_loss="nll"),
        f"{short}_Q_A_ROUGE": _metric(items, "rouge_l_recall", **ROUGE),
    }
    if any(item["truth_ratio"] is not None for item in items):
        ratio = "forget_truth_ratio" if name == "forget" else f"{short}_Truth_Ratio"
        metrics[ratio] = _metric(items, "truth_score", score="truth_ratio")
    if name in ("real_authors", "world_facts"):
        normalised = _metric(items, "option_probability", prob="option_probability")
        metrics[f"{short}_Q_A_Prob_normalised"] = normalised
    if name == "forget":
        exact = _metric(items, "exact_memorisation", score="exact_memorisation")
        strength = _metric(items, "extraction_strength", score="extraction_strength")
        metrics |= {"exact_memorization": exact, "extraction_strength": strength}
    return metrics


def make(items, utility=None, quality=None):
    """{"tofu": {...}, "muse": {...}} by open-unlearning's names, from forget_quality_items.items.

    utility and quality are model utility and forget quality; None leaves them out.
    """
    sets = {}
    for item in items:
        sets.setdefault(item["set"], []).append(item)
    tofu, muse = {}, {}
    for name, items_of_set in sets.items():
        if name in MUSE:
            muse[MUSE[name]] = _metric(items_of_set, "rouge_l_f1", **ROUGE)
        else:
            tofu |= _tofu_metrics(name, items_of_set)
    if tofu and utility is not None:
        tofu["model_utility"] = {"agg_value": utility}
    if tofu and quality is not None:
        tofu["forget_quality"] = {"agg_value": quality}
    schemas = {"tofu": tofu, "muse": muse}
    return {schema: metrics for schema, metrics in schemas.items() if metrics}


def write(path, metrics):
    """Write one schema of `make`."""
    Path(path).write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
