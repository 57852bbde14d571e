"""Definitions of the same metric that differ by source, so that older numbers can be reproduced and the difference shown.

`paper` is what we report. Sources: TOFU's paper and code (arXiv:2401.06121, locuslab/tofu), MUSE's code (arXiv:2407.06460),
open-unlearning's code. What differs:

eos         is the end token part of the answer that is scored
utility     mean over the wrong answers in the truth ratio of model utility: arithmetic of probabilities, or geometric
forget      the same in the truth ratio of forget quality
rouge       ROUGE-L recall or F1 in tables and in model utility;  stem: with Porter's stemmer
rows        only the first rows of a set (TOFU's ds_size)
min_k       share of lowest tokens in MIN-K %
drop_last   exact memorisation and extraction strength leave the last label out
floor       extraction strength never reaches "no suffix": at least 1/n, also for a model that predicts nothing
boundary    `together`: the answer is what follows the tokens that prompt and whole text share; `length`: what follows as many
            tokens as the prompt has; with a template that ends in a blank the first answer token is then not scored
"""

from dataclasses import dataclass, fields

from brittle.base.errors import UserError


@dataclass(frozen=True)
class Definitions:
    name: str
    eos: bool = False
    utility: str = "arith"
    forget: str = "arith"
    rouge: str = "recall"
    stem: bool = True
    rows: int | None = None
    min_k: float = 0.2
    drop_last: bool = False
    floor: bool = False
    boundary: str = "together"

    def differs(self, other):
        """{field: (ours, the other's)} where two definitions differ."""
        pairs = {
            f.name: (getattr(self, f.name), getattr(other, f.name))
            for f in fields(self)
            if f.name != "name"
        }
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


DEFINITIONS = {
    d.name: d
    for d in (
        Definitions("paper"),
        Definitions("tofu", eos=True, forget="geom", rows=300),
        Definitions("muse", rouge="f1", stem=False, min_k=0.4),
        Definitions("open-unlearning", eos=True, utility="geom", forget="geom", min_k=0.4, drop_last=True, floor=True,
                    boundary="length"),
    )
}  # fmt: skip


def named(name):
    if name not in DEFINITIONS:
        raise UserError(f"--definitions {name}: choose {', '.join(DEFINITIONS)}.")
    return DEFINITIONS[name]
