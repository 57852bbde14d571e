"""What a filter does to cached states, at any strength: the readings that a search goes by.

One forward pass fills the cache. Only what comes after the filter's site is computed again.

Behind the final norm the logits are affine in the strength a, z(a) = z0 - a z1. So NLL and
KL(base || filtered) are convex in a, and the KL does not decrease for a >= 0: the strengths within
a limit are an interval from 0, and bisection finds its end exactly. Where the family caps its
logits (Gemma 2) they are not affine, and a grid is read first.
"""

from typing import NamedTuple

import torch

from brittle.base.errors import UserError
from brittle.filters.states import no_logits, passes, watching
from brittle.filters.target import RIVALS
from brittle.maths.intervals import auc
from brittle.maths.precision import wide
from brittle.models.architectures import has_soft_cap, logit_step
from brittle.models.blocks import final_norm
from brittle.models.filter import block_of
from brittle.models.hooks import resume
from brittle.models.logprobs import kl_rows
from brittle.models.readout import unembed


class CachedBatch(NamedTuple):
    """One batch of examples; its n rows are the positions that predict answer tokens."""

    inputs: dict  # {input_ids, attention_mask ...} [B, T]
    predicting: torch.Tensor  # [B, T] bool
    states: dict  # {site: [n, d]; at a block, whose later blocks see all tokens, [B, T, d]}
    base: torch.Tensor  # [n, V] log-probabilities of the unfiltered model
    following: torch.Tensor  # [n] the next tokens
    starts: torch.Tensor  # [n] bool: the first row of each answer
    rivals: torch.Tensor  # [n, RIVALS] the likeliest other tokens of the unfiltered model

    def tokens(self, site):
        """[m, d]: the states of all real tokens at a block, of the rows at the norm's sites."""
        h = self.states[site]
        return h[self.inputs["attention_mask"].bool()] if h.dim() == 3 else h

    def rows(self, site):
        """[n, d]: the states of the rows at any site."""
        h = self.states[site]
        return h[self.predicting] if h.dim() == 3 else h

    def nll(self):
        """[n]: the unfiltered model's loss of the next tokens."""
        return -self.base.gather(1, self.following[:, None])[:, 0]


class Cache:
    """Base log-probabilities and states at `sites` of some examples, batch by batch."""

    def __init__(self, model, examples, pad_id, sites, batch_size):
        self.examples, self.batches, owners = examples, [], []
        self.group = torch.tensor([example.group for example in examples])
        self.asked = torch.tensor([example.asked for example in examples])
        wanted = list(dict.fromkeys([*sites, "post_norm"]))
        for indices, inputs, predicting, seen in passes(
            model, examples, pad_id, wanted, batch_size
        ):
            self.batches.append(cached(model, inputs, predicting, seen))
            owners.append(
                torch.tensor(indices, device=predicting.device)[predicting.nonzero()[:, 0]]
            )
        self.owner = torch.cat(owners).cpu()  # [rows] the example of each
        self.count = torch.bincount(self.owner, minlength=len(examples)).clamp_min(1)

    def by_example(self, values):
        """Means [examples] of values [rows], float64."""
        sums = torch.zeros(len(self.count), dtype=torch.float64)
        return sums.index_add_(0, self.owner, values.cpu().double()) / self.count

    def order(self):
        """The examples in the order of the batches."""
        return torch.tensor(list(dict.fromkeys(self.owner.tolist())))

    def tokens(self, site):
        """[n, d]: the states of all real tokens at a block, of the rows at the norm's sites."""
        return torch.cat([batch.tokens(site) for batch in self.batches])


def cached(model, inputs, predicting, seen):
    """The CachedBatch of one forward pass; seen: {site: states [B, T, d]}."""
    states = {site: h[predicting] if block_of(site) is None else h for site, h in seen.items()}
    base = wide(unembed(model, states["post_norm"])).log_softmax(-1)
    following = inputs["input_ids"].roll(-1, 1)[predicting]
    others = base.scatter(1, following[:, None], -torch.inf)
    return CachedBatch(
        inputs=inputs,
        predicting=predicting,
        states=states,
        base=base,
        following=following,
        starts=(predicting & (predicting.cumsum(1) == 1))[predicting],
        rivals=others.topk(min(RIVALS, base.shape[1] - 1)).indices,
    )


def beats(logits, following, rivals):
    """[n] share of the rows' next tokens that lie above all their rivals [n, m].

    Ties count as chance.
    """
    own = logits.gather(1, following[:, None])
    others = logits.gather(1, rivals)
    tied = (others == own).sum(1)
    return (others <= own).all(1).double() / (tied + 1)


def losses_of(logits, base, following):
    """(NLL [n], KL(base || logits) [n]) of rows.

    logits [n, V]; base [n, V] log-probabilities; following [n], the next tokens.
    """
    logprobs = wide(logits).log_softmax(-1)
    nll = -logprobs.gather(1, following[:, None])[:, 0]
    return nll, kl_rows(base, logprobs).clamp_min(0)


