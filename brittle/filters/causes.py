"""Why a filter can forget the retain set instead: each cause measured on the model at hand, with its fix."""

import torch

from brittle.filters.basis import SELECTIVE
from brittle.filters.states import passes
from brittle.maths.moments import Moments
from brittle.maths.precision import wide

COLUMNS = ["cause", "measure", "forget", "retain", "value", "limit", "applies", "fix"]


def margins(cache):
    """Median over answer positions of the unfiltered model's lead, log p of the first minus the second choice."""
    lead = [(top := base.topk(2).values)[:, 0] - top[:, 1] for _, _, _, base, _ in cache.parts]
    return float(torch.cat(lead).median())


def energies(made, cache, site):
    """[rows] share of each answer-predicting state's squared norm that a strength of 1 would remove, at `site`."""
    found = []
    for _, mask, kept, _, _ in cache.parts:
        h = wide(kept[site][mask] if kept[site].dim() == 3 else kept[site])
        found.append(
            (h.square().sum(1) - (h - made.component(h)).square().sum(1)) / h.square().sum(1)
        )
    return torch.cat(found)


def share(made, moments):
    """Energy share of moments inside the filter's basis."""
    u = made.basis.double().to(moments.products.device)
    return float((u.T @ moments.second @ u).trace() / moments.second.trace())


def pooled(model, examples, pad_id, site):
    """Moments of mean states, one a text: what a prompt-level fit sees."""
    found = Moments(model.config.hidden_size, model.device)
    for _, batch, _, seen in passes(model, examples, pad_id, [site]):
        mask = batch["attention_mask"][..., None]
        found.update((wide(seen[site]) * mask).sum(1) / mask.sum(1))
    return found


def scale(made, energy):
    """[rows] how much a norm behind the filter enlarges what is left: 1 / sqrt(1 - (2 a - a^2) energy)."""
    a = made.strength
    return (1 - (2 * a - a * a) * energy).clamp_min(1e-6).rsqrt()


def _row(cause, measure, value, limit, applies, fix, forget=None, retain=None):
    return {"cause": cause, "measure": measure, "forget": forget, "retain": retain, "value": value, "limit": limit,
            "applies": None if applies is None else int(applies), "fix": fix}  # fmt: skip


def causes(tuner, made, forget, applied=None, pad_id=0, examples=None):
    """Yield a row a cause. forget: Moments of the forget states at the filter's site; `applied`: the site it is hooked at."""
    about, site, caches = made.about, made.site, tuner.caches
    applied = applied or site
    f, r = (energies(made, caches[n], site).double() for n in ("forget", "retain"))
    ratio = about.get("ratio")
    gated = made.gate is not None
    shared = float(r.mean()) >= float(f.mean()) or (ratio is not None and ratio < SELECTIVE)
    yield _row("i shared directions", "mean energy that is removed, and the largest ratio of any direction", ratio, SELECTIVE,
               shared and not gated, "--basis gep or nullspace; another site", float(f.mean()), float(r.mean()))  # fmt: skip
    lead = [margins(caches[n]) for n in ("forget", "retain")]
    yield _row("ii order of fine-tuning", "median lead of the first choice, nats, before filtering", lead[1] / lead[0], 0.8,
               lead[1] < 0.8 * lead[0], "fine-tune jointly or replay some retain text; choose by margins", *lead)  # fmt: skip
    basis = made.basis.double()
    p = (basis if made.read is None else made.read.double()) @ basis.T
    error = float(torch.linalg.norm(p @ p - p) / torch.linalg.norm(p))
    yield _row("iii not a projection", "||P^2 - P|| / ||P|| of what is removed", error, 1e-3, error > 1e-3,
               "build the filter from an orthonormal basis (any --basis but nspu_released)")  # fmt: skip
    here = share(made, forget)
    there = here if applied == site else float(energies(made, caches["forget"], applied).mean())
    yield _row("iv wrong space", f"forget energy in the basis: fitted at {site}, at work at {applied}", there, here / 2,
               applied != site, "fit and hook at the same site", here, there)  # fmt: skip
    grown = scale(made, r.clamp(0, 1))
    high = float(grown.quantile(0.9))
    yield _row("v renormalisation", "90th percentile of what a norm enlarges retain states by", high, 1.5,
               site != "post_norm" and not gated and high > 1.5, "--site post_norm; a smaller strength")  # fmt: skip
    yield _row(
        "vi reflection", "strength", made.strength, 1.0, made.strength > 1, "strength at most 1"
    )
    if examples is not None:
        whole = share(made, pooled(tuner.model, examples, pad_id, site))
        yield _row("vii pooled statistics", "energy in the basis: text means over answer positions", whole / max(here, 1e-9), 2.0,
                   whole > 2 * here, "fit on the states that predict answer tokens", here, whole)  # fmt: skip
    within = about.get("within_template_variance")
    applies = None if within is None else within < 0.05
    yield _row("viii the MLP gives the template's mean", "variance of its output within a template", within, 0.05, applies,
               "residual or contrastive training, or accept forgetting by topic")  # fmt: skip
    curve = tuner.curve(made)
    slope = (curve(0.01)["forget_nll"] - curve(0.0)["forget_nll"]) / 0.01
    yield _row(
        "ix helps first",
        "slope of the forget NLL at strength 0",
        slope,
        0.0,
        slope < -1e-3,
        "another basis or site",
    )


def outcome(reading):
    """Does the filter do the opposite: more KL on retain than on forget text?"""
    return reading["retain_kl"] > reading["forget_kl"]
