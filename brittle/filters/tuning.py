"""What a filter does to cached states at every strength, and the strength that follows: a hard retain limit, then forget
loss matched to never-seen text. One forward pass fills the cache; what comes after the site is all that is computed again.

Behind the final norm the logits are affine in the strength, z(a) = z0 - a z1, so NLL and KL(base || filtered) are convex in a
and KL does not decrease for a >= 0: the strengths within a limit are an interval from 0, and bisection finds its end exactly.
"""

import math
from dataclasses import dataclass

import torch

from brittle.base.errors import UserError
from brittle.filters.states import no_logits, passes, watching
from brittle.maths.intervals import auc
from brittle.maths.precision import wide
from brittle.models.blocks import final_norm
from brittle.models.filter import block_of
from brittle.models.hooks import resume
from brittle.models.logprobs import kl_rows

RIVALS = 9  # a known answer token still beats so many runners-up of the unfiltered model
KNOWN = 0.05  # excess over chance (one in ten) at which an answer counts as no longer known


@dataclass
class Limits:
    """Nats a token that the KL from the unfiltered model may reach: on retain text (mean, and the 90th percentile over
    stretches of it), and on general text (mean)."""

    retain: float = 0.05
    general: float = 0.02

    def excess(self, reading):
        """How far a reading lies beyond the limits, in nats; 0 or less is within, infinite where a number is not finite."""
        over = [reading["retain_kl"] - self.retain, reading["retain_kl_p90"] - self.retain]
        over += [reading["general_kl"] - self.general] if "general_kl" in reading else []
        return max(over) if all(map(math.isfinite, over)) else math.inf


class Cache:
    """Base log-probabilities and site states of some examples, per batch; rows are the predicting positions."""

    def __init__(self, model, examples, pad_id, sites, batch_size):
        self.examples, self.parts, self.rivals, owners = examples, [], [], []
        whole = [s for s in sites if block_of(s) is not None]
        wanted = list(dict.fromkeys([*sites, "post_norm"]))
        for indices, batch, mask, seen in passes(model, examples, pad_id, wanted, batch_size):
            kept = {site: seen[site] if site in whole else seen[site][mask] for site in wanted}
            base = wide(model.get_output_embeddings().forward(kept["post_norm"])).log_softmax(-1)
            following = batch["input_ids"].roll(-1, 1)[mask]
            starts = (mask & (mask.cumsum(1) == 1))[mask]  # the first position of each answer
            others = (
                base.scatter(1, following[:, None], -torch.inf)
                .topk(min(RIVALS, base.shape[1] - 1))
                .indices
            )
            self.parts.append((batch, mask, kept, base, following))
            self.rivals.append((starts, others))
            owners.append(torch.tensor(indices, device=mask.device)[mask.nonzero()[:, 0]])
        self.owner = torch.cat(owners).cpu()
        self.count = torch.bincount(self.owner, minlength=len(examples)).clamp_min(1)
        self.group = torch.tensor([e.group for e in examples])
        self.asked = torch.tensor([e.asked for e in examples])

    def by_example(self, values):
        """Means [examples] of values [rows], float64."""
        return (
            torch.zeros(len(self.count), dtype=torch.float64).index_add_(
                0, self.owner, values.cpu().double()
            )
            / self.count
        )

    def order(self):
        """The examples in the order of the batches."""
        return torch.tensor(list(dict.fromkeys(self.owner.tolist())))

    def tokens(self, site):
        """[n, d]: the states of all real tokens at a block, of the predicting positions at the norm's sites."""
        return torch.cat([h[batch["attention_mask"].bool()] if h.dim() == 3 else h
                          for batch, _, kept, _, _ in self.parts for h in [kept[site]]])  # fmt: skip


def beats(logits, following, rivals):
    """[n] share of the rows' next tokens that lie above all their rivals [n, m]; ties count as chance."""
    own = logits.gather(1, following[:, None])
    others = logits.gather(1, rivals)
    tied = (others == own).sum(1)
    return (others <= own).all(1).double() / (tied + 1)


def losses_of(logits, base, following):
    """(NLL [n], KL(base || logits) [n]) of rows, from logits [n, V], base log-probabilities [n, V], next tokens [n]."""
    logprobs = wide(logits).log_softmax(-1)
    nll = -logprobs.gather(1, following[:, None])[:, 0]
    return nll, kl_rows(base, logprobs).clamp_min(0)


