"""Reading the answer inside the model: the logit lens at every block (nostalgebraist 2020), the best one chosen by half A.

Patil et al. 2024 (arXiv:2309.17410) take what a lens finds for what was not deleted, whatever the output says.
"""

from dataclasses import dataclass
from types import SimpleNamespace

from brittle import lens
from brittle.activations import hidden
from brittle.attacks.base import Attack


class Reader:
    """Answers like a model, with the logits that the readout makes of the stream behind `block`."""

    def __init__(self, model, block):
        self.model, self.block, self.config, self.device = model, block, model.config, model.device

    def __call__(self, **batch):
        h = hidden(self.model, batch, [self.block])[self.block]
        return SimpleNamespace(logits=lens.readout(self.model, batch, h))


@dataclass
class Lens(Attack):
    def run(self, model, tokenizer, material, measure):
        material.forget()  # what the choice of a block rests on
        for block in range(model.config.num_hidden_layers):
            measure(f"behind block {block}", model=Reader(model, block), layer_id=block)
