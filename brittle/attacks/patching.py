"""Activation patching from the base into the unlearned model: where is the knowledge stopped?

    stream k   the base's stream behind block k, then the unlearned model's blocks and readout
    upper k    the unlearned model's stream behind block k, then the base's blocks and readout
    block k    the unlearned model with the base's block k

`krs` is the knowledge recovery score of Hong et al. 2024 (arXiv:2410.06606), 1 - MSE(z, z_base) /
MSE(z_unlearned, z_base) over the logits z that predict the answers' tokens: 1 is the base's output,
0 the unlearned model's. It takes the base, so it is no attack but a diagnosis.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import torch

from brittle.attacks.base import Attack, encode_right_answers
from brittle.data.batches import batches
from brittle.data.tokens import answer_mask
from brittle.models.architectures import context_length
from brittle.models.blocks import block_count, blocks
from brittle.models.hooks import hidden, resume

KINDS = ("stream", "upper", "block")


class Patched:
    """Answers like `host`, but its stream behind `block` is `source`'s."""

    def __init__(self, host, source, block):
        self.host, self.source, self.block = host, source, block
        self.config, self.device = host.config, host.device

    def __call__(self, **batch):
        with torch.no_grad():
            h = hidden(self.source, batch, [self.block])[self.block]
        with resume(self.host, self.block, h):
            return self.host(**batch)


@contextmanager
def restored(model, base, chosen, *, rest=False):
    """Yield a model with `base`'s blocks of `chosen` and `model`'s others.

    Embeddings and readout are the model's, or with `rest` the base's.
    """
    host, guest = (base, model) if rest else (model, base)
    wanted = [k for k in range(block_count(model)) if (k in chosen) != rest]
    own = [blocks(host)[k] for k in wanted]
    try:
        for k in wanted:
            blocks(host)[k] = blocks(guest)[k]
        yield host
    finally:
        for k, module in zip(wanted, own, strict=True):
            blocks(host)[k] = module


@torch.no_grad()
def answer_logits(model, ids, starts, pad_id, batch_size=64):
    """[answer tokens, V] float32: the logits that predict the tokens of the answers."""
    logits = []
    for indices, batch in batches(ids, pad_id, batch_size, model.device):
        begins = torch.tensor([starts[i] for i in indices], device=model.device)
        answer = answer_mask(batch, begins)
        logits.append(model(**batch).logits[:, :-1][answer].float())
    return torch.cat(logits)


def recovery_score(patched, unlearned, base):
    """KRS of logits [tokens, V]; None where the unlearned model's are the base's."""
    whole = float((unlearned - base).pow(2).mean())
    return 1 - float((patched - base).pow(2).mean()) / whole if whole else None


@dataclass
class Patch(Attack):
    base: object = None
    kinds: tuple = KINDS
    items: int = 200

    def run(self, model, tokenizer, material, measure):
        ids, starts = encode_right_answers(
            tokenizer, material.forget()[: self.items], context_length(model.config), self.reading
        )
        asked = (ids, starts, tokenizer.pad_token_id)
        ends = [answer_logits(m, *asked) for m in (model, self.base)]

        def ask(kind, block, patched):
            score = recovery_score(answer_logits(patched, *asked), *ends)
            measure(f"{kind} {block}", model=patched, kind=kind, layer_id=block, krs=score)

        for block in range(block_count(model)):
            if "stream" in self.kinds:
                ask("stream", block, Patched(model, self.base, block))
            if "upper" in self.kinds:
                ask("upper", block, Patched(self.base, model, block))
            if "block" in self.kinds:
                with restored(model, self.base, {block}) as host:
                    ask("block", block, host)
