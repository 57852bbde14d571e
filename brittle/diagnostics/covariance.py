"""Covariance of a model's residual stream at every layer: eigenvalues, and what resampling the
texts would make of them.
"""

import torch

from brittle.data.batches import batches
from brittle.diagnostics.common import TOKENS
from brittle.maths.linalg import eigenvalues, eigenvectors, spectrum, svd
from brittle.models.blocks import block_count, stream_width
from brittle.models.hooks import residual_stream

KEPT = (
    2**31
)  # bytes of residual streams to keep; where they are more, the texts are read a second time


class Streams:
    """The residual streams of one model over texts, to be gone through twice: (text of each token,
    [h_0 ... h_N]) a batch.
    """

    def __init__(self, model, ids, pad_id, batch_size):
        self.model, self.ids, self.pad_id, self.batch_size, self.kept = (
            model,
            ids,
            pad_id,
            batch_size,
            [],
        )
        self.layers, self.width = block_count(model) + 1, stream_width(model)
        self.keep = sum(map(len, ids)) * self.layers * self.width * model.dtype.itemsize <= KEPT

    def __iter__(self):
        """h [tokens, D], real tokens only."""
        if self.kept:
            for owner, h in self.kept:
                yield owner, list(h.to(self.model.device))
            return
        with torch.no_grad():
            for indices, batch in batches(
                self.ids, self.pad_id, self.batch_size, self.model.device, TOKENS
            ):
                real = batch["attention_mask"].bool()
                owner = torch.tensor(indices, device=real.device)[:, None].expand_as(real)[real]
                streams = [h[real] for h in residual_stream(self.model, batch)]
                if self.keep:
                    self.kept.append((owner, torch.stack(streams).cpu()))
                yield owner, streams


def moments(streams, parts):
    """(sum [parts, N+1, D], second moment [parts, N+1, D, D], text means [texts, N+1, D]), float64;
    text i is in i % parts.
    """
    n, layers, width = len(streams.ids), streams.layers, streams.width
    new = {"dtype": torch.float64, "device": streams.model.device}
    total, square = (
        torch.zeros(n, layers, width, **new),
        torch.zeros(parts, layers, width, width, **new),
    )
    for owner, hidden in streams:
        for layer, h in enumerate(hidden):
            h = h.double()
            total[:, layer].index_add_(0, owner, h)
            for p in range(parts):
                x = h[owner % parts == p]
                square[p, layer].addmm_(x.T, x)
    sums = torch.stack([total[p::parts].sum(0) for p in range(parts)])
    return sums, square, total / torch.tensor([len(i) for i in streams.ids], **new)[:, None, None]


def covariance(total, square, count):
    """[D, D], unbiased, from the sum [D] and second moment [D, D] of `count` vectors."""
    return (square - torch.outer(total, total) / count) / max(count - 1, 1)


def projections(streams, vectors, centre):
    """Each text's sums over tokens of (v^T x)^2 and of v^T x, x = h - centre, float32 [texts, N+1,
    D].

    vectors [N+1, D, D] in columns, centre [N+1, D]: far from the origin the squares would drown
    what is asked.
    """
    energy, linear = (
        torch.zeros(len(streams.ids), streams.layers, streams.width) for _ in range(2)
    )
    for owner, hidden in streams:
        texts, place = owner.unique(return_inverse=True)
        for layer, h in enumerate(hidden):
            y = (h.float() - centre[layer]) @ vectors[layer]
            for of, values in ((energy, y.square()), (linear, y)):
                of[texts.cpu(), layer] = (
                    y.new_zeros(len(texts), y.shape[1]).index_add_(0, place, values).cpu()
                )
    return energy, linear


def resampled(energy, linear, count, weights):
    """[draws, p] eigenvalues, descending, of covariances with weights [draws, texts] of texts, to
    first order (v^T C v).

    energy, linear [texts, p]: each text's sums of (v^T x)^2 and v^T x over its `count` [texts]
    vectors x.
    """
    n = (weights @ count)[:, None]
    values = (weights @ energy - (weights @ linear).square() / n) / (n - 1).clamp_min(1)
    return values.clamp_min(0).sort(descending=True)[0]


def by_token(streams, halves):
    """(text means, [{values, halves, energy, linear, count} a layer]) of the tokens' covariance;
    `halves` asks for the null's.
    """
    # In halves also where they are not asked for: the sums of both models must round alike.
    total, square, means = moments(streams, 2)
    count = torch.tensor([len(i) for i in streams.ids])
    vectors = torch.zeros(streams.layers, streams.width, streams.width, device=square.device)
    layers = []
    for layer in range(streams.layers):
        row = {}
        if halves:
            two = [
                covariance(total[p, layer], square[p, layer], int(count[p::2].sum()))
                for p in (0, 1)
            ]
            row["halves"] = torch.stack([eigenvalues(c).flip(0) for c in two]).clamp_min(0).cpu()
        values, v = eigenvectors(
            covariance(total[:, layer].sum(0), square[:, layer].sum(0), int(count.sum()))
        )
        vectors[layer] = v.flip(1).float()
        layers.append(row | {"values": values.flip(0).clamp_min(0).cpu()})
    del square
    energy, linear = projections(streams, vectors, (total.sum(0) / int(count.sum())).float())
    for layer, row in enumerate(layers):
        row |= {"energy": energy[:, layer], "linear": linear[:, layer], "count": count.float()}
    return means, layers


def by_text(x, halves):
    """{values, halves, energy, linear, count} of the covariance of texts x [n, D], float64."""

    def centred(part):
        return part - part.mean(0)

    def values(s, n):
        padded = torch.zeros(min(x.shape), dtype=torch.float64)
        padded[: len(s)] = (s.square() / max(n - 1, 1)).cpu()[: len(padded)]
        return padded

    _, s, v = svd(centred(x))
    y = centred(x) @ v
    row = {
        "values": values(s, len(x)),
        "energy": y.square().float().cpu(),
        "linear": y.float().cpu(),
        "count": torch.ones(len(x)),
    }
    return row | (
        {"halves": torch.stack([values(spectrum(centred(p)), len(p)) for p in (x[::2], x[1::2])])}
        if halves
        else {}
    )


def collect(model, ids, pad_id, batch_size, halves):
    """{token, text: what `by_token` and `by_text` find a layer} of one model on the texts of one
    split.
    """
    means, tokens = by_token(Streams(model, ids, pad_id, batch_size), halves)
    return {
        "token": tokens,
        "text": [by_text(means[:, layer], halves) for layer in range(means.shape[1])],
    }


def wasserstein(one, other):
    """[draws]: mean |difference| of sorted eigenvalues [draws, p], each spectrum over its mean (0
    where a spectrum is 0).
    """
    one, other = (s / s.mean(-1, keepdim=True).clamp_min(1e-30) for s in (one, other))
    return (one - other).abs().mean(-1)
