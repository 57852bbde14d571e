"""Membership inference: six scores of a text by which a model may tell that it was trained on it.
All are higher for members.

With l_t = log p(x_t | x_<t) of the n predicted tokens, and mu_t, sigma_t the mean and deviation of
log p(z | x_<t) for z ~ p:

loss        mean l_t (Yeom et al. 2018)
zlib        mean l_t / bytes of zlib(text) (Carlini et al. 2021)
min_k       mean of the lowest k % of l_t (Shi et al. 2024, arXiv:2310.16789), k = 20;
            open-unlearning and MUSE use 40
min_k_pp    the same of (l_t - mu_t) / sigma_t (Zhang et al. 2024, arXiv:2404.02936)
reference   mean l_t - mean l_t of a reference model that never saw the members
grad_norm   -mean over parameters of || d(-mean l_t) / d theta_j ||_2

Of a chat model's question, the answer's tokens are those that are predicted, and zlib is of the
answer.

`length` needs no model: where its AUC is far from 0.5, the two sets differ without one, and no
score means membership.
"""

import zlib

import torch

from brittle.base.errors import UserError
from brittle.data.batches import batches, pad
from brittle.data.examples import as_example
from brittle.maths.intervals import FEWEST, edge, fold_auc, quantiles, resample
from brittle.maths.precision import wide

ATTACKS = ("loss", "zlib", "min_k", "min_k_pp", "reference", "grad_norm", "length")
FPR = 0.01


def example_scores(model, examples, pad_id, batch_size=32):
    """`token_scores` of Examples: of the tokens that the model says."""
    scores = token_scores(model, [one.told for one in examples], pad_id, batch_size)
    firsts = [one.said - 1 for one in examples]
    return [(own[k:], normal[k:]) for k, (own, normal) in zip(firsts, scores, strict=True)]


def token_scores(model, ids, pad_id, batch_size=32):
    """Per text ([n] l_t, [n] (l_t - mu_t) / sigma_t), float64, in the texts' order."""
    scores = [None] * len(ids)
    with torch.no_grad():
        for indices, batch in batches(ids, pad_id, batch_size, model.device):
            logp = wide(model(**batch).logits[:, :-1]).log_softmax(-1)
            own = logp.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
            p = logp.exp()
            mean = (p * logp).sum(-1)
            spread = ((p * logp.square()).sum(-1) - mean.square()).clamp_min(1e-12).sqrt()
            normal = (own - mean) / spread
            for row, i in enumerate(indices):
                n = len(ids[i]) - 1
                scores[i] = own[row, :n].double().cpu(), normal[row, :n].double().cpu()
    if not all(bool(torch.isfinite(a).all()) for a, _ in scores):
        raise UserError(
            "the model gives NaN or infinite log-probabilities: it is broken, and has no "
            "membership scores."
        )
    return scores


def lowest(values, share):
    """Mean of the lowest `share` of values [n], at least one of them."""
    count = max(1, int(share * len(values)))
    return float(values.sort().values[:count].mean())