class Tuner:
    """Reads filters off cached states.

    sets: {forget, retain, general?, unseen?: [FilterText]}. A reading is the dict that target.py
    describes.
    """

    def __init__(self, model, sets, pad_id, sites, batch_size=64):
        for name in ("forget", "retain"):
            if not sets.get(name):
                raise UserError(f"no {name} text to choose a strength on. Give at least one.")
        self.model = model
        self.caches = {
            name: Cache(model, examples, pad_id, sites if name != "unseen" else (), batch_size)
            for name, examples in sets.items()
        }
        self.unseen = self.reference()

    def reference(self):
        """(loss [n], asked [n]) of never-seen text in the unfiltered model.

        Without such text it is general text; without that too, None.
        """
        cache = self.caches.get("unseen") or self.caches.get("general")
        if cache is None:
            return None
        nll = torch.cat([batch.nll() for batch in cache.batches])
        return cache.by_example(nll), cache.asked

    def quiet_scores(self, chosen):
        """[scores [n]] of the gate on text that it must leave alone: retain, and general text."""
        return [
            chosen.score(self.caches[name].tokens(chosen.site))
            for name in ("retain", "general")
            if name in self.caches
        ]

    def tail(self, site, h, batch):
        """What the unembedding reads [n, d] at the rows of a CachedBatch.

        h: states at a site, [n, d] at the norm's sites and [B, T, d] at a block.
        """
        if site == "post_norm":
            return h
        if site == "pre_norm":
            return final_norm(self.model)(h)
        with (
            watching(self.model, ["post_norm"]) as seen,
            no_logits(self.model) as run,
            resume(self.model, block_of(site), h),
        ):
            run(**batch.inputs)
        return seen["post_norm"][batch.predicting]

    def logits(self, chosen, batch):
        """[n, V]: the filtered model's logits at the rows of a CachedBatch."""
        h = chosen(batch.states[chosen.site])
        return unembed(self.model, self.tail(chosen.site, h, batch))

    def read(self, chosen):
        """The reading of a filter at its strength."""
        return self.reading(lambda name, i: self.logits(chosen, self.caches[name].batches[i]))

    def is_convex(self, site):
        """Are readings convex in a filter's strength at a site?"""
        return site == "post_norm" and not has_soft_cap(self.model.config)

    def curve(self, chosen):
        """strength -> reading of a filter."""
        if chosen.site == "post_norm":
            return self.affine(chosen)
        return lambda strength: self.read(chosen.at(strength))

    def affine(self, chosen):
        """strength -> reading of a post-norm filter.

        z0 and z1 are computed once; each strength is one subtraction.
        """
        head, full = self.model.get_output_embeddings(), chosen.at(1.0)
        step = logit_step(self.model.config)
        weight = wide(head.weight)
        unfiltered, removed = {}, {}
        for name, cache in self.caches.items():
            for i, batch in enumerate(cache.batches):
                y = wide(batch.states["post_norm"])
                component = full.component(y) * full.fires(y)[:, None]
                unfiltered[name, i] = wide(head.forward(batch.states["post_norm"]))
                removed[name, i] = component @ weight.T
        return lambda strength: self.reading(
            lambda name, i: step(unfiltered[name, i] - strength * removed[name, i])
        )

    @torch.no_grad()
    def reading(self, logits):
        """The reading of logits(name of the set, number of the batch), [n, V] each."""
        reading = {}
        for name, cache in self.caches.items():
            if name == "unseen":
                continue
            rows, firsts = [], []
            for i, batch in enumerate(cache.batches):
                z = logits(name, i)
                rows.append(losses_of(z, batch.base, batch.following))
                if name == "forget":
                    at = batch.starts
                    firsts.append(beats(wide(z[at]), batch.following[at], batch.rivals[at]))
            nll, kl = (cache.by_example(torch.cat(column)) for column in zip(*rows, strict=True))
            reading[f"{name}_nll"], reading[f"{name}_kl"] = float(nll.mean()), float(kl.mean())
            if name == "forget":
                reading["auc"] = self.auc(nll)
                reading["known"] = share_known(cache, torch.cat(firsts).cpu())
            if name == "retain":
                reading["retain_kl_p90"] = high_over_stretches(cache, kl)
        return reading

    def auc(self, nll):
        """P(a never-seen text's loss > a forget text's), from the losses [n] of the forget texts.

        1 is known, 0.5 as if never seen, below that more than forgotten. Questions are compared
        with questions and statements with statements, where both sides have them. None without
        text to compare with.
        """
        if self.unseen is None:
            return None
        losses, asked = self.unseen
        forget_asked = self.caches["forget"].asked
        by_kind = []  # (AUC, number of forget texts)
        for kind in (True, False):
            unseen, forget = losses[asked == kind], nll[forget_asked == kind]
            if len(unseen) and len(forget):
                by_kind.append((auc_of(unseen, forget), len(forget)))
        if not by_kind:
            return auc_of(losses, nll)
        return sum(value * n for value, n in by_kind) / sum(n for _, n in by_kind)


def auc_of(ones, zeros):
    """P(a value of `ones` > a value of `zeros`), ties counting half."""
    labels = torch.cat([torch.ones(len(ones)), torch.zeros(len(zeros))])
    return auc(torch.cat([ones, zeros]), labels)


def share_known(cache, firsts):
    """Share of answers whose first token beats its rivals; of questions, where there are some.

    firsts: [examples] in the order of the batches, see `beats`.
    """
    known = torch.zeros(len(cache.count), dtype=torch.float64)
    known[cache.order()] = firsts
    asked = cache.asked if cache.asked.any() else torch.ones_like(cache.asked)
    return float(known[asked].mean())


def high_over_stretches(cache, values):
    """90th percentile, over stretches of a file, of the mean of values [examples]."""
    means = [float(values[cache.group == group].mean()) for group in cache.group.unique()]
    return float(torch.tensor(means, dtype=torch.float64).quantile(0.9))
