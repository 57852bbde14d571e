"""Linear readouts of texts: features of one forward pass, logistic probes, and what words alone
tell.

A probe is scikit-learn's `LogisticRegression`. On a GPU, where a model of 7B parameters asks for a
thousand probes of a few hundred coordinates, `logistic` minimises the same objective there.
"""

import torch

from brittle.base.errors import UserError
from brittle.data.batches import batches
from brittle.diagnostics.common import TOKENS
from brittle.maths import linalg
from brittle.maths.intervals import fold_auc
from brittle.models.blocks import block_count, stream_width
from brittle.models.hooks import residual_stream

POOLS = ("mean", "last")
NEIGHBOURS = 6  # lines: in the mini world, what is said of one fact
TOLERANCE = 1e-8  # largest entry of the gradient a text, at which a probe counts as fitted


def features(model, ids, pad_id, batch_size, pools=POOLS):
    """{pool: [texts, N+1, D]}, float32 on the CPU: every layer's residual stream, pooled over a
    text.

    `mean` is the mean over real tokens, `last` the last one.
    """
    shape = len(ids), block_count(model) + 1, stream_width(model)
    pooled = {pool: torch.zeros(shape) for pool in pools}
    with torch.no_grad():
        for indices, batch in batches(ids, pad_id, batch_size, model.device, TOKENS):
            mask = batch["attention_mask"]
            last = mask.sum(1) - 1
            rows = torch.arange(len(mask), device=mask.device)
            for layer, h in enumerate(residual_stream(model, batch)):
                if "last" in pooled:
                    pooled["last"][indices, layer] = h[rows, last].float().cpu()
                if "mean" in pooled:
                    total = (h.float() * mask[..., None]).sum(1)
                    pooled["mean"][indices, layer] = (total / mask.sum(1, keepdim=True)).cpu()
    return pooled


def bag_of_words(ids):
    """[texts, tokens that occur], float32: how often each token stands in each text."""
    vocabulary = {t: i for i, t in enumerate(sorted({t for text in ids for t in text}))}
    counts = torch.zeros(len(ids), len(vocabulary))
    for row, text in enumerate(ids):
        columns = torch.tensor([vocabulary[t] for t in text])
        counts[row].index_add_(0, columns, torch.ones(len(text)))
    return counts


def logistic(x, y, c=1.0, max_iter=100):
    """(w [d], b) minimising c sum log(1 + exp(-y z)) + ||w||^2 / 2 with z = x w + b, on any device.

    This is scikit-learn's L2 objective. x [n, d] and y [n] of -1 and 1 are float64. Newton's method
    with halved steps, until the gradient is below TOLERANCE a text. The curvature is summed in
    float32: it only directs a step, and the gradient decides when to stop.
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
        if gradient.abs().max() < TOLERANCE * c * n:
            break
        hessian = c * ((short.T * (p * (1 - p)).float()) @ short).double() + ridge.diag()
        # The intercept has no penalty, and no curvature once all texts are fitted.
        hessian[-1, -1] += 1e-12 * c * n
        step, size = torch.linalg.solve(hessian, gradient), 1.0
        while (then := loss(w - size * step)) > now and size > 1e-4:
            size /= 2
        if then > now:
            break
        w, now = w - size * step, then
    return w[:-1], w[-1]


def scikit_learns(x, y, c=1.0, max_iter=100):
    """(w [d], b) of scikit-learn's LogisticRegression on x [n, d] and y [n] of -1 and 1; CPU,
    float64.

    Of its solvers `newton-cholesky` is the one that reaches TOLERANCE fast: with lbfgs the probes
    of a mini model take more than twice as long.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    linalg.limit_blas(torch.get_num_threads())
    probe = LogisticRegression(C=c, max_iter=max_iter, tol=TOLERANCE, solver="newton-cholesky")
    with warnings.catch_warnings():
        # A small --max-iter is what the user asked for.
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(x.numpy(), y.numpy())
    return torch.from_numpy(probe.coef_[0]), float(probe.intercept_[0])


