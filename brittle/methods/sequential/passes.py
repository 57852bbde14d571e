"""Forward passes of sequential unlearning: the frozen suffix as a probe, and no block in vain.

Block k maps the residual stream h_k to h_{k+1}. No architecture's forward pass is written here: the
model's own runs, and blocks that are not wanted hand on what they get. So masks, positions and
rotary embeddings are right, and the final norm acts once.
"""

import contextlib
import copy

import torch

from brittle.methods.terms import moved
from brittle.models.blocks import blocks
from brittle.models.hooks import hidden, resume


class Originals:
    """theta_0 while blocks train in turn: `with originals as model:` gives the starting weights.

    Only blocks that train have a second copy (`keep`, before they do); every other weight is the
    model's own. The copies are modules of their own, so that gradients can flow through theta_0
    while theta is in the same graph. Under autocast a copy is kept in bfloat16 where that loses
    nothing, as for every checkpoint published in it.
    """

    def __init__(self, model):
        self.model, self.kept = model, {}

    def keep(self, block):
        """Copy `block` as it is now, unless it has been."""
        if block in self.kept:
            return
        module = blocks(self.model)[block]
        with _without_gradients(module):
            self.kept[block] = copy.deepcopy(module).requires_grad_(requires_grad=False)
        if torch.is_autocast_enabled(self.model.device.type):
            for p in self.kept[block].parameters():
                short = p.data.bfloat16()
                if p.ndim == 2 and torch.equal(short.to(p.dtype), p.data):
                    p.data = short

    def pairs(self, block):
        """[(parameter, its starting value), ...] of a block."""
        now, start = blocks(self.model)[block], self.kept[block]
        return list(zip(now.parameters(), start.parameters(), strict=True))

    def _swap(self):
        modules = blocks(self.model)
        for k, module in self.kept.items():
            self.kept[k], modules[k] = modules[k], module

    def __enter__(self):
        self.was_training, self.no_grad = self.model.training, torch.no_grad()
        self.no_grad.__enter__()
        self._swap()
        self.model.eval()
        # a block's own flag decides on gradient checkpointing alone: dropout is below it
        for module in blocks(self.model):
            module.training = self.was_training
        return self.model

    def __exit__(self, *error):
        self._swap()
        self.model.train(self.was_training)
        self.no_grad.__exit__(*error)


@contextlib.contextmanager
def _without_gradients(module):
    """A copy must not bring the gradients along."""
    held = [(p, p.grad) for p in module.parameters()]
    for p, _ in held:
        p.grad = None
    try:
        yield
    finally:
        for p, grad in held:
            p.grad = grad


class Passes:
    """The passes of the phase of `block`. `reference`: Originals, or reference.AdapterOff.

    With `below_fixed` nothing below `block` has moved or will: those blocks run once a batch
    without a graph, for theta and theta_0 alike, and the backward pass ends at `block`.
    """

    def __init__(self, model, reference, block, below_fixed):
        self.model = model
        self.reference = reference
        self.block = block
        self.below_fixed = below_fixed

    @contextlib.contextmanager
    def from_block(self, batch):
        """Forward passes on `batch` start at `block`, where what is below allows it."""
        if not self.below_fixed or not self.block:
            yield
            return
        with torch.no_grad():
            h = hidden(self.model, batch, [self.block - 1])[self.block - 1]
        with resume(self.model, self.block - 1, h):
            yield

    def probe(self, batch, start="block_output"):
        """Logits [B, T, V] of the frozen suffix, from the states of `block` under theta.

        start: block_output for its output, block_input for its input.
        """
        read = self.block if start == "block_output" else self.block - 1
        with self.from_block(batch):
            h = hidden(self.model, batch, [read])[read]
        with self.reference as frozen, torch.enable_grad(), resume(frozen, read, h):
            return frozen(**batch).logits

    def live(self, batch):
        """Logits of the whole model in training."""
        with self.from_block(batch):
            return self.model(**batch).logits

    def live_and_frozen(self, batch):
        """Logits under theta and theta_0, the latter without gradients."""
        with self.from_block(batch):
            now = self.model(**batch).logits
            with self.reference as frozen:
                return now, frozen(**batch).logits

    def distance(self, batch, layers):
        """Mean of ||h - h_start||_2 over real tokens and the outputs of the blocks `layers`.

        Blocks below a fixed `block` count 0.
        """
        read = [k for k in layers if not self.below_fixed or k >= self.block]
        with self.from_block(batch):
            now = hidden(self.model, batch, read)
            with self.reference as frozen:
                before = hidden(frozen, batch, read)
        return moved(now, before, batch) * len(read) / len(layers)
