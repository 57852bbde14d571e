"""Reading a model's residual stream at any layer: logit lens, tuned lens (Belrose et al. 2023),
direct vocabulary probe.

The readout runs the model's own forward pass with all blocks skipped, so the final norm and the
unembedding are the model's in every architecture, and at the last layer a lens gives the model's
own logits to the last bit.
"""

import torch
import torch.nn.functional as F

from brittle.data.batches import batches
from brittle.diagnostics.common import TOKENS
from brittle.maths.intervals import generator
from brittle.models.architectures import size
from brittle.models.blocks import block_count, stream_width
from brittle.models.hooks import residual_stream
from brittle.models.readout import read_tokens

LENSES = ("logit", "tuned", "vocab_probe")
TOGETHER = 4  # layers fitted side by side: one readout of their tokens, and Adam's state of no more


class Lens(torch.nn.Module):
    """An affine map of the residual stream, zero at the start, to be read as logits."""

    def __init__(self, model, outputs):
        super().__init__()
        self.model = [model]  # in a list, so that its parameters are not this module's
        self.map = torch.nn.Linear(stream_width(model), outputs)
        torch.nn.init.zeros_(self.map.weight)
        torch.nn.init.zeros_(self.map.bias)

    def forward(self, h):
        return self.read(self.translate(h))


class Tuned(Lens):
    """h + A h + b, A and b zero at the start: an untrained tuned lens is the logit lens."""

    def __init__(self, model):
        super().__init__(model, stream_width(model))

    def translate(self, h):
        return h.float() + self.map(h.float())

    def read(self, translated):
        return read_tokens(self.model[0], translated)


class VocabProbe(Lens):
    """One affine map from the stream to the vocabulary, past the model's own unembedding."""

    def __init__(self, model):
        super().__init__(model, size(model.config, "vocab_size"))

    def translate(self, h):
        return self.map(h.float())

    def read(self, translated):
        return translated


def tokens(model, ids, pad_id, batch_size, count, seed):
    """[N+1, n, D]: the residual stream at up to `count` real tokens of texts drawn by `seed`; on
    the CPU.
    """
    draw = generator(seed, "lens tokens")
    chosen, streams, total = [], [], 0
    for i in torch.randperm(len(ids), generator=draw).tolist():
        chosen.append(ids[i])
        total += len(ids[i])
        if total >= 2 * count:  # enough to draw from, so neighbouring tokens do not crowd
            break
    with torch.no_grad():
        for _, batch in batches(chosen, pad_id, batch_size, model.device, TOKENS):
            real = batch["attention_mask"].bool()
            streams.append(torch.stack([h[real] for h in residual_stream(model, batch)]).cpu())
    every = torch.cat(streams, 1)
    return every[:, torch.randperm(every.shape[1], generator=draw)[:count]]


def train_lenses(kind, model, h, final, steps, batch_size, lr, seed):
    """Lenses of `kind` for the layers of h [L, n, D]: Adam on each one's KL(final || lens), `final`
    [n, V] log-probabilities.
    """
    with torch.random.fork_rng(devices=[]):
        lenses = torch.nn.ModuleList(
            {"tuned": Tuned, "vocab_probe": VocabProbe}[kind](model) for _ in h
        ).to(model.device)
    parameters, draw = list(lenses.parameters()), generator(seed, "lens batches")
    optimizer = torch.optim.Adam(parameters, lr=lr, fused=True)
    for step in range(steps):
        picked = torch.randint(h.shape[1], (min(batch_size, h.shape[1]),), generator=draw)
        translated = [
            lens.translate(x.to(model.device)) for lens, x in zip(lenses, h[:, picked], strict=True)
        ]
        logprobs = F.log_softmax(lenses[0].read(torch.cat(translated)), -1)
        wanted = final[picked].to(model.device).repeat(len(lenses), 1)
        # A sum over lenses: each learns alone.
        total = F.kl_div(logprobs, wanted, log_target=True, reduction="sum")
        loss = total / len(picked)
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        gradients = torch.autograd.grad(loss, parameters)  # of the lenses alone, not of the model
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    return list(lenses.requires_grad_(requires_grad=False))


def make_lenses(kind, model, h=None, steps=100, batch_size=128, lr=3e-3, seed=0):
    """[N+1] functions h [n, D] -> logits [n, V]; trained ones on h [N+1, n, D]. The last layer's is
    the model's readout.
    """
    plain = [lambda x: read_tokens(model, x)] * (block_count(model) + 1)
    if kind == "logit":
        return plain
    with torch.no_grad():
        last = [
            F.log_softmax(read_tokens(model, some.to(model.device)), -1).cpu()
            for some in h[-1].split(1024)
        ]
    final = torch.cat(last)
    lenses = []
    for some in h[:-1].split(TOGETHER):
        lenses += train_lenses(kind, model, some, final, steps, batch_size, lr, seed)
    return lenses + plain[-1:]
