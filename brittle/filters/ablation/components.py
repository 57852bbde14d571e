"""What the filter's choices are worth: components and sites."""

from dataclasses import replace

import torch

from brittle.data.items import groups_of
from brittle.filters.basis import MOST, shared
from brittle.filters.fit import has_gradients, make_filter
from brittle.filters.gate import threshold
from brittle.filters.strength import within
from brittle.filters.target import Choice
from brittle.maths.intervals import auc, share
from brittle.metrics import mcq
from brittle.models.blocks import block_count
from brittle.models.filter import block_of
from brittle.models.readout import BehindBlock

KS = (1, 2, 4, 8, 16, 32, 64, 128)  # directions to compare
FALSE_ALARMS = 0.003  # share of retain and general tokens that may trip a gate here
SPLITS = ("forget", "retain", "general")
READINGS = ("auc", "known", "forget_nll", "retain_kl", "retain_kl_p90")
PARETO = [
    "site",
    "basis",
    "gated",
    "k",
    "strength",
    "forget_accuracy",
    "forget_low",
    "forget_high",
    "retain_accuracy",
    "general_accuracy",
    "n",
    *READINGS,
    "status",
]
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


def at_budget(tuner, chosen, limits):
    """The filter at the largest strength within the limits, its gate's threshold set."""
    if chosen.gate is not None:
        quiet = tuner.quiet_scores(chosen)
        chosen = replace(chosen, threshold=threshold(quiet, FALSE_ALARMS))
    points = 9 if block_of(chosen.site) is None else 5
    convex = tuner.is_convex(chosen.site)
    curve = tuner.curve(chosen)
    return chosen.at(within(curve, limits, convex=convex, points=points, tolerance=0.01))


def shares_right(bench, chosen):
    """{split: intervals.Share} of right answers of the hooked model on the bench's questions."""
    right = mcq.right_answers(bench.model, bench.tokenizer, chosen, bench.items)
    return {split: share(hits, groups_of(bench.items[split])) for split, hits in right.items()}


def pareto_row(bench, chosen, limits):
    """The row of pareto.csv of one filter at its strength, but for the name of its basis."""
    reading, shares = bench.tuner.read(chosen), shares_right(bench, chosen)
    accuracies = {
        f"{split}_accuracy": shares[split].share if split in shares else None for split in SPLITS
    }
    return {
        "site": chosen.site,
        "gated": int(chosen.gate is not None),
        "k": chosen.k,
        "strength": chosen.strength,
        **accuracies,
        "forget_low": shares["forget"].low,
        "forget_high": shares["forget"].high,
        "n": len(bench.items["forget"]),
        **{column: reading[column] for column in READINGS},
        "status": Choice(chosen, reading, limits, chosen.strength < 1).status,
    }


def pareto_rows(bench, bases, limits):
    """Yield a row a site, basis, gate and k, each at its own largest strength.

    So bases compare at an equal retain budget. bases: [(name, gated)].
    """
    for site in bench.sites:
        width = bench.moments.forget[site].width
        for basis, gated in bases:
            if not has_gradients(basis, site):
                continue
            whole = make_filter(
                bench.model, bench.moments, site, basis=basis, k=width, gated=gated
            ).to(bench.model.device)
            for k in KS:
                if k > whole.k:
                    break
                chosen = at_budget(bench.tuner, whole.first(k), limits)
                yield {"basis": basis, **pareto_row(bench, chosen, limits), "k": k}
                if whole.read is not None:  # an oblique filter has one size
                    break


def lens_after(model, tokenizer, chosen, items):
    """The highest accuracy that the logit lens has at any layer of the filtered model."""
    return max(
        mcq.accuracy(BehindBlock(model, layer, chosen), tokenizer, items)
        for layer in range(block_count(model))
    )


def site_rows(bench, limits):
    """Yield a row a site, with a gated filter at work there.

    lens_after: forget accuracy of the logit lens at its best layer behind that filter.
    """
    ratios = bench.moments.ratios()
    for site in bench.sites:
        forget, retain = (bench.tuner.caches[name].tokens(site) for name in ("forget", "retain"))
        whole = make_filter(bench.model, bench.moments, site, gated=True).to(bench.model.device)
        chosen = at_budget(bench.tuner, whole, limits)
        both = torch.cat([forget, retain])
        labels = torch.cat([torch.ones(len(forget)), torch.zeros(len(retain))])
        moments = bench.moments.forget[site], bench.moments.retain[site]
        difference = moments[0].mean - moments[1].mean
        shares = shares_right(bench, chosen)
        yield {
            "site": site,
            "ratio": ratios[site],
            "probe_auc": auc((both.double() @ difference).cpu(), labels),
            "overlap": shared(*moments, min(MOST, len(difference))),
            "gate_auc": auc(chosen.score(both).cpu(), labels),
            "k": chosen.k,
            "forget_accuracy": shares["forget"].share,
            "retain_accuracy": shares["retain"].share,
            "lens_after": lens_after(bench.model, bench.tokenizer, chosen, bench.items["forget"]),
        }
