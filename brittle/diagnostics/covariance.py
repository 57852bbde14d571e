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


# The null's halves. Texts are dealt into PARTS random parts, and each of HALVES names the parts of
# one half; the others are the other half. Second moments are kept by part: at 6.9B the six take
# 27 GB.
PARTS = 6
HALVES = ((0, 1, 2), (0, 2, 3), (0, 3, 4), (0, 4, 5), (0, 1, 5))


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


def moments(streams, dealt, parts=PARTS):
    """(sum [parts, N+1, D], second moment [parts, N+1, D, D], text means [texts, N+1, D]), float64;
    text i is in the part `dealt[i]`.
    """
    n, layers, width = len(streams.ids), streams.layers, streams.width
    new = {"dtype": torch.float64, "device": streams.model.device}
    total, square = (
        torch.zeros(n, layers, width, **new),
        torch.zeros(parts, layers, width, width, **new),
    )
    dealt = dealt.to(streams.model.device)
    for owner, hidden in streams:
        inside = [dealt[owner] == p for p in range(parts)]
        for layer, h in enumerate(hidden):
            h = h.double()
            total[:, layer].index_add_(0, owner, h)
            for p in range(parts):
                x = h[inside[p]]
                square[p, layer].addmm_(x.T, x)
    sums = torch.stack([total[dealt == p].sum(0) for p in range(parts)])
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


def in_halves(dealt):
    """[splits, 2, texts] bool: which texts are in each half of each split; dealt [texts]."""
    first = torch.stack([isin(dealt, half) for half in HALVES])
    return torch.stack([first, ~first], 1)


def isin(dealt, half):
    """[texts] bool: is a text dealt into one of `half`?"""
    return torch.isin(dealt, torch.tensor(half))


def by_token(streams, dealt, halves):
    """(text means, [{values, halves, energy, linear, count} a layer]) of the tokens' covariance.

    dealt [texts]: each text's part; `halves` asks for the null's spectra [splits, 2, D].
    """
    # In parts also where no halves are asked for: the sums of both models must round alike.
    total, square, means = moments(streams, dealt)
    count = torch.tensor([len(i) for i in streams.ids])
    vectors = torch.zeros(streams.layers, streams.width, streams.width, device=square.device)
    layers = []
    for layer in range(streams.layers):
        row = {}
        if halves:
            row["halves"] = torch.stack(
                [
                    half_spectra(total[:, layer], square[:, layer], count, dealt, half)
                    for half in HALVES
                ]
            )
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


def half_spectra(total, square, count, dealt, half):
    """[2, D] eigenvalues, descending, of the covariances of one half's tokens and the other's.

    total [parts, D] and square [parts, D, D] of one layer; count and dealt [texts].
    """
    spectra = []
    for parts in (half, tuple(set(range(PARTS)) - set(half))):
        tokens, chosen = int(count[isin(dealt, parts)].sum()), list(parts)
        values = eigenvalues(covariance(total[chosen].sum(0), square[chosen].sum(0), tokens))
        spectra.append(values.flip(0).clamp_min(0).cpu())
    return torch.stack(spectra)


def by_text(x, dealt, halves):
    """{values, halves, energy, linear, count} of the covariance of texts x [n, D], float64."""

    def centred(texts):
        return texts - texts.mean(0)

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
    if halves:
        spectra = [
            values(spectrum(centred(x[inside.to(x.device)])), int(inside.sum()))
            for inside in in_halves(dealt).flatten(0, 1)
        ]
        row["halves"] = torch.stack(spectra).unflatten(0, (len(HALVES), 2))
    return row


def collect(streams, dealt, halves):
    """{token, text: what `by_token` and `by_text` find a layer} of one model on the texts of one
    split; dealt [texts]: each text's part.
    """
    means, tokens = by_token(streams, dealt, halves)
    return {
        "token": tokens,
        "text": [by_text(means[:, layer], dealt, halves) for layer in range(means.shape[1])],
    }


def wasserstein(one, other):
    """[draws]: mean |difference| of sorted eigenvalues [draws, p], each spectrum over its mean (0
    where a spectrum is 0).
    """
    one, other = (s / s.mean(-1, keepdim=True).clamp_min(1e-30) for s in (one, other))
    return (one - other).abs().mean(-1)
