"""GCG: one suffix of real tokens behind every question, searched by gradient.

The search is that of Zou et al. 2023 (arXiv:2307.15043), on questions of half A. The suffix is
universal: half B is asked with the same one. The search itself is in suffix_search.py.
"""

from dataclasses import dataclass
from typing import ClassVar

from brittle.attacks.base import Attack, asked_right, frozen
from brittle.base.knobs import knob


@dataclass
class GCG(Attack):
    """The suffix is measured after each number of steps in `at`; 0 is the random one that the
    search starts with.
    """

    HOLDS_OUT: ClassVar[bool] = True
    length: int = knob(8, "Tokens of the suffix.", low=1)
    steps: int = knob(20, "Steps of the search, one swap each.", low=1)
    candidates: int = knob(32, "Swaps tried a step.", low=1)
    top: int = knob(64, "Most promising tokens a position.", low=1)
    items: int = knob(12, "Questions of half A to search with.", low=1)
    at: tuple = (20,)

    def run(self, model, tokenizer, material, measure):
        from brittle.attacks.suffix_search import Suffix, SuffixSearch
        from brittle.data.items import subset
        from brittle.models.architectures import context_length

        items = subset(material.forget_to_train(), self.items, self.seed)
        limit = context_length(model.config) - self.length
        pairs = asked_right(tokenizer, items, limit, self.reading)
        with frozen(model):
            search = SuffixSearch(
                model, tokenizer, pairs, self.length, self.candidates, self.top, self.seed
            )
            for step in range(self.steps + 1):
                if step:
                    search.step()
                if step in self.at:
                    name = f"{self.length} tokens, step {step}"
                    text = tokenizer.decode(search.suffix)
                    measure(name, Suffix(search.suffix), step=step, loss=search.loss, suffix=text)
