"""Reading the answer inside the model: the logit lens at every block (nostalgebraist 2020), the best one chosen by half A.

Patil et al. 2024 (arXiv:2309.17410) take what a lens finds for what was not deleted, whatever the output says.
"""

from dataclasses import dataclass

from brittle.attacks.base import Attack
from brittle.models.readout import Reader


@dataclass
class Lens(Attack):
    def run(self, model, tokenizer, material, measure):
        material.forget()  # what the choice of a block rests on
        for block in range(model.config.num_hidden_layers):
            measure(f"behind block {block}", model=Reader(model, block), layer_id=block)
