"""What the filter's choices are worth: components, sites."""

from dataclasses import replace

from brittle.data.items import groups_of
from brittle.filters.fit import make
from brittle.filters.gate import threshold
from brittle.filters.search import Choice
from brittle.filters.tuning import within
from brittle.maths.intervals import share
from brittle.metrics import mcq
from brittle.models.filter import block_of
from brittle.models.readout import BehindBlock

KS = (1, 2, 4, 8, 16, 32, 64, 128)
PARETO = ["site", "basis", "gated", "k", "strength", "forget_accuracy", "forget_low", "forget_high", "retain_accuracy",
          "general_accuracy", "n", "auc", "known", "forget_nll", "retain_kl", "retain_kl_p90", "status"]  # fmt: skip
SITES = [
    "site",
    "ratio",
    "probe_auc",
    "overlap",
    "gate_auc",
    "forget_accuracy",
    "retain_accuracy",
    "lens_after",
    "k",
]


def at_budget(tuner, made, limits):
    """The filter at the largest strength within the limits; a gate's threshold at one false alarm in 300 tokens."""
    if made.gate is not None:
        quiet = [
            made.score(tuner.caches[n].tokens(made.site))
            for n in ("retain", "general")
            if n in tuner.caches
        ]
        made = replace(made, threshold=threshold(quiet, 0.003))
    points = 9 if block_of(made.site) is None else 5
    return made.at(
        within(
            tuner.curve(made),
            limits,
            convex=made.site == "post_norm",
            points=points,
            tolerance=0.01,
        )
    )


def accuracies(model, tokenizer, made, items):
    """{split: Share} of right answers of the hooked model on {split: items}."""
    right = mcq.right_answers(model, tokenizer, made, items)
    return {split: share(answers, groups_of(items[split])) for split, answers in right.items()}


def pareto(tuner, tokenizer, found, sites, bases, limits, items):
    """Yield a row a site, basis, gate and k, each at its own largest strength: bases compare at equal retain budget."""
    for site in sites:
        for name, gated in bases:
            if name == "loss" and site != "post_norm":
                continue
            whole = make(tuner.model, found, site, name, found.forget[site].width, gated, {}).to(
                tuner.model.device
            )
            for k in [k for k in KS if k <= whole.k]:
                made = at_budget(tuner, whole.first(k), limits)
                reading, scores = tuner.read(made), accuracies(tuner.model, tokenizer, made, items)
                yield {
                    "site": site, "basis": name, "gated": int(gated), "k": k, "strength": made.strength,
                    **{f"{s}_accuracy": scores[s].share if s in scores else None for s in ("forget", "retain", "general")},
                    "forget_low": scores["forget"].low, "forget_high": scores["forget"].high, "n": len(items["forget"]),
                    **{c: reading[c] for c in ("auc", "known", "forget_nll", "retain_kl", "retain_kl_p90")},
                    "status": Choice(made, reading, limits, made.strength < 1).status,
                }  # fmt: skip
                if whole.read is not None or k == whole.k:
                    break


def lens_after(model, tokenizer, made, items):
    """Highest multiple-choice accuracy that the logit lens has at any layer of the filtered model."""
    return max(
        mcq.accuracy(BehindBlock(model, k, made), tokenizer, items)
        for k in range(model.config.num_hidden_layers)
    )
