"""TOFU_EVAL.json and MUSE_EVAL.json, the files of open-unlearning: read, checked against their own items, and written.

A file is {metric: {"agg_value": x, "value_by_index": {"0": {...}, ...}}}. Per item: {"prob", "avg_loss"} for probabilities,
{"rouge1_recall", "rougeL_f1", "rougeL_recall", "generation", "ground_truth"} for ROUGE, {"score"} for the others.
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
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as an evaluation file ({str(error)[:100]})."
        ) from None
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(v, dict) and "agg_value" in v for v in found.values())
    ):
        raise UserError(
            f"{path} is no TOFU_EVAL.json or MUSE_EVAL.json: each metric needs an agg_value."
        )
    return found


def scores(metric, kind=("score", "prob", "rougeL_recall")):
    """The per-item values of one metric, in the order of their index; None where an item has none."""
    found = sorted((metric.get("value_by_index") or {}).items(), key=lambda pair: int(pair[0]))
    return [next((v[k] for k in kind if isinstance(v, dict) and k in v), None) for _, v in found]


def recomputed(name, metric):
    """The aggregate made anew from the items, where it is a mean of them (a truth ratio's is not); None where it cannot be."""
    values = scores(
        metric, ("prob", "rougeL_f1" if name in MUSE.values() else "rougeL_recall", "score")
    )
    known = [v for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
    if not known:
        return None
    if "truth_ratio" in name.lower():
        forget = name.startswith("forget")
        known = [min(v, 1 / (v + 1e-10)) if forget else max(0.0, 1 - v) for v in known]
    return math.fsum(known) / len(known)


def _values(items, agg, **names):
    by_index = {str(i["index"]): {theirs: i[ours] for theirs, ours in names.items()} for i in items}
    return {"agg_value": agg, "value_by_index": by_index}


def _mean(items, key):
    known = [i[key] for i in items if i[key] is not None]
    return math.fsum(known) / len(known) if known else None


def make(items, utility=None, quality=None):
    """{"tofu": {...}, "muse": {...}} of the per-item values of quality.items, by open-unlearning's names."""
    by_set = {}
    for item in items:
        by_set.setdefault(item["set"], []).append(item)
    tofu, muse = {}, {}
    rouge = {"rouge1_recall": "rouge_1_recall", "rougeL_f1": "rouge_l_f1", "rougeL_recall": "rouge_l_recall",
             "ground_truth": "gold", "generation": "generation"}  # fmt: skip
    for name, part in by_set.items():
        if name in MUSE:
            muse[MUSE[name]] = _values(part, _mean(part, "rouge_l_f1"), **rouge)
            continue
        short = SHORT[name]
        tofu[f"{short}_Q_A_Prob"] = _values(
            part, _mean(part, "probability"), prob="probability", avg_loss="nll"
        )
        tofu[f"{short}_Q_A_ROUGE"] = _values(part, _mean(part, "rouge_l_recall"), **rouge)
        if any(i["truth_ratio"] is not None for i in part):
            ratio = "forget_truth_ratio" if name == "forget" else f"{short}_Truth_Ratio"
            tofu[ratio] = _values(part, _mean(part, "truth_score"), score="truth_ratio")
        if name in ("real_authors", "world_facts"):
            normal = _values(part, _mean(part, "option_probability"), prob="option_probability")
            tofu[f"{short}_Q_A_Prob_normalised"] = normal
        if name == "forget":
            for theirs, ours in (
                ("exact_memorization", "exact_memorisation"),
                ("extraction_strength", "extraction_strength"),
            ):
                tofu[theirs] = _values(part, _mean(part, ours), score=ours)
    if tofu and utility is not None:
        tofu["model_utility"] = {"agg_value": utility}
    if tofu and quality is not None:
        tofu["forget_quality"] = {"agg_value": quality}
    return {name: made for name, made in (("tofu", tofu), ("muse", muse)) if made}


def write(path, made):
    Path(path).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
