"""Fit filters: moments of the states from one forward pass, then bases in closed form."""

from dataclasses import dataclass, field

import torch

from brittle.base.errors import UserError
from brittle.filters.basis import MOST, SELECTIVE, make_basis, ratio, take_tensors
from brittle.filters.gate import quadratic
from brittle.filters.states import collect, passes
from brittle.maths.moments import Moments
from brittle.maths.precision import wide
from brittle.models.architectures import architecture, logit_step
from brittle.models.blocks import stream_width
from brittle.models.filter import Filter, block_of

WIDEST = 512  # components of a gated filter


@dataclass
class FilterMoments:
    """What filters are fitted from, each {site: Moments}.

    `forget`, `retain`: of the states that predict answer tokens. `everything`: of all retain and
    general tokens, for the gate. `gradients`, {forget, retain: Moments}, is for the basis `loss`.
    `known` keeps the expensive facts of a site, {site: {ratio, overlap}}.
    """

    forget: dict
    retain: dict
    everything: dict
    gradients: dict = field(default_factory=dict)
    known: dict = field(default_factory=dict)

    def ratios(self):
        """{site: the largest forget-to-retain energy ratio of any direction}."""
        return {site: ratio(self.forget[site], self.retain[site]) for site in self.forget}


def moments_of(model, examples, pad_id, sites, batch_size=64):
    """The FilterMoments of examples {forget, retain, general?: [FilterText]}.

    General text counts as retain text.
    """
    everything = {site: Moments(stream_width(model), model.device) for site in sites}
    forget = collect(model, examples["forget"], pad_id, sites, batch_size)
    retain = collect(model, examples["retain"], pad_id, sites, batch_size, everything)
    if examples.get("general"):
        general = collect(model, examples["general"], pad_id, sites, batch_size, everything)
        retain = {site: retain[site].merge(general[site]) for site in sites}
    return FilterMoments(forget, retain, everything)


def gradients(model, examples, pad_id, batch_size=64):
    """{forget, retain: Moments} of d NLL / d y at the final site: W^T (p - e_t), where the logits
    are what the unembedding gives.

    They are free from the forward pass. examples: {forget, retain: [FilterText]}.
    """
    head, step = model.get_output_embeddings(), logit_step(model.config)
    moments = {}
    for name in ("forget", "retain"):
        moments[name] = Moments(stream_width(model), model.device)
        batches = passes(model, examples[name], pad_id, ["post_norm"], batch_size)
        for _, batch, predicting, seen in batches:
            raw = wide(head.forward(seen["post_norm"][predicting]))
            following = batch["input_ids"].roll(-1, 1)[predicting]
            moments[name].update(nll_gradient(raw, following, step) @ wide(head.weight))
    return moments


def nll_gradient(raw, following, step):
    """d NLL / d raw [n, V] of the summed NLL of the tokens `following` [n] under step(raw)."""
    with torch.enable_grad():
        raw = raw.detach().requires_grad_()
        nll = torch.nn.functional.cross_entropy(step(raw), following, reduction="sum")
        return torch.autograd.grad(nll, raw)[0]


def has_gradients(basis, site):
    """`loss` has a closed form behind the final norm alone; every other basis has one anywhere."""
    return basis != "loss" or site == "post_norm"


def check_site(basis, site):
    """Raise UserError for a basis that has no closed form at a site."""
    if not has_gradients(basis, site):
        raise UserError(
            f"--basis loss needs --site post_norm ({site}'s gradients are not in the forward "
            "pass). Or use gep."
        )


def refuse(about, site, others):
    """Raise UserError where a basis cannot be selective.

    about: the filter's facts; others() gives {site: ratio} of all sites, to name a better one.
    """
    first, forget, retain = about["ratio"], about["energy_forget"], about["energy_retain"]
    if about["basis"] != "nspu_released" and first >= SELECTIVE and forget > retain:
        return
    elsewhere = {other: value for other, value in others().items() if other != site}
    best = max(elsewhere, key=elsewhere.get) if elsewhere else None
    if best and elsewhere[best] >= max(SELECTIVE, first):
        way = f"{best} could (ratio {elsewhere[best]:.1f}): --site {best}"
    else:
        way = "no other site is better: use --gate"
    if first < SELECTIVE:
        what = (
            f"no direction at {site} has {SELECTIVE:g} times the forget energy of retain energy "
            f"(largest ratio {first:.2f})"
        )
    else:
        what = (
            f"{about['basis']} at {site} holds {retain:.2f} of the retain energy "
            f"and {forget:.2f} of the forget energy"
        )
        way = f"--basis gep, or {way}"
    raise UserError(
        f"this filter cannot be selective: {what}; {way}. --force writes it all the same."
    )


def make_filter(model, moments, site, *, basis="auto", k=None, gated=False, about=None):
    """The Filter of one site, untuned (strength 1, every component), on the CPU in float32.

    moments: FilterMoments. basis auto is gep, or pca behind a gate. k None leaves the number to
    the basis. `about` is added to the facts that filter.json holds.
    """
    forget, retain = moments.forget[site], moments.retain[site]
    known = moments.known.get(site)
    if basis == "auto":
        basis = "pca" if gated else "gep"
        k = k or min(forget.width, WIDEST if gated else MOST)
    if basis == "loss":
        gradient = moments.gradients
        u, facts = make_basis(basis, gradient["forget"], gradient["retain"], k)
    else:
        u, facts = make_basis(basis, forget, retain, k, known)
    if basis == "gep":
        moments.known[site] = {"ratio": facts["ratio"], "overlap": facts["overlap"]}
    tensors = take_tensors(facts)
    if gated:
        # what is left of a token that trips the gate is the average forget state
        tensors.setdefault("offset", forget.mean.float().cpu())
        gate, curve = quadratic(forget, moments.everything[site])
        tensors |= {"gate": gate.float().cpu(), "curve": curve.float().cpu()}
    facts = {"architecture": architecture(model.config), **facts, **(about or {})}
    return Filter(site, u.float().cpu(), 1.0, about=facts, **tensors)


def bakes_first(site):
    """Sites sorted by this: what bakes into stock classes first, then the later blocks."""
    block = block_of(site)
    if block is None:
        block = 10**6 + (site == "post_norm")
    return -block


def fit_candidates(model, moments, sites, *, basis="auto", k=None, gate=None, about=None):
    """{(site, gated): Filter}: ungated ones first, then by `bakes_first`.

    gate None makes both kinds. See `make_filter` for the others.
    """
    kinds = (False, True) if gate is None else (gate,)
    candidates = {}
    for gated in kinds:
        for site in sorted(sites, key=bakes_first):
            if has_gradients(basis, site):
                candidates[site, gated] = make_filter(
                    model, moments, site, basis=basis, k=k, gated=gated, about=about
                )
    return candidates


def selective(candidates, others, *, several):
    """The candidates that can be selective; see `refuse` for `others`.

    A gate needs no selective direction. Of `several` sites the bad ones are left out; a single one
    is refused: then this raises UserError, as it does where no candidate is left.
    """
    accepted, refused = {}, None
    for (site, gated), chosen in candidates.items():
        try:
            if not gated:
                refuse(chosen.about, site, others)
            accepted[site, gated] = chosen
        except UserError as error:
            if not several:
                raise
            refused = error
    if not accepted:
        raise refused
    return accepted