def fit(x, y, c, max_iter):
    """(w [d], b) of a logistic probe, by scikit-learn on the CPU and by `logistic` elsewhere."""
    if x.device.type == "cpu" and x.shape[1]:  # scikit-learn does not fit an intercept alone
        return scikit_learns(x, y, c, max_iter)
    return logistic(x, y, c, max_iter)


def coordinates(seen, unseen):
    """Standardised features of the training texts [n, d] and the held-out texts [m, d].

    Where there are more features than training texts, both become coordinates in the span of the
    training texts. This changes no solution of a ridge problem.
    """
    mean, spread = seen.mean(0), seen.std(0)
    # A constant feature says nothing; an infinite spread makes it zero.
    spread = torch.where(spread > 1e-7 * spread.max(), spread, torch.inf)
    seen, unseen = (seen - mean) / spread, (unseen - mean) / spread
    if seen.shape[1] > seen.shape[0]:
        values, vectors = torch.linalg.eigh(seen @ seen.T)
        keep = values > 1e-10 * values[-1]
        basis = seen.T @ (vectors[:, keep] / values[keep].sqrt())
        seen, unseen = seen @ basis, unseen @ basis
    return seen, unseen


def held_out_scores(x, labelings, fold, train=None, c=1.0, max_iter=100, device="cpu"):
    """[labelings, n] decision values of texts x [n, d] that the classifier of their fold never saw.

    `train` [folds, n] bool: the texts that each fold's classifier learns from (default: all of the
    other folds). Raises UserError where a fold's classifier would see one class alone, and where x
    holds NaN or Inf.
    """
    if not x.isfinite().all():
        raise UserError("activations hold NaN or Inf: the model is broken.")
    x, fold = x.to(device, torch.float64), torch.as_tensor(fold).to(device)
    labelings = [torch.as_tensor(labels).to(device) for labels in labelings]
    scores = torch.zeros(len(labelings), len(x), dtype=torch.float64, device=device)
    for number, f in enumerate(fold.unique()):
        test = fold == f
        learn = fold != f if train is None else train[number].to(device)
        if any(len(labels[learn].unique()) < 2 for labels in labelings):
            raise UserError(
                "a probe needs texts of both classes in every fold: "
                "give more texts (--max-samples)."
            )
        seen, unseen = coordinates(x[learn], x[test])
        for i, labels in enumerate(labelings):
            w, b = fit(seen, labels[learn].double() * 2 - 1, c, max_iter)
            scores[i, test] = unseen @ w + b
    return scores.cpu()


def words_scores(counts, labels, fold, train=None):
    """[n] held-out log odds of multinomial naive Bayes (add-one smoothing).

    counts [n, vocabulary] are those of `bag_of_words`; `train` is as in `held_out_scores`.
    """
    scores = torch.zeros(len(counts), dtype=torch.float64)
    for number, f in enumerate(fold.unique()):
        learn = fold != f if train is None else train[number]
        totals = [counts[learn & (labels == side)].double().sum(0) + 1 for side in (1, 0)]
        odds = (totals[0] / totals[0].sum()).log() - (totals[1] / totals[1].sum()).log()
        scores[fold == f] = counts[fold == f].double() @ odds
    return scores


def stretches(groups, count):
    """[n] which of `count` contiguous stretches each text lies in.

    `groups` [n] names each text's group, a fact. Texts of one group are never parted.
    """
    order, sizes = {}, []
    for group in groups:
        order.setdefault(group, len(order))
        if len(sizes) < len(order):
            sizes.append(0)
        sizes[order[group]] += 1
    sizes = torch.tensor(sizes)
    stretch_of_group = (sizes.cumsum(0) - sizes) * count // max(1, len(groups))
    return stretch_of_group[[order[group] for group in groups]]


