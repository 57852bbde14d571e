"""Linear readouts of texts: features from one forward pass, logistic regression, and what length and words alone tell."""

import torch

from brittle.activations import residual_stream
from brittle.errors import UserError
from brittle.stats import fold_auc, folds
from brittle.text import batches

POOLS = ("mean", "last")


def features(model, ids, pad_id, batch_size, pools=POOLS):
    """{pool: [texts, N+1, D] float32, CPU}: the mean over real tokens, and the last one, of every layer's residual stream."""
    config, found = model.config, {}
    for pool in pools:
        found[pool] = torch.zeros(len(ids), config.num_hidden_layers + 1, config.hidden_size)
    with torch.no_grad():
        for indices, batch in batches(ids, pad_id, batch_size, model.device):
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
        counts[row].index_add_(0, torch.tensor([vocabulary[t] for t in text]), torch.ones(len(text)))
    return counts


def logistic(x, y, c=1.0, max_iter=100):
    """(w [d], b) minimising c sum log(1 + exp(-y z)) + ||w||^2 / 2, z = x w + b: scikit-learn's L2 objective.

    x [n, d], y [n] of -1 and 1, float64; Newton's method with halved steps, exact to a gradient of 1e-8 a text.
    """
    n, d = x.shape
    x1 = torch.cat([x, x.new_ones(n, 1)], 1)
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
        hessian = c * (x1.T * (p * (1 - p))) @ x1 + ridge.diag()
        hessian[-1, -1] += 1e-12 * c * n  # the intercept has no penalty, and no curvature once all texts are fitted
        step, size = torch.linalg.solve(hessian, gradient), 1.0
        while (then := loss(w - size * step)) > now and size > 1e-4:
            size /= 2
        if then > now:
            break
        w, now = w - size * step, then
    return w[:-1], w[-1]


def held_out_scores(x, labels, fold, c=1.0, max_iter=100, device="cpu"):
    """[n] decision values of texts that the classifier of their fold never saw; features standardised on the others.

    Wide features are turned into their coordinates in the span of the training texts, which changes no solution.
    """
    x, labels, fold = x.to(device, torch.float64), torch.as_tensor(labels).to(device), fold.to(device)
    scores = torch.zeros(len(x), dtype=torch.float64, device=device)
    y = labels.double() * 2 - 1
    for f in fold.unique():
        train, test = fold != f, fold == f
        if len(y[train].unique()) < 2:
            raise UserError("a probe needs texts of both classes in every fold: give more texts (--max-samples).")
        mean, spread = x[train].mean(0), x[train].std(0)
        spread = torch.where(spread > 1e-7 * spread.max(), spread, torch.inf)  # a constant feature says nothing
        seen, unseen = (x[train] - mean) / spread, (x[test] - mean) / spread
        if seen.shape[1] > seen.shape[0]:
            values, vectors = torch.linalg.eigh(seen @ seen.T)
            keep = values > 1e-10 * values[-1]
            basis = seen.T @ (vectors[:, keep] / values[keep].sqrt())
            seen, unseen = seen @ basis, unseen @ basis
        w, b = logistic(seen, y[train], c, max_iter)
        scores[test] = unseen @ w + b
    return scores.cpu()


def words_scores(counts, labels, fold):
    """[n] held-out log odds of multinomial naive Bayes (add-one smoothing) on token counts [n, vocabulary]."""
    scores = torch.zeros(len(counts), dtype=torch.float64)
    for f in fold.unique():
        totals = [counts[(fold != f) & (labels == side)].double().sum(0) + 1 for side in (1, 0)]
        odds = (totals[0] / totals[0].sum()).log() - (totals[1] / totals[1].sum()).log()
        scores[fold == f] = counts[fold == f].double() @ odds
    return scores


class Task:
    """Two classes of texts for a probe: labels, contiguous folds within each class, and a control with labels that mean nothing.

    The control's labels are 1 in every other of 2 k stretches of each class, so they are balanced in each fold, and a
    classifier that beats chance on them uses what neighbouring texts share.
    """

    def __init__(self, n_one, n_zero, k):
        if min(n_one, n_zero) < 2 * k:
            raise UserError(f"a probe with {k} folds needs at least {2 * k} texts a class; there are {min(n_one, n_zero)}.")
        self.labels = torch.cat([torch.ones(n_one), torch.zeros(n_zero)]).long()
        self.fold = torch.cat([folds(n, k) for n in (n_one, n_zero)])
        self.control = torch.cat([folds(n, 2 * k) % 2 for n in (n_one, n_zero)])

    def auc(self, x, labels, c=1.0, max_iter=100, device="cpu"):
        """((AUC, low, high), held-out scores [n]) of a logistic probe on x [n, d] for `self.labels` or `self.control`."""
        scores = held_out_scores(x, labels, self.fold, c, max_iter, device)
        return fold_auc(scores, labels, self.fold), scores

    def surface(self, ids):
        """What needs no model: {length_auc, bow_auc}, held-out AUC from the texts' lengths and from their words."""
        lengths = torch.tensor([[float(len(i))] for i in ids])
        words = words_scores(bag_of_words(ids), self.labels, self.fold)
        return {"length_auc": self.auc(lengths, self.labels)[0][0], "bow_auc": fold_auc(words, self.labels, self.fold)[0]}
