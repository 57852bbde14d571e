"""Why a filter can forget the retain set instead: each cause is measured, with its fix."""

import torch

from brittle.filters.basis import SELECTIVE, energy
from brittle.filters.states import passes
from brittle.maths.moments import Moments
from brittle.maths.precision import wide
from brittle.models.blocks import stream_width

COLUMNS = ["cause", "measure", "forget", "retain", "value", "limit", "applies", "fix"]


def median_lead(cache):
    """Median over answer positions of the unfiltered model's lead, in nats.

    The lead is log p of the first choice minus log p of the second.
    """
    leads = []
    for batch in cache.batches:
        top = batch.base.topk(2).values
        leads.append(top[:, 0] - top[:, 1])
    return float(torch.cat(leads).median())


def energies(chosen, cache, site):
    """[rows] share of each answer-predicting state's squared norm that a strength of 1 removes.

    The states are those at `site`.
    """
    shares = []
    for batch in cache.batches:
        h = wide(batch.rows(site))
        whole = h.square().sum(1)
        left = (h - chosen.component(h)).square().sum(1)
        shares.append((whole - left) / whole)
    return torch.cat(shares)


def share(chosen, moments):
    """Energy share of Moments inside the filter's basis."""
    return energy(chosen.basis.double().to(moments.products.device), moments.second)


def pooled(model, examples, pad_id, site):
    """Moments of mean states, one a text: what a fit on whole prompts sees."""
    moments = Moments(stream_width(model), model.device)
    for _, batch, _, seen in passes(model, examples, pad_id, [site]):
        mask = batch["attention_mask"][..., None]
        moments.update((wide(seen[site]) * mask).sum(1) / mask.sum(1))
    return moments


def scale(chosen, energy_shares):
    """[rows] how much a norm behind the filter enlarges what is left of a state.

    It is 1 / sqrt(1 - (2 a - a^2) e) for the strength a and energy shares e [rows].
    """
    a = chosen.strength
    return (1 - (2 * a - a * a) * energy_shares).clamp_min(1e-6).rsqrt()


def cause(name, measure, value, limit, *, applies, fix, forget=None, retain=None):
    """A row of causes.csv; applies is None where the cause cannot be measured."""
    return {
        "cause": name,
        "measure": measure,
        "forget": forget,
        "retain": retain,
        "value": value,
        "limit": limit,
        "applies": None if applies is None else int(applies),
        "fix": fix,
    }


def causes(tuner, chosen, forget, applied=None, pad_id=0, examples=None):
    """Yield a row a cause.

    forget: Moments of the forget states at the filter's site. applied: the site that it is hooked
    at. examples: the forget texts, for pooling.
    """
    about, site = chosen.about, chosen.site
    applied = applied or site
    forget_cache, retain_cache = tuner.caches["forget"], tuner.caches["retain"]
    forget_shares = energies(chosen, forget_cache, site).double()
    retain_shares = energies(chosen, retain_cache, site).double()
    gated = chosen.gate is not None
    yield shared_directions(about.get("ratio"), forget_shares, retain_shares, gated=gated)
    yield order_of_training(median_lead(forget_cache), median_lead(retain_cache))
    yield not_a_projection(chosen)
    here = share(chosen, forget)
    there = here
    if applied != site:
        there = float(energies(chosen, forget_cache, applied).mean())
    yield cause(
        "iv wrong space",
        f"forget energy in the basis: fitted at {site}, at work at {applied}",
        there,
        here / 2,
        applies=applied != site,
        fix="fit and hook at the same site",
        forget=here,
        retain=there,
    )
    enlarged = float(scale(chosen, retain_shares.clamp(0, 1)).quantile(0.9))
    yield cause(
        "v renormalisation",
        "90th percentile of what a norm enlarges retain states by",
        enlarged,
        1.5,
        applies=site != "post_norm" and not gated and enlarged > 1.5,
        fix="--site post_norm; a smaller strength",
    )
    yield cause(
        "vi reflection",
        "strength",
        chosen.strength,
        1.0,
        applies=chosen.strength > 1,
        fix="strength at most 1",
    )
    if examples is not None:
        whole = share(chosen, pooled(tuner.model, examples, pad_id, site))
        yield cause(
            "vii pooled statistics",
            "energy in the basis: text means over answer positions",
            whole / max(here, 1e-9),
            2.0,
            applies=whole > 2 * here,
            fix="fit on the states that predict answer tokens",
            forget=here,
            retain=whole,
        )
    within = about.get("within_template_variance")
    yield cause(
        "viii the MLP gives the template's mean",
        "variance of its output within a template",
        within,
        0.05,
        applies=None if within is None else within < 0.05,
        fix="residual or contrastive training, or accept forgetting by topic",
    )
    yield helps_first(tuner.curve(chosen))


def shared_directions(ratio, forget_shares, retain_shares, *, gated):
    forget, retain = float(forget_shares.mean()), float(retain_shares.mean())
    shared = retain >= forget or (ratio is not None and ratio < SELECTIVE)
    return cause(
        "i shared directions",
        "mean energy that is removed, and the largest ratio of any direction",
        ratio,
        SELECTIVE,
        applies=shared and not gated,
        fix="--basis gep or nullspace; another site",
        forget=forget,
        retain=retain,
    )


def order_of_training(forget_lead, retain_lead):
    return cause(
        "ii order of fine-tuning",
        "median lead of the first choice, nats, before filtering",
        retain_lead / forget_lead,
        0.8,
        applies=retain_lead < 0.8 * forget_lead,
        fix="fine-tune jointly or replay some retain text; choose by margins",
        forget=forget_lead,
        retain=retain_lead,
    )


def not_a_projection(chosen):
    basis = chosen.basis.double()
    p = (basis if chosen.read is None else chosen.read.double()) @ basis.T
    error = float(torch.linalg.norm(p @ p - p) / torch.linalg.norm(p))
    return cause(
        "iii not a projection",
        "||P^2 - P|| / ||P|| of what is removed",
        error,
        1e-3,
        applies=error > 1e-3,
        fix="build the filter from an orthonormal basis (any --basis but nspu_released)",
    )


def helps_first(curve):
    slope = (curve(0.01)["forget_nll"] - curve(0.0)["forget_nll"]) / 0.01
    return cause(
        "ix helps first",
        "slope of the forget NLL at strength 0",
        slope,
        0.0,
        applies=slope < -1e-3,
        fix="another basis or site",
    )


def is_opposite(reading):
    """Does the filter do the opposite: more KL on retain than on forget text?"""
    return reading["retain_kl"] > reading["forget_kl"]
