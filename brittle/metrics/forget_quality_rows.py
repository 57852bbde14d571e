"""The rows of eval/forget_quality.py: means over entities, model utility, forget quality, perplexity, and others' files."""

from pathlib import Path

import torch

from brittle.data.batches import encode
from brittle.data.texts import read_texts
from brittle.maths import intervals
from brittle.metrics import open_unlearning
from brittle.metrics.forget_quality_items import MEANS, METRICS
from brittle.metrics.membership import token_scores
from brittle.metrics.tofu import FEWEST, UTILITY_SETS, forget_quality, mean_over, model_utility
from brittle.models.architectures import context_length

TEXTS = ("forget", "retain", "neutral")


def row(
    name,
    metric,
    of,
    definition,
    value,
    interval=(None, None),
    n=None,
    entities=None,
    reference=None,
    note="",
):
    return {"model": name, "metric": metric, "set": of, "definition": definition, "value": value, "ci_low": interval[0],
            "ci_high": interval[1], "n": n, "entities": entities, "reference": reference, "note": note}  # fmt: skip


def by_set(items):
    found = {}
    for item in items:
        found.setdefault(item["set"], []).append(item)
    return found


def rows(name, items, others, d, seed):
    """Rows of one definition. `others` are the reference model's items, or {set: truth ratios} of its log, or None."""
    sets, theirs = by_set(items), by_set(others) if isinstance(others, list) else {}
    means = {}
    for of, part in sets.items():
        entities, means[of] = [i["entity"] for i in part], {}
        for metric in MEANS:
            value, low, high, n, count = mean_over([i[metric] for i in part], entities)
            means[of][metric] = value
            if value is None and not METRICS[metric].says_skipped:
                continue
            other = mean_over(
                [i[metric] for i in theirs.get(of, [])], [i["entity"] for i in theirs.get(of, [])]
            )[0]
            note = "" if value is not None else "skipped: no perturbed answers"
            if metric == "degenerate" and value == 1:
                note = "every generation is empty or repeats itself: the other scores of it say nothing"
            yield row(name, metric, of, d.name, value, (low, high), n, count, other, note)
    yield from utility_rows(name, means, d)
    yield from quality_rows(
        name,
        sets.get("forget"),
        others if isinstance(others, dict) else theirs.get("forget"),
        d,
        seed,
    )


def utility_rows(name, means, d):
    if not any(s in means for s in UTILITY_SETS):
        return
    parts = {
        s: {
            "probability": means[s]["probability" if s == "retain" else "option_probability"],
            "rouge": means[s][f"rouge_l_{d.rouge}"],
            "truth_ratio": means[s]["truth_score"],
        }
        for s in UTILITY_SETS
        if s in means
    }
    value, missing = model_utility(parts)
    yield row(
        name,
        "model_utility",
        "utility",
        d.name,
        value,
        note=f"skipped: {missing}" if missing else "",
    )


def of_log(ratios, part):
    """Items {truth_ratio, entity} of a log, which names no entities: where it has as many items, they are the same."""
    same = len(part or []) == len(ratios)
    return [
        {"truth_ratio": r, "entity": part[i]["entity"] if same else f"log {i}"}
        for i, r in enumerate(ratios)
    ]


def known_ratios(items):
    """(truth ratios, entities) of the items that have one."""
    known = [i for i in items or [] if i["truth_ratio"] is not None]
    return [i["truth_ratio"] for i in known], [i["entity"] for i in known]


def quality_rows(name, part, others, d, seed):
    """Forget quality: TOFU's p, the distance D with its interval over entities, and the p of a permutation of entities."""
    why, found = "", None
    ours, names = known_ratios(part)
    logged, theirs = known_ratios(
        of_log(others["forget"], part) if isinstance(others, dict) else others
    )
    if not ours:
        why = "skipped: no truth ratio of forget items"
    elif not logged:
        why = "skipped: no --reference, a model that never saw the forget set"
    elif min(len(ours), len(logged)) < FEWEST:
        why = f"skipped: {len(ours)} and {len(logged)} items, fewer than {FEWEST}"
    else:
        found = forget_quality(ours, logged, names, theirs, seed=seed)
        why = f"the smallest D that {found['n']} items tell from 0 is {found['detectable']:.3f}"
        why += "; p < 1e-16" if found["p"] < 1e-16 else ""
        why = (
            "identical truth ratios: is the model its own reference?" if found["identical"] else why
        )
    value, ends, n = (
        (found["d"], (found["d_low"], found["d_high"]), found["n"])
        if found
        else (None, (None, None), None)
    )
    count, p = (found["entities"], found["p_entities"]) if found else (None, None)
    few = f"skipped: {count} entities, fewer than {FEWEST}" if found and p is None else why
    yield row(name, "forget_quality_d", "forget", d.name, value, ends, n, count, note=why)
    yield row(name, "forget_quality_entities", "forget", d.name, p, n=n, entities=count, note=few)
    yield row(
        name,
        "forget_quality",
        "forget",
        d.name,
        max(found["p"], 1e-16) if found else None,
        n=n,
        note=why,
    )


def perplexity_items(model, tokenizer, data, settings):
    """An item a text of forget.txt, retain.txt and neutral.txt: set, index, tokens (predicted) and nll (a token)."""
    for of in TEXTS:
        path = data / f"{of}.txt"
        if not path.is_file():
            continue
        ids = encode(
            tokenizer,
            read_texts(path, settings.max_samples),
            context_length(model.config),
            f"{of} texts",
        )
        tokens = token_scores(
            model, [i for i in ids if len(i) > 1], tokenizer.pad_token_id, settings.batch_size
        )
        for index, (own, _) in enumerate(tokens):
            yield {
                "set": f"{of}.txt",
                "index": index,
                "definition": "paper",
                "tokens": len(own),
                "nll": -float(own.mean()),
            }


def perplexity_rows(name, items):
    """exp of the mean NLL a token over each set's texts, with a bootstrap over texts; `n` counts tokens."""
    for of, part in by_set(items).items():
        counts = torch.tensor([i["tokens"] for i in part], dtype=torch.float64)
        sums = counts * torch.tensor([i["nll"] for i in part], dtype=torch.float64)
        weights = intervals.resample(len(part), 1000, 0, of)
        low, high = intervals.quantiles(((weights @ sums) / (weights @ counts)).exp())
        yield row(
            name,
            "perplexity",
            of,
            "paper",
            float((sums.sum() / counts.sum()).exp()),
            (low, high),
            int(counts.sum()),
            len(part),
        )


def imported_rows(path):
    """The rows of another's TOFU_EVAL.json or MUSE_EVAL.json, each beside what its own items give."""
    for metric, found in open_unlearning.read(path).items():
        anew, n = (
            open_unlearning.recomputed(metric, found),
            len(found.get("value_by_index") or {}) or None,
        )
        differs = (
            anew is not None
            and found["agg_value"] is not None
            and abs(anew - found["agg_value"]) > 1e-6
        )
        note = f"its items give {anew:.6g}" if differs else ""
        yield row(Path(path).stem, metric, "", "as read", found["agg_value"], n=n, note=note)
