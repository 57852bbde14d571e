"""Restoring ablation: a few directions are projected out of the states, learned so that the model
answers.

    h <- h - U U^T h,    U [D, k] orthonormal, the NLL of A1's answers minimised over it

If unlearning wrote a suppressor of rank k into one block's output, taking it out brings the answers
back, with no weight changed. It is the fitted form of `ablate`: tools that remove refusals are said
to explain their effect by 10 to 30 fitted directions. One block at a time, at most `BLOCKS` of
them, evenly spread; U is the Q of a free matrix, trained by Adam from a random start. On Filtered
it must bring back nothing.
"""

from dataclasses import dataclass
from typing import ClassVar

from brittle.attacks.base import Attack, frozen, right_pairs
from brittle.base.knobs import knob

BLOCKS = 4


def spread_blocks(count):
    """At most BLOCKS block numbers of `count`, evenly spread, the last among them."""
    chosen = min(BLOCKS, count)
    return [round((k + 1) * count / chosen) - 1 for k in range(chosen)]


def fit_basis(loss_of, shape, settings, device):
    """U [D, k] of this shape, orthonormal, that minimises loss_of(U), a scalar tensor.

    settings: (steps, rate, generator).
    """
    import torch

    steps, rate, generator = settings
    free = torch.randn(shape, generator=generator).to(device).requires_grad_()
    optimizer = torch.optim.Adam([free], lr=rate)
    for _ in range(steps):
        (free.grad,) = torch.autograd.grad(loss_of(torch.linalg.qr(free)[0]), [free])
        optimizer.step()
    return torch.linalg.qr(free.detach())[0]


@dataclass
class Restore(Attack):
    """Directions fitted on half A are projected out behind one block: 1 to 32 of them."""

    HOLDS_OUT: ClassVar[bool] = True
    ASKS_ALL: ClassVar[bool] = True
    ranks: tuple = knob((1, 2, 4, 8, 16, 32), "Numbers of directions k.", low=1)
    steps: int = knob(100, "Steps of the fit.", low=1)
    rate: float = knob(0.1, "Rate of the fit.", low=0)
    batch_size: int = knob(32, "Texts a step.", low=1)

    def run(self, model, tokenizer, material, measure):
        from brittle.attacks.relearn import encode_attack
        from brittle.data.batches import Stream
        from brittle.models.blocks import block_count, stream_width

        pairs = right_pairs(material.forget_to_train())
        examples = encode_attack(model, tokenizer, pairs, self.reading)
        pad_id = tokenizer.pad_token_id
        stream = Stream(examples, pad_id, self.batch_size, 1, self.seed, model.device)
        for block in spread_blocks(block_count(model)):
            for rank in self.ranks:
                if rank <= stream_width(model):
                    basis = self.fit(model, stream, block, rank)
                    with projected(model, block, basis):
                        measure(f"block {block}, rank {rank}", block=block, rank=rank)

    def fit(self, model, stream, block, rank):
        """U [D, rank] behind one block, fitted to the texts of a stream."""
        import itertools

        from brittle.maths.intervals import generator
        from brittle.models.blocks import stream_width
        from brittle.models.logprobs import nll

        steps = itertools.count()

        def loss_of(basis):
            with projected(model, block, basis):
                return nll(model, stream.batches(next(steps))[0])

        settings = (self.steps, self.rate, generator(self.seed, f"restore {block} {rank}"))
        with frozen(model):
            return fit_basis(loss_of, (stream_width(model), rank), settings, model.device)


def projected(model, block, basis):
    """The context in which `basis` is projected out behind a block."""
    from brittle.methods.directions import without
    from brittle.models.hooks import edit

    return edit(model, {block: lambda h: without(h, basis).to(h.dtype)})
