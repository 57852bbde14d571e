"""Fit filters: moments of forget and retain states from one forward pass over each set, then every basis in closed form."""

from types import SimpleNamespace

from brittle.base.errors import UserError
from brittle.filters.basis import MOST, SELECTIVE, make_basis, ratio
from brittle.filters.gate import quadratic
from brittle.filters.states import collect, passes
from brittle.maths.moments import Moments
from brittle.models.architectures import architecture
from brittle.models.filter import Filter, block_of

WIDEST = 512  # components of a gated filter


def moments_of(model, examples, pad_id, sites, batch_size=64):
    """.forget, .retain {site: Moments of the answer-predicting states} and .everything {site: of all retain and general tokens}.

    examples: {forget, retain, general?: [Example]}; general text counts as retain text.
    """
    everything = {site: Moments(model.config.hidden_size, model.device) for site in sites}
    forget = collect(model, examples["forget"], pad_id, sites, batch_size)
    retain = collect(model, examples["retain"], pad_id, sites, batch_size, everything)
    if examples.get("general"):
        general = collect(model, examples["general"], pad_id, sites, batch_size, everything)
        retain = {site: retain[site].merge(general[site]) for site in sites}
    return SimpleNamespace(forget=forget, retain=retain, everything=everything, known={})


def gradients(model, examples, pad_id, batch_size=64):
    """Moments of d NLL / d y = W^T (p - e_t) at the final site, free from the forward pass."""
    import torch

    from brittle.maths.precision import wide

    head = model.get_output_embeddings()
    found = Moments(model.config.hidden_size, model.device)
    for _, batch, mask, seen in passes(model, examples, pad_id, ["post_norm"], batch_size):
        p = wide(head.forward(seen["post_norm"][mask])).softmax(-1)
        following = batch["input_ids"].roll(-1, 1)[mask]
        p[torch.arange(len(p), device=p.device), following] -= 1
        found.update(p @ wide(head.weight))
    return found


def check(name, site):
    """`loss` has a closed form behind the final norm alone."""
    if name == "loss" and site != "post_norm":
        raise UserError(
            f"--basis loss needs --site post_norm ({site}'s gradients are not in the forward pass). Or use gep."
        )


def ratios(found):
    """{site: the largest forget-to-retain energy ratio of any direction}."""
    return {site: ratio(found.forget[site], found.retain[site]) for site in found.forget}


def refuse(about, site, others):
    """Raise UserError where a basis cannot be selective; `others()` gives {site: ratio} of the blocks, to name a better one."""
    first, energies = about["ratio"], (about["energy_forget"], about["energy_retain"])
    if about["basis"] != "nspu_released" and first >= SELECTIVE and energies[0] > energies[1]:
        return
    elsewhere = {s: r for s, r in others().items() if s != site}
    best = max(elsewhere, key=elsewhere.get) if elsewhere else None
    way = (
        f"{best} could (ratio {elsewhere[best]:.1f}): --site {best}" if best and elsewhere[best] >= max(SELECTIVE, first)
        else "no other site is better: use --gate"
    )  # fmt: skip
    if first < SELECTIVE:
        what = f"no direction at {site} has {SELECTIVE:g} times the forget energy of retain energy (largest ratio {first:.2f})"
    else:
        what = f"{about['basis']} at {site} holds {energies[1]:.2f} of the retain energy and {energies[0]:.2f} of the forget energy"
        way = f"--basis gep, or {way}"
    raise UserError(
        f"this filter cannot be selective: {what}; {way}. --force writes it all the same."
    )


def make(model, found, site, basis, k, gated, about):
    """The Filter of one site, untuned (strength 1, every component), on the CPU in float32."""
    forget, retain = found.forget[site], found.retain[site]
    name = basis if basis != "auto" else "pca" if gated else "gep"
    if basis == "auto":
        k = k or (min(forget.width, WIDEST) if gated else min(forget.width, MOST))
    source = (found.loss_forget, found.loss_retain) if name == "loss" else (forget, retain)
    known = (
        found.known.get(site) if name != "loss" else None
    )  # eigenvalues are the expensive part of wide models
    u, facts = make_basis(name, *source, k, known)
    if name == "gep":
        found.known[site] = {"ratio": facts["ratio"], "overlap": facts["overlap"]}
    extra = {key: facts.pop(key).float().cpu() for key in ("read", "offset") if key in facts}
    if gated:
        extra.setdefault(
            "offset", forget.mean.float().cpu()
        )  # what is left of a gated token is the average forget token
        w, curve = quadratic(forget, found.everything[site])
        extra |= {"gate": w.float().cpu(), "curve": curve.float().cpu()}
    facts = {"architecture": architecture(model.config), **facts, **about}
    return Filter(site, u.float().cpu(), 1.0, about=facts, **extra)


def candidates(model, found, sites, basis="auto", k=None, gate=None, about=None):
    """{(site, gated): Filter}: ungated ones first, the sites that bake into stock classes first. gate None: both kinds."""
    made = {}
    for gated in (False, True):
        if gate is not None and gated != gate:
            continue
        for site in sorted(
            sites,
            key=lambda s: -(block_of(s) if block_of(s) is not None else 10**6 + (s == "post_norm")),
        ):
            if basis == "loss" and site != "post_norm":
                continue
            made[site, gated] = make(model, found, site, basis, k, gated, about or {})
    return made


def selective(made, others, several):
    """The candidates that can be selective. A gate needs no selective direction; of several sites the bad ones are left out,
    a single one is refused."""
    kept, refused = {}, None
    for (site, gated), one in made.items():
        try:
            if not gated:
                refuse(one.about, site, others)
            kept[site, gated] = one
        except UserError as error:
            if not several:
                raise
            refused = error
    if not kept:
        raise refused
    return kept
