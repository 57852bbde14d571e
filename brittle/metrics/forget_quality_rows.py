"""The rows of forget_quality.csv: means, utility, forget quality, perplexity, others' files."""

from dataclasses import dataclass
from pathlib import Path

import torch

from brittle.data.examples import encode_said
from brittle.data.items import named_rows
from brittle.data.texts import spread
from brittle.maths import intervals
from brittle.metrics import open_unlearning
from brittle.metrics.forget_quality_items import MEANS, METRICS
from brittle.metrics.membership import example_scores
from brittle.metrics.tofu import FEWEST, UTILITY_SETS, forget_quality, mean_over, model_utility
from brittle.models.architectures import context_length

TEXTS = ("forget", "retain", "neutral")


@dataclass
class Row:
    """A row of forget_quality.csv: `value` of a metric on a set, and what stands beside it.

    interval: (low, high), 95 %. n: items. reference: the value of the model that never saw the set.
    note: why a value is missing, or what to know about it.
    """

    metric: str
    set: str
    definition: str
    value: float | None
    interval: tuple = (None, None)
    n: int | None = None
    entities: int | None = None
    reference: float | None = None
    note: str = ""

    def cells(self, name):
        """{column: value} for the model `name`."""
        return {
            "model": name,
            "metric": self.metric,
            "set": self.set,
            "definition": self.definition,
            "value": self.value,
            "ci_low": self.interval[0],
            "ci_high": self.interval[1],
            "n": self.n,
            "entities": self.entities,
            "reference": self.reference,
            "note": self.note,
        }


def by_set(items):
    """{set: its items}."""
    sets = {}
    for item in items:
        sets.setdefault(item["set"], []).append(item)
    return sets


def rows(name, items, others, definition, seed):
    """Yield the rows of one definition for the model `name`.

    `others` are the reference model's items, or {set: truth ratios} of its log, or None.
    """
    logged = others if isinstance(others, dict) else None
    sets = by_set(items)
    theirs = by_set(others) if isinstance(others, list) else {}
    means = {}
    for of, items_of_set in sets.items():
        means[of] = {}
        for row in mean_rows(of, items_of_set, theirs.get(of, []), definition):
            means[of][row.metric] = row.value
            if row.value is not None or METRICS[row.metric].says_skipped:
                yield row.cells(name)
    if any(of in means for of in UTILITY_SETS):
        yield utility_row(means, definition).cells(name)
    forget = sets.get("forget", [])
    reference = of_log(logged["forget"], forget) if logged else theirs.get("forget", [])
    for row in quality_rows(forget, reference, definition, seed):
        yield row.cells(name)


def mean_rows(of, items, others, definition):
    """Yield a `Row` for each of MEANS on one set; `others` are the items of the reference model."""
    entities, their_entities = ([i["entity"] for i in side] for side in (items, others))
    for metric in MEANS:
        value, low, high, n, count = mean_over([i[metric] for i in items], entities)
        reference = mean_over([i[metric] for i in others], their_entities)[0]
        note = "" if value is not None else "skipped: no perturbed answers"
        if metric == "degenerate" and value == 1:
            note = "every generation is empty or repeats itself: the other scores of it say nothing"
        yield Row(metric, of, definition.name, value, (low, high), n, count, reference, note)


def utility_row(means, definition):
    """The `Row` of model utility, from {set: {metric: mean}}."""
    sets = {
        of: {
            "probability": means[of]["probability" if of == "retain" else "option_probability"],
            "rouge": means[of][f"rouge_l_{definition.rouge}"],
            "truth_ratio": means[of]["truth_score"],
        }
        for of in UTILITY_SETS
        if of in means
    }
    value, missing = model_utility(sets)
    note = f"skipped: {missing}" if missing else ""
    if value == 0:
        zero = [f"{of} {term}" for of in sets for term, mean in sets[of].items() if mean <= 0]
        note = f"0 because a harmonic mean is 0 where one term is: {', '.join(zero)}"
    return Row("model_utility", "utility", definition.name, value, note=note)


def of_log(ratios, items):
    """Items {truth_ratio, entity} of a log, which names no entities.

    Where the log has as many items as ours, they are taken to be the same ones.
    """
    same = len(items) == len(ratios)
    return [
        {"truth_ratio": ratio, "entity": items[i]["entity"] if same else f"log {i}"}
        for i, ratio in enumerate(ratios)
    ]


def known_ratios(items):
    """(truth ratios, entities) of the items that have one."""
    known = [item for item in items if item["truth_ratio"] is not None]
    return [item["truth_ratio"] for item in known], [item["entity"] for item in known]