class Tuner:
    """Reads filters off the cached states of `sets` {forget, retain, general?, unseen?: [Example]}."""

    def __init__(self, model, sets, pad_id, sites, batch_size=64):
        for name in ("forget", "retain"):
            if not sets.get(name):
                raise UserError(f"no {name} text to choose a strength on. Give at least one.")
        self.model, self.caches = model, {
            name: Cache(model, chosen, pad_id, sites if name != "unseen" else (), batch_size) for name, chosen in sets.items()
        }  # fmt: skip
        self.unseen = self.reference()

    def reference(self):
        """(loss [n], asks [n]) of never-seen text in the unfiltered model; without any, of general text; or None."""
        cache = self.caches.get("unseen") or self.caches.get("general")
        if cache is None:
            return None
        nll = [
            -base.gather(1, following[:, None])[:, 0] for _, _, _, base, following in cache.parts
        ]
        return cache.by_example(torch.cat(nll)), cache.asked

    def tail(self, site, h, batch, mask):
        """What the unembedding reads [n, d] at the predicting positions, from the states at `site`."""
        if site == "post_norm":
            return h
        if site == "pre_norm":
            return final_norm(self.model)(h)
        with (
            watching(self.model, ["post_norm"]) as seen,
            no_logits(self.model) as run,
            resume(self.model, block_of(site), h),
        ):
            run(**batch)
        return seen["post_norm"][mask]

    def logits(self, made, part):
        batch, mask, kept, _, _ = part
        return self.model.get_output_embeddings().forward(
            self.tail(made.site, made(kept[made.site]), batch, mask)
        )

    def read(self, made):
        """The reading of a filter at its strength; see `reading`."""
        return self._read(lambda name, i, part: self.logits(made, part))

    def affine(self, made):
        """strength -> reading of a post-norm filter: z0 and z1 are computed once, each strength is one subtraction."""
        head, full = self.model.get_output_embeddings(), made.at(1.0)
        weight = wide(head.weight)
        cached = {}
        for name, cache in self.caches.items():
            for i, part in enumerate(cache.parts):
                y = wide(part[2]["post_norm"])
                removed = (full.component(y) * full.fires(y)[:, None]) @ weight.T
                cached[name, i] = wide(head.forward(part[2]["post_norm"])), removed

        def at(strength):
            return self._read(
                lambda name, i, part: cached[name, i][0] - strength * cached[name, i][1]
            )

        return at

    def curve(self, made):
        """strength -> reading."""
        return (
            self.affine(made)
            if made.site == "post_norm"
            else lambda strength: self.read(made.at(strength))
        )

    @torch.no_grad()
    def _read(self, logits):
        found = {}
        for name, cache in self.caches.items():
            if name == "unseen":
                continue
            rows, first = [], []
            for i, part in enumerate(cache.parts):
                z = logits(name, i, part)
                rows.append(losses_of(z, part[3], part[4]))
                if name == "forget":
                    starts, rivals = cache.rivals[i]
                    first.append(beats(wide(z[starts]), part[4][starts], rivals[starts]))
            nll, kl = (cache.by_example(torch.cat(column)) for column in zip(*rows, strict=True))
            found |= {f"{name}_nll": float(nll.mean()), f"{name}_kl": float(kl.mean())}
            if name == "forget":
                known = torch.zeros(len(nll), dtype=torch.float64)
                known[cache.order()] = torch.cat(first).cpu()
                asked = cache.asked if cache.asked.any() else torch.ones_like(cache.asked)
                found |= {"auc": self.auc(nll), "known": float(known[asked].mean())}
            if name == "retain":
                groups = [float(kl[cache.group == g].mean()) for g in cache.group.unique()]
                found["retain_kl_p90"] = float(
                    torch.tensor(groups, dtype=torch.float64).quantile(0.9)
                )
        return found

    def auc(self, nll):
        """P(a never-seen text's loss > a forget text's): 1 known, 0.5 as if never seen, below: more than forgotten.

        Questions are compared with questions and statements with statements, where both sides have them; None without text.
        """
        if self.unseen is None:
            return None
        cache, (losses, asked) = self.caches["forget"], self.unseen
        found = []
        for kind in (True, False):
            one, other = losses[asked == kind], nll[cache.asked == kind]
            if len(one) and len(other):
                labels = torch.cat([torch.ones(len(one)), torch.zeros(len(other))])
                found.append((auc(torch.cat([one, other]), labels), len(other)))
        if not found:
            labels = torch.cat([torch.ones(len(losses)), torch.zeros(len(nll))])
            return auc(torch.cat([losses, nll]), labels)
        return sum(a * n for a, n in found) / sum(n for _, n in found)


def bisect(f, low=0.0, high=1.0, tolerance=1e-4):
    """The largest x in [low, high] with f(x) <= 0, f non-decreasing (`low` where even that is above 0); within `tolerance`."""
    if f(high) <= 0:
        return high
    if f(low) > 0:
        return low
    while high - low > tolerance:
        middle = (low + high) / 2
        low, high = (middle, high) if f(middle) <= 0 else (low, middle)
    return low


def golden(f, low, high, tolerance=1e-3):
    """The x in [low, high] with the smallest f(x), by golden section."""
    ratio = (5**0.5 - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = f(a), f(b)
    while high - low > tolerance:
        if fa <= fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = f(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = f(b)
    return (low + high) / 2


def within(curve, limits, top=1.0, convex=False, points=33, tolerance=1e-4):
    """The end of the interval from 0 within the limits: exact by bisection where `convex`; else the first crossing of a
    grid, then bisection in its cell."""
    if convex:
        return bisect(lambda a: limits.excess(curve(a)), 0.0, top, tolerance)
    previous = 0.0
    for i in range(1, points):
        a = top * i / (points - 1)
        if limits.excess(curve(a)) > 0:
            return bisect(lambda a: limits.excess(curve(a)), previous, a, tolerance)
        previous = a
    return top