def fold_groups(drawn, k):
    """What the folds keep together of one class, [n] names or None, from its `DrawnTexts`.

    The texts of one entity; where there are too few entities for k folds, those of one fact.
    """
    if drawn.entities and len(set(drawn.entities)) >= 2 * k:
        return drawn.entities
    return drawn.facts or drawn.entities


class ProbeTask:
    """Two classes of texts for a probe: labels, folds, and a control whose labels mean nothing.

    Folds are stretches of each class that keep together the texts of one group (entity or fact):
    `groups` names each text's. Where a file names neither (groups None), lines about one thing
    stand side by side, so a fold does not learn from the NEIGHBOURS lines before and behind what it
    is tested on.

    Intervals count `entities`, a name for each text of each class, by default the groups; a text
    that names none counts by itself.

    The control's labels are 1 in every other of 2 k stretches of each class. They are balanced in
    each fold, and a classifier that beats chance on them uses what neighbouring texts share.

    labels, fold, control [n], class 1 first; train [k, n]: what each fold's classifier learns from;
    entities [n]: each text's entity, and its own where it names none, or None where no text names
    one; units: entities of the smaller class.
    Raises UserError where there are too few groups or texts for k folds.
    """

    def __init__(self, n_one, n_zero, k, groups=(None, None), entities=None):
        classes = list(zip(groups, (n_one, n_zero), strict=True))
        sizes = [len(set(named)) if named else n for named, n in classes]
        if min(sizes) < 2 * k:
            named = groups[sizes.index(min(sizes))]
            what = "entities or facts" if named else "texts"
            raise UserError(
                f"a probe with {k} folds needs at least {2 * k} {what} a class; "
                f"there are {min(sizes)}."
            )
        self.labels = torch.cat([torch.ones(n_one), torch.zeros(n_zero)]).long()
        self._name_entities(entities or groups, (n_one, n_zero))
        halves = [stretches(named or range(n), 2 * k) for named, n in classes]
        self.fold, self.control = torch.cat(halves) // 2, torch.cat(halves) % 2
        if len(self.fold.unique()) < k:
            raise UserError(
                f"one fact has so many texts that {k} folds cannot be made: lower --folds."
            )
        learned = [
            self._learned(half // 2, k, bool(named))
            for half, (named, _) in zip(halves, classes, strict=True)
        ]
        self.train = torch.cat(learned, 1)

    def _name_entities(self, entities, counts):
        """Set `entities` and `units` from the names of each class or None."""
        by_class = [
            named or [(side, i) for i in range(n)]
            for side, (named, n) in enumerate(zip(entities, counts, strict=True))
        ]
        self.units = min(len(set(names)) for names in by_class)
        self.entities = [name for names in by_class for name in names] if any(entities) else None

    @staticmethod
    def _learned(fold, k, grouped):
        """[k, n] bool: the texts of one class that each fold's classifier may learn from."""
        n = len(fold)
        gap = 0 if grouped else min(NEIGHBOURS, n // (2 * k))
        test = torch.arange(k)[:, None] == fold
        near = torch.nn.functional.max_pool1d(test[:, None].float(), 2 * gap + 1, 1, gap)[:, 0] > 0
        return ~near

    def auc(self, x, c=1.0, max_iter=100, device="cpu"):
        """[((AUC, low, high), held-out scores [n])] of logistic probes on x [n, d].

        Two entries: for the labels, and for the control.
        """
        labelings = (self.labels, self.control)
        scores = held_out_scores(x, labelings, self.fold, self.train, c, max_iter, device)
        return [
            (fold_auc(s, labels, self.fold, self.units, self.entities), s)
            for s, labels in zip(scores, labelings, strict=True)
        ]

    def surface(self, ids):
        """{length_auc, bow_auc}: what the texts' lengths and words tell, without a model."""
        lengths = torch.tensor([[float(len(i))] for i in ids])
        words = words_scores(bag_of_words(ids), self.labels, self.fold, self.train)
        return {
            "length_auc": self.auc(lengths)[0][0][0],
            "bow_auc": fold_auc(words, self.labels, self.fold)[0],
        }