def why_no_test(ours, theirs):
    """Why forget quality cannot be computed from two lists of truth ratios; "" where it can be."""
    if not ours:
        return "skipped: no truth ratio of forget items"
    if not theirs:
        return "skipped: no --reference, a model that never saw the forget set"
    if min(len(ours), len(theirs)) < FEWEST:
        return f"skipped: {len(ours)} and {len(theirs)} items, fewer than {FEWEST}"
    return ""


def quality_rows(items, others, definition, seed):
    """Yield the `Row`s of forget quality, from the forget items of the model and of its reference.

    They are TOFU's p over items, the distance D with its interval over entities, and the p of a
    permutation of entities.
    """
    ours, entities = known_ratios(items)
    theirs, their_entities = known_ratios(others)
    about = {"set": "forget", "definition": definition.name}
    skipped = why_no_test(ours, theirs)
    if skipped:
        for metric in ("forget_quality_d", "forget_quality_entities", "forget_quality"):
            yield Row(metric, **about, value=None, note=skipped)
        return
    test = forget_quality(ours, theirs, entities, their_entities, seed=seed)
    n, count, p_entities = test["n"], test["entities"], test["p_entities"]
    note = (
        f"{n} items tell a distance D from 0 where it is above {test['detectable']:.3f}: "
        "with few items a high p says little"
    )
    if test["p"] < 1e-16:
        note += "; p < 1e-16"
    if test["identical"]:
        note = "identical truth ratios: is the model its own reference?"
    few = note if p_entities is not None else f"skipped: {count} entities, fewer than {FEWEST}"
    ends = test["d_low"], test["d_high"]
    about |= {"n": n}
    yield Row(
        "forget_quality_d", **about, value=test["d"], interval=ends, entities=count, note=note
    )
    yield Row("forget_quality_entities", **about, value=p_entities, entities=count, note=few)
    yield Row("forget_quality", **about, value=max(test["p"], 1e-16), note=note)


def perplexity_items(model, tokenizer, data, settings):
    """Yield an item for each text of forget.txt, retain.txt and neutral.txt.

    It has set, index, entity, tokens (those predicted) and nll (nats a token). Of a file with more
    than `max_samples` texts a sample spread over it is read.
    """
    limit = context_length(model.config)
    for of in TEXTS:
        path = data / f"{of}.txt"
        if not path.is_file():
            continue
        rows, about = zip(*spread(named_rows(path), settings.max_samples), strict=True)
        told = encode_said(tokenizer, rows, limit, settings.reading, f"{of} texts", about)
        known = [example for example in told if len(example) > 1]
        scored = example_scores(model, known, tokenizer.pad_token_id, settings.batch_size)
        for index, (example, (own, _)) in enumerate(zip(known, scored, strict=True)):
            yield {
                "set": f"{of}.txt",
                "index": index,
                "entity": example.entity,
                "definition": "paper",
                "tokens": len(own),
                "nll": -float(own.mean()),
            }


def perplexity_rows(name, items):
    """Yield exp of the mean NLL a token over each set's texts, with a bootstrap over entities.

    `n` counts tokens. Where the data do not name entities, each text is one.
    """
    for of, texts in by_set(items).items():
        counts = torch.tensor([i["tokens"] for i in texts], dtype=torch.float64)
        sums = counts * torch.tensor([i["nll"] for i in texts], dtype=torch.float64)
        units = [text["entity"] for text in texts]
        weights = intervals.resample(units, 1000, 0, of)
        drawn = ((weights @ sums) / (weights @ counts)).exp()
        interval = intervals.quantiles(drawn, intervals.count_units(units))
        value, n = float((sums.sum() / counts.sum()).exp()), int(counts.sum())
        entities = intervals.count_units(units)
        yield Row("perplexity", of, "paper", value, interval, n, entities).cells(name)


def imported_rows(path):
    """Yield the rows of another's TOFU_EVAL.json or MUSE_EVAL.json.

    A note says where a file's own items give another number than the file.
    """
    for name, metric in open_unlearning.read(path).items():
        value, anew = metric["agg_value"], open_unlearning.recomputed(name, metric)
        n = len(metric.get("value_by_index") or {}) or None
        note = ""
        if anew is not None and value is not None and abs(anew - value) > 1e-6:
            note = f"its items give {anew:.6g}"
        yield Row(name, "", "as read", value, n=n, note=note).cells(Path(path).stem)
