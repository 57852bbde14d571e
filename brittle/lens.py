"""Reading a model's residual stream at any layer: logit lens, tuned lens (Belrose et al. 2023), direct vocabulary probe.

The readout runs the model's own forward pass with all blocks skipped, so the final norm and the unembedding are the model's
in every architecture, and at the last layer a lens gives the model's own logits to the last bit.
"""

import torch
import torch.nn.functional as F

from brittle.activations import residual_stream, resume
from brittle.diagnostics import TOKENS
from brittle.stats import generator
from brittle.text import batches

LENSES = ("logit", "tuned", "vocab_probe")


def readout(model, batch, h):
    """Logits [B, T, V] of the model with `h` [B, T, D] as the output of its last block."""
    with resume(model, model.config.num_hidden_layers - 1, h):
        return model(**batch).logits


def read_tokens(model, h):
    """Logits [n, V], float32, of residual vectors h [n, D]."""
    ones = torch.ones(len(h), 1, dtype=torch.long, device=h.device)
    return readout(model, {"input_ids": ones * 0, "attention_mask": ones}, h[:, None].to(model.dtype))[:, 0].float()


class Tuned(torch.nn.Module):
    """h + A h + b, A and b zero at the start: an untrained tuned lens is the logit lens."""

    def __init__(self, model):
        super().__init__()
        self.model = [model]  # in a list, so that its parameters are not this module's
        self.map = torch.nn.Linear(model.config.hidden_size, model.config.hidden_size)
        torch.nn.init.zeros_(self.map.weight)
        torch.nn.init.zeros_(self.map.bias)

    def forward(self, h):
        return read_tokens(self.model[0], h.float() + self.map(h.float()))


class VocabProbe(torch.nn.Module):
    """One affine map from the residual stream to the vocabulary, past the model's own unembedding."""

    def __init__(self, model):
        super().__init__()
        self.map = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size)
        torch.nn.init.zeros_(self.map.weight)
        torch.nn.init.zeros_(self.map.bias)

    def forward(self, h):
        return self.map(h.float())


def tokens(model, ids, pad_id, batch_size, count, seed):
    """[N+1, n, D]: the residual stream at up to `count` real tokens of texts drawn by `seed`; on the CPU."""
    draw, found, chosen, total = generator(seed, "lens tokens"), [], [], 0
    for i in torch.randperm(len(ids), generator=draw).tolist():
        chosen.append(ids[i])
        total += len(ids[i])
        if total >= 2 * count:  # enough to draw from, so neighbouring tokens do not crowd
            break
    with torch.no_grad():
        for _, batch in batches(chosen, pad_id, batch_size, model.device, TOKENS):
            real = batch["attention_mask"].bool()
            found.append(torch.stack([h[real] for h in residual_stream(model, batch)]).cpu())
    every = torch.cat(found, 1)
    return every[:, torch.randperm(every.shape[1], generator=draw)[:count]]


def train_lens(kind, model, h, final, steps, batch_size, lr, seed):
    """A lens of `kind` for one layer, fitted to h [n, D]: Adam on KL(final || lens), `final` [n, V] log-probabilities."""
    with torch.random.fork_rng(devices=[]):
        lens = {"tuned": Tuned, "vocab_probe": VocabProbe}[kind](model).to(model.device)
    optimizer = torch.optim.Adam(lens.parameters(), lr=lr)
    draw = generator(seed, "lens batches")
    for step in range(steps):
        picked = torch.randint(len(h), (min(batch_size, len(h)),), generator=draw)
        logprobs = F.log_softmax(lens(h[picked].to(model.device)), -1)
        loss = F.kl_div(logprobs, final[picked].to(model.device), log_target=True, reduction="batchmean")
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        gradients = torch.autograd.grad(loss, list(lens.parameters()))  # of the lens alone, not of the model
        for parameter, gradient in zip(lens.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    return lens.requires_grad_(False)


def make_lenses(kind, model, h=None, steps=100, batch_size=128, lr=3e-3, seed=0):
    """[N+1] functions h [n, D] -> logits [n, V]; trained ones on h [N+1, n, D]. The last layer's is the model's readout."""
    plain = [lambda x: read_tokens(model, x)] * (model.config.num_hidden_layers + 1)
    if kind == "logit":
        return plain
    with torch.no_grad():
        last = [F.log_softmax(read_tokens(model, part.to(model.device)), -1).cpu() for part in h[-1].split(1024)]
    final = torch.cat(last)
    return [train_lens(kind, model, x, final, steps, batch_size, lr, seed) for x in h[:-1]] + plain[-1:]
