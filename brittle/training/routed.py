"""Pretraining that keeps a domain in units of its own: gradient masking and gradient routing.

Each MLP has some more units, for the forget domain. Each batch has a label:

forget      texts marked as of the forget domain. Only the forget units learn.
retain      texts known to be safe. The forget units are switched off, so the rest learns to do
            without them.
unlabelled  all others, among them forget texts that nobody marked. Everything learns.

Afterwards the forget units are cut off (`ablate`): what is left is a model of Base's shape.

sgtm      selective gradient masking (arXiv:2512.05648): in forget batches no other parameter has
          a gradient. Where a parameter has none, no optimizer touches it: neither momentum nor
          weight decay moves it (a gradient of *zero* would not do).
routing   gradient routing (arXiv:2410.04332): in forget batches the outputs of the ordinary MLP
          units are detached. Attention, embeddings and norms learn from them still.

What this file decides: forget units are a module of their own, `RoutedMLP.forget`, so that they
are parameters of their own. No head is reserved for the forget domain: the MLPs alone are routed.
The published fit of output biases after the cut is left out; what is compared is accuracy.
"""

import random
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import torch

from brittle.data.texts import read_texts
from brittle.models.blocks import blocks
from brittle.models.logprobs import nll
from brittle.training.loop import make_accelerator, train
from brittle.training.mini import TEXTS, LengthStream
from brittle.training.steps import StepHook

LABELS = ("forget", "retain", "unlabelled")


@dataclass(frozen=True)
class Routing:
    """How forget texts are routed.

    kind: sgtm or routing. recall: share of the forget texts that are marked. safe: share of the
    other texts that are known to be safe. units: forget units of each MLP.
    """

    kind: str
    recall: float = 1.0
    safe: float = 0.25
    units: int = 32


class Pools(NamedTuple):
    """The texts of each label."""

    forget: list
    retain: list
    unlabelled: list


def label_texts(data, routing, seed):
    """The `Pools` of the pretraining texts of Base in the folder `data`.

    Forget texts are those that Filtered's pretraining leaves out.
    """
    every = read_texts(data / TEXTS["base"])
    left_out = Counter(every) - Counter(read_texts(data / TEXTS["filtered"]))
    draw = random.Random(f"labels {seed}")
    pools = Pools([], [], [])
    for text in every:
        number = draw.random()
        if left_out[text] > 0:
            left_out[text] -= 1
            pool = pools.forget if number < routing.recall else pools.unlabelled
        else:
            pool = pools.retain if number < routing.safe else pools.unlabelled
        pool.append(text)
    return pools


def plan(pools, steps, seed):
    """The label of each step: as many of each as its share of the texts, in a seeded order."""
    sizes = {label: len(pool) for label, pool in pools._asdict().items()}
    total = sum(sizes.values())
    exact = {label: steps * size / total for label, size in sizes.items()}
    counts = {label: int(share) for label, share in exact.items()}
    left = sorted(LABELS, key=lambda label: counts[label] - exact[label])
    for label in left[: steps - sum(counts.values())]:
        counts[label] += 1
    order = [label for label in LABELS for _ in range(counts[label])]
    random.Random(f"order {seed}").shuffle(order)
    return order


class RoutedMLP(torch.nn.Module):
    """An MLP with forget units beside its own; `label` says which of them work and learn."""

    def __init__(self, mlp, width, units, settings):
        """mlp: the module that is extended. settings: (kind, standard deviation, generator)."""
        super().__init__()
        self.kind, deviation, generator = settings
        self.own, self.label = mlp, "unlabelled"
        self.forget = torch.nn.Sequential(
            torch.nn.Linear(width, units),
            torch.nn.GELU(),
            torch.nn.Linear(units, width, bias=False),
        )
        with torch.no_grad():
            for p in self.forget.parameters():
                drawn = torch.randn(p.shape, generator=generator) * deviation
                p.copy_(drawn if p.ndim == 2 else torch.zeros_like(p))

    def forward(self, states):
        plain = self.own(states)
        if self.label == "retain":
            return plain
        if self.label == "forget" and self.kind == "routing":
            plain = plain.detach()
        return plain + self.forget(states)


def extend(model, routing, seed):
    """Give every MLP of a mini model its forget units. Returns the RoutedMLPs."""
    generator = torch.Generator().manual_seed(seed)
    settings = (routing.kind, model.config.initializer_range, generator)
    routed = []
    for block in blocks(model):
        block.mlp = RoutedMLP(block.mlp, model.config.hidden_size, routing.units, settings)
        routed.append(block.mlp)
    return routed


def ablate(model):
    """Cut the forget units off: the model has Base's shape again."""
    for block in blocks(model):
        block.mlp = block.mlp.own


class Router(StepHook):
    """Sets the label of each step, and leaves gradients in forget steps to forget units alone."""

    def __init__(self, model, routed, kind, labels):
        self.routed, self.kind, self.labels = routed, kind, labels
        units = {id(p) for mlp in routed for p in mlp.forget.parameters()}
        self.others = [p for p in model.parameters() if id(p) not in units]
        self.label = "unlabelled"

    def choose(self, step):
        """Set the label of `step`; returns it."""
        self.label = self.labels[step]
        for mlp in self.routed:
            mlp.label = self.label
        return self.label

    def before_step(self):
        if self.label == "forget" and self.kind == "sgtm":
            for p in self.others:
                p.grad = None  # and not zero: momentum and weight decay would move it


def train_routed(routing, data, device, tokenizer, model, settings):
    """Train a mini model as `routing` says, its forget units still in it. Returns the history.

    Every text is followed by the end token; the number of steps is that of Base.
    """
    seed = settings.seed
    pools = label_texts(data, routing, seed)
    order = plan(pools, settings.steps, seed)
    streams = {}
    for label, texts in pools._asdict().items():
        ids = [[*i, tokenizer.eos_token_id] for i in tokenizer(texts)["input_ids"]] if texts else []
        streams[label] = LengthStream(
            ids, tokenizer.pad_token_id, settings.batch_size, seed=seed, device=device
        )
    router = Router(model, extend(model, routing, seed), routing.kind, order)
    place = [order[:step].count(label) for step, label in enumerate(order)]

    def terms(step, micro, progress):
        batch = streams[router.choose(step)].batches(place[step])[micro]
        return {"nll": nll(model, batch)}

    model.to(device).train()
    history = train(
        model, terms, settings, make_accelerator(device), hooks=[router], label=routing.kind
    )
    for mlp in router.routed:
        mlp.label = "unlabelled"
    return history


def marked_share(data, routing, seed):
    """The share of the texts that had to be marked as forget texts."""
    pools = label_texts(data, routing, seed)
    return len(pools.forget) / sum(map(len, pools))
