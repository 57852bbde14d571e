"""Linear readouts of texts: features from one forward pass, logistic regression, and what length and words alone tell."""

import torch

from brittle.base.errors import UserError
from brittle.data.batches import batches
from brittle.diagnostics.common import TOKENS
from brittle.maths.intervals import fold_auc
from brittle.models.hooks import residual_stream

POOLS = ("mean", "last")


def features(model, ids, pad_id, batch_size, pools=POOLS):
    """{pool: [texts, N+1, D] float32, CPU}: the mean over real tokens, and the last one, of every layer's residual stream."""
    config, found = model.config, {}
    for pool in pools:
        found[pool] = torch.zeros(len(ids), config.num_hidden_layers + 1, config.hidden_size)
    with torch.no_grad():
        for indices, batch in batches(ids, pad_id, batch_size, model.device, TOKENS):
            mask = batch["attention_mask"]
            last, rows = mask.sum(1) - 1, torch.arange(len(mask), device=mask.device)
            for layer, h in enumerate(residual_stream(model, batch)):
                if "last" in found:
                    found["last"][indices, layer] = h[rows, last].float().cpu()
                if "mean" in found:
                    total = (h.float() * mask[..., None]).sum(1)
                    found["mean"][indices, layer] = (total / mask.sum(1, keepdim=True)).cpu()
    return found


def bag_of_words(ids):
    """[texts, tokens that occur] float32: each text's token counts."""
    vocabulary = {t: i for i, t in enumerate(sorted({t for text in ids for t in text}))}
    counts = torch.zeros(len(ids), len(vocabulary))
    for row, text in enumerate(ids):
        counts[row].index_add_(
            0, torch.tensor([vocabulary[t] for t in text]), torch.ones(len(text))
        )
    return counts


def logistic(x, y, c=1.0, max_iter=100):
    """(w [d], b) minimising c sum log(1 + exp(-y z)) + ||w||^2 / 2, z = x w + b: scikit-learn's L2 objective.

    x [n, d], y [n] of -1 and 1, float64; Newton's method with halved steps, exact to a gradient of 1e-8 a text. The curvature
    is summed in float32: it only directs a step, and the gradient says when to stop.
    """
    n, d = x.shape
    x1 = torch.cat([x, x.new_ones(n, 1)], 1)
    short = x1.float()
    ridge = torch.cat([x.new_ones(d), x.new_zeros(1)])
    w = x.new_zeros(d + 1)

    def loss(w):
        return c * torch.nn.functional.softplus(-y * (x1 @ w)).sum() + 0.5 * (ridge * w).dot(w)

    now = loss(w)
    for _ in range(max_iter):
        p = torch.sigmoid(-y * (x1 @ w))
        gradient = ridge * w - c * x1.T @ (y * p)
        if gradient.abs().max() < 1e-8 * c * n:
            break
        hessian = c * ((short.T * (p * (1 - p)).float()) @ short).double() + ridge.diag()
        hessian[-1, -1] += (
            1e-12 * c * n
        )  # the intercept has no penalty, and no curvature once all texts are fitted
        step, size = torch.linalg.solve(hessian, gradient), 1.0
        while (then := loss(w - size * step)) > now and size > 1e-4:
            size /= 2
        if then > now:
            break
        w, now = w - size * step, then
    return w[:-1], w[-1]


def coordinates(seen, unseen):
    """Standardised features of the training and of the held-out texts, wide ones as coordinates in the span of the former
    (which changes no solution of a ridge problem)."""
    mean, spread = seen.mean(0), seen.std(0)
    spread = torch.where(
        spread > 1e-7 * spread.max(), spread, torch.inf
    )  # a constant feature says nothing
    seen, unseen = (seen - mean) / spread, (unseen - mean) / spread
    if seen.shape[1] > seen.shape[0]:
        values, vectors = torch.linalg.eigh(seen @ seen.T)
        keep = values > 1e-10 * values[-1]
        basis = seen.T @ (vectors[:, keep] / values[keep].sqrt())
        seen, unseen = seen @ basis, unseen @ basis
    return seen, unseen


def held_out_scores(x, labelings, fold, train=None, c=1.0, max_iter=100, device="cpu"):
    """[labelings, n] decision values of texts x [n, d] that the classifier of their fold never saw.

    `train` [folds, n]: the texts that each fold's classifier learns from (default: all of the other folds).
    """
    x, fold = x.to(device, torch.float64), torch.as_tensor(fold).to(device)
    labelings = [torch.as_tensor(labels).to(device) for labels in labelings]
    scores = torch.zeros(len(labelings), len(x), dtype=torch.float64, device=device)
    for number, f in enumerate(fold.unique()):
        test = fold == f
        learn = fold != f if train is None else train[number].to(device)
        if any(len(labels[learn].unique()) < 2 for labels in labelings):
            raise UserError(
                "a probe needs texts of both classes in every fold: give more texts (--max-samples)."
            )
        seen, unseen = coordinates(x[learn], x[test])
        for i, labels in enumerate(labelings):
            w, b = logistic(seen, labels[learn].double() * 2 - 1, c, max_iter)
            scores[i, test] = unseen @ w + b
    return scores.cpu()


