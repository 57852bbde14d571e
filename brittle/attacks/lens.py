"""The logit lens reads the answer behind every inner block; half A chooses the block.

The lens is the final norm and the unembedding applied to the stream behind a block (nostalgebraist
2020). Patil et al. 2024 (arXiv:2309.17410) take what a lens finds for what was not deleted,
whatever the output says.
"""

from dataclasses import dataclass

from brittle.attacks.base import Attack
from brittle.models.blocks import block_count


@dataclass
class LogitLens(Attack):
    """Each block is a variant."""

    def run(self, model, tokenizer, material, measure):
        from brittle.models.readout import BehindBlock

        material.forget()  # what the choice of a block rests on
        for block in range(block_count(model)):
            measure(f"behind block {block}", model=BehindBlock(model, block), layer_id=block)