def gradient_norms(model, examples):
    """grad_norm of every Example, one at a time, dropout off. Leaves no gradients behind."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    scores = []
    for example in map(as_example, examples):
        batch = pad([example.told], 0, model.device)
        logits, targets = wide(model(**batch).logits[0, :-1]), batch["input_ids"][0, 1:]
        first = example.said - 1
        loss = torch.nn.functional.cross_entropy(logits[first:], targets[first:])
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        norms = [float(torch.linalg.vector_norm(wide(g))) if g is not None else 0.0 for g in grads]
        scores.append(-sum(norms) / len(norms))
    return scores


def text_scores(texts, tokens, share=0.2, reference=None, norms=None):
    """{attack: [score, ...]} from `token_scores` of the model and, for `reference`, of another;
    None where it is not known.
    """
    scores = {
        "loss": [float(own.mean()) for own, _ in tokens],
        "zlib": [
            float(own.mean()) / len(zlib.compress(t.encode()))
            for t, (own, _) in zip(texts, tokens, strict=True)
        ],
        "min_k": [lowest(own, share) for own, _ in tokens],
        "min_k_pp": [lowest(normal, share) for _, normal in tokens],
        "length": [float(len(own)) for own, _ in tokens],
    }
    if reference is not None:
        scores["reference"] = [
            float(a.mean() - b.mean()) for (a, _), (b, _) in zip(tokens, reference, strict=True)
        ]
    if norms is not None:
        scores["grad_norm"] = norms
    return {name: scores[name] for name in ATTACKS if name in scores}


def entity_weights(labels, entities=None, draws=1000, seed=0):
    """[(how often each of `draws` bootstrap samples of entities holds each text [draws, texts],
    entities)] of members, others.

    `entities` names each text's; without it every text is its own.
    """
    weights, labels = [], torch.as_tensor(labels).bool()
    entities = range(len(labels)) if entities is None else entities
    for side, name in ((labels, "members"), (~labels, "others")):
        own = [e for e, keep in zip(entities, side.tolist(), strict=True) if keep]
        number = {e: i for i, e in enumerate(dict.fromkeys(own))}
        weights.append(
            (resample(len(number), draws, seed, name)[:, [number[e] for e in own]], len(number))
        )
    return weights


def auc_interval(scores, labels, entities=None):
    """(AUC, low, high) of all texts' scores over entities (`intervals.fold_auc`); `entities` names
    each text's.
    """
    return fold_auc(scores, labels, torch.zeros(len(labels)), groups=entities)


def thresholds(others, weights, fpr=FPR):
    """(thresholds [draws], higher ones [draws]) from the scores `others` [m] of non-members, which
    have `weights` [draws, m].

    A threshold is the lowest score that at most the share `fpr` of them exceed. The higher one is
    the lowest score that at most this share reach, infinite where none is: the threshold of all
    non-members lies between two scores of a sample, and above the highest one of a small sample.
    """
    ranked, order = others.sort(descending=True)
    weights = weights[:, order]
    upto = weights.cumsum(1)
    allowed = fpr * upto[:, -1:] + 1e-9
    # equal scores are reached at once
    last_equal = torch.searchsorted(-ranked, -ranked, right=True) - 1
    exceeded, reached = upto - weights <= allowed, upto[:, last_equal] <= allowed
    above_all = torch.cat([torch.full_like(ranked[:1], torch.inf), ranked])
    return ranked[exceeded.sum(1) - 1], above_all[reached.sum(1)]


def tpr_at(scores, labels, fpr=FPR, entities=None, seed=0, draws=1000):
    """(TPR, low, high, threshold) at the lowest threshold that at most `fpr` of the non-members
    exceed.

    The interval is a bootstrap of entities (of texts, where none are named) that draws the
    threshold anew as well: it rests on the few highest non-members. Its low end takes the higher of
    the two `thresholds`. So it is 0 with fewer than 1 / fpr non-members, which say nothing of the
    threshold. Where no member is found, or each is, `edge` of the members' entities bounds the
    other end.
    """
    labels, scores = torch.as_tensor(labels).bool(), torch.as_tensor(scores, dtype=torch.float64)
    members, others = scores[labels], scores[~labels]
    (first, units), (second, of_others) = entity_weights(labels, entities, draws, seed)
    one = torch.ones(1, len(others), dtype=torch.float64)
    threshold = float(thresholds(others, one, fpr)[0])
    value = float((members > threshold).double().mean())
    if min(units, of_others) < FEWEST:
        return value, None, None, threshold
    drawn, higher = (t[:, None] for t in thresholds(others, second, fpr))
    total = first.sum(1)
    high_rates = (first * (members > drawn)).sum(1) / total
    low_rates = (first * (members >= higher)).sum(1) / total
    low, high = quantiles(low_rates, units)[0], quantiles(high_rates, units)[1]
    if value == 0:
        high = max(high, 1 - edge(units))
    if value == 1:
        low = min(low, edge(units))
    return value, min(low, value), max(high, value), threshold


def privleak(auc_model, auc_retrained):
    """MUSE's PrivLeak in percent: 100 ((1 - AUC) - (1 - AUC_r)) / (1 - AUC_r), AUC with the forget
    set as members.

    Negative: the model still knows the forget set better than a retrained one does (-100: perfectly
    told apart at AUC 1); positive: it shuns it (over-unlearning, a leak as well). None where the
    retrained model's AUC is 1: nothing to divide by.
    """
    if auc_retrained is None:
        raise UserError(
            "PrivLeak needs a retrained model (--reference M): it is a ratio to that model's AUC, "
            "not to 0.5."
        )
    inverted, base = 1 - auc_model, 1 - auc_retrained
    return 100 * (inverted - base) / base if base > 0 else None
