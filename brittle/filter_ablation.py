"""What the filter's choices are worth, and what a published filter gives away: components, sites, tokens, names."""

from dataclasses import replace

import torch

from brittle import mcq
from brittle.filter_basis import top
from brittle.filter_fit import make
from brittle.filter_gate import threshold
from brittle.filter_search import distance
from brittle.filter_tuning import within
from brittle.filters import block_of, hooked
from brittle.losses import wide

KS = (1, 2, 4, 8, 16, 32, 64, 128)
PARETO = ["site", "basis", "gated", "k", "strength", "forget_accuracy", "forget_low", "forget_high", "retain_accuracy",
          "general_accuracy", "n", "auc", "known", "forget_nll", "retain_kl", "retain_kl_p90", "status"]  # fmt: skip
SITES = ["site", "ratio", "probe_auc", "overlap", "gate_auc", "forget_accuracy", "retain_accuracy", "lens_after", "k"]
TOKENS = ["direction", "side", "rank", "token", "logit"]
ATTACKS = ["attack", "what", "value", "low", "high", "chance", "n"]


def at_budget(tuner, made, limits):
    """The filter at the largest strength within the limits; a gate's threshold at one false alarm in 300 tokens."""
    if made.gate is not None:
        quiet = [made.score(tuner.caches[n].tokens(made.site)) for n in ("retain", "general") if n in tuner.caches]
        made = replace(made, threshold=threshold(quiet, 0.003))
    points = 9 if block_of(made.site) is None else 5
    return made.at(within(tuner.curve(made), limits, convex=made.site == "post_norm", points=points, tolerance=0.01))


def accuracies(model, tokenizer, made, items):
    """{split: (accuracy, right, n)} of the hooked model on {split: items}."""
    found = {}
    with hooked(model, made):
        for split, chosen in items.items():
            scored = mcq.score(model, tokenizer, chosen)
            right = sum(p == item["answer"] for (p, _), item in zip(scored, chosen, strict=True))
            found[split] = right / len(chosen), right, len(chosen)
    return found


def pareto(tuner, tokenizer, found, sites, bases, limits, items):
    """Yield a row a site, basis, gate and k, each at its own largest strength: bases compare at equal retain budget."""
    from brittle.stats import wilson

    for site in sites:
        for name, gated in bases:
            if name == "loss" and site != "post_norm":
                continue
            whole = make(tuner.model, found, site, name, found.forget[site].width, gated, {}).to(tuner.model.device)
            for k in [k for k in KS if k <= whole.k]:
                made = at_budget(tuner, whole.first(k), limits)
                reading, scores = tuner.read(made), accuracies(tuner.model, tokenizer, made, items)
                low, high = wilson(scores["forget"][1], scores["forget"][2])
                reached = distance(reading) <= 0
                yield {
                    "site": site, "basis": name, "gated": int(gated), "k": k, "strength": made.strength,
                    **{f"{s}_accuracy": scores[s][0] if s in scores else None for s in ("forget", "retain", "general")},
                    "forget_low": low, "forget_high": high, "n": scores["forget"][2],
                    **{c: reading[c] for c in ("auc", "known", "forget_nll", "retain_kl", "retain_kl_p90")},
                    "status": "matched" if reached else "retain-limited" if made.strength < 1 else "site-limited",
                }  # fmt: skip
                if whole.read is not None or k == whole.k:
                    break


@torch.no_grad()
def promoted(model, tokenizer, made, count=5):
    """Yield the tokens that each direction of a filter adds most to and takes most from, by logit W u."""
    weight = wide(model.get_output_embeddings().weight)
    for j in range(min(made.k, 16)):
        logits = weight @ made.basis[:, j].to(weight)
        for side, ranked in (("promoted", logits.topk(count)), ("demoted", (-logits).topk(count))):
            for rank, token in enumerate(ranked.indices.tolist()):
                yield {
                    "direction": j,
                    "side": side,
                    "rank": rank,
                    "token": tokenizer.decode([token]),
                    "logit": float(logits[token]),
                }


def recovered(before, after, k):
    """[d, k] the directions that a published unembedding lost: the leading right singular vectors of W' - W."""
    change = after.double() - before.double()
    return top(change.T @ change, k)[1]


@torch.no_grad()
def names_in(model, tokenizer, u, names, decoys):
    """(AUC of forget names against decoys by their energy in the span of u, energies of both): can a reader of the published
    basis tell whose facts it removes? A name's vector is the mean of its tokens' input embeddings."""
    from brittle.stats import auc_variance

    table = wide(model.get_input_embeddings().weight)

    def energy(name):
        ids = tokenizer(" " + name, add_special_tokens=False)["input_ids"]
        x = table[torch.tensor(ids, device=table.device)].mean(0)
        return float((u.to(x).T @ x).square().sum() / x.square().sum())

    scores = [energy(n) for n in [*names, *decoys]]
    value, variance = auc_variance(torch.tensor(scores), torch.tensor([1] * len(names) + [0] * len(decoys)))
    half = 1.96 * variance**0.5
    return value, max(0.0, value - half), min(1.0, value + half)


def entities(items):
    """Names that questions ask about: the capitalised words that stand in one entity's questions and in no other's."""
    owner = {}
    for item in items:
        for word in item["question"].replace("?", " ").split():
            if word[:1].isupper() and word.lower() not in ("question:", "answer:", "what", "which"):
                owner.setdefault(word, set()).add("/".join(str(item.get("fact", "")).split("/")[:2]))
    return sorted(word for word, found in owner.items() if len(found) == 1)


class BehindBlock:
    """A hooked model read out behind one block, as something that multiple choice can score."""

    def __init__(self, model, made, layer):
        self.model, self.made, self.layer, self.device, self.config = model, made, layer, model.device, model.config

    def __call__(self, **batch):
        from types import SimpleNamespace

        from brittle.activations import hidden
        from brittle.lens import readout

        with hooked(self.model, self.made):
            h = hidden(self.model, batch, [self.layer])[self.layer]
        return SimpleNamespace(logits=readout(self.model, batch, h))


def lens_after(model, tokenizer, made, items):
    """Highest multiple-choice accuracy that the logit lens has at any layer of the filtered model."""
    return max(mcq.accuracy(BehindBlock(model, made, k), tokenizer, items) for k in range(model.config.num_hidden_layers))