def words_scores(counts, labels, fold, train=None):
    """[n] held-out log odds of multinomial naive Bayes (add-one smoothing) on token counts [n, vocabulary]."""
    scores = torch.zeros(len(counts), dtype=torch.float64)
    for number, f in enumerate(fold.unique()):
        learn = fold != f if train is None else train[number]
        totals = [counts[learn & (labels == side)].double().sum(0) + 1 for side in (1, 0)]
        odds = (totals[0] / totals[0].sum()).log() - (totals[1] / totals[1].sum()).log()
        scores[fold == f] = counts[fold == f].double() @ odds
    return scores


NEIGHBOURS = 6  # lines: in the mini world, what is said of one fact


def stretches(groups, count):
    """[n] which of `count` contiguous stretches each text lies in; texts of one group (a fact) are never parted."""
    order, sizes = {}, []
    for group in groups:
        order.setdefault(group, len(order))
        sizes += [0] * (len(order) - len(sizes))
        sizes[order[group]] += 1
    sizes = torch.tensor(sizes)
    return ((sizes.cumsum(0) - sizes) * count // max(1, len(groups)))[
        [order[group] for group in groups]
    ]


class Task:
    """Two classes of texts for a probe: labels, folds, what each fold learns from, and a control with labels that mean nothing.

    Folds are stretches of each class that keep together the texts of one fact: `groups` names each text's. Where a file does
    not name its facts (groups None), lines of one fact stand side by side, so a fold does not learn from the NEIGHBOURS lines
    before and behind what it is tested on. The control's labels are 1 in every other of 2 k stretches of each class, so they
    are balanced in each fold, and a classifier that beats chance on them uses what neighbouring texts share.
    """

    def __init__(self, n_one, n_zero, k, groups=(None, None)):
        sizes = [len(set(g)) if g else n for g, n in zip(groups, (n_one, n_zero), strict=True)]
        if min(sizes) < 2 * k:
            what = "facts" if groups[sizes.index(min(sizes))] else "texts"
            raise UserError(
                f"a probe with {k} folds needs at least {2 * k} {what} a class; there are {min(sizes)}."
            )
        parts = [
            stretches(g or range(n), 2 * k) for g, n in zip(groups, (n_one, n_zero), strict=True)
        ]
        self.labels = torch.cat([torch.ones(n_one), torch.zeros(n_zero)]).long()
        self.units = min(sizes)  # independent ones of a class
        names = [
            g or [(side, i) for i in range(n)]
            for side, (g, n) in enumerate(zip(groups, (n_one, n_zero), strict=True))
        ]
        self.facts = [
            name for part in names for name in part
        ]  # [n]: a text that names no fact is one of its own
        self.fold, self.control = torch.cat(parts) // 2, torch.cat(parts) % 2
        if len(self.fold.unique()) < k:
            raise UserError(
                f"one fact has so many texts that {k} folds cannot be made: lower --folds."
            )
        learned = [
            self._learned(part // 2, k, bool(g)) for part, g in zip(parts, groups, strict=True)
        ]
        self.train = torch.cat(learned, 1)

    @staticmethod
    def _learned(fold, k, grouped):
        """[k, n] bool: the texts of one class that each fold's classifier may learn from."""
        n = len(fold)
        gap = 0 if grouped else min(NEIGHBOURS, n // (2 * k))
        test = torch.arange(k)[:, None] == fold
        near = torch.nn.functional.max_pool1d(test[:, None].float(), 2 * gap + 1, 1, gap)[:, 0] > 0
        return ~near

    def auc(self, x, c=1.0, max_iter=100, device="cpu"):
        """[((AUC, low, high), held-out scores [n])] of logistic probes on x [n, d]: for the labels, and for the control."""
        labelings = (self.labels, self.control)
        scores = held_out_scores(x, labelings, self.fold, self.train, c, max_iter, device)
        return [
            (fold_auc(s, labels, self.fold, self.units), s)
            for s, labels in zip(scores, labelings, strict=True)
        ]

    def surface(self, ids):
        """What needs no model: {length_auc, bow_auc}, held-out AUC from the texts' lengths and from their words."""
        lengths = torch.tensor([[float(len(i))] for i in ids])
        words = words_scores(bag_of_words(ids), self.labels, self.fold, self.train)
        return {
            "length_auc": self.auc(lengths)[0][0][0],
            "bow_auc": fold_auc(words, self.labels, self.fold)[0],
        }
