"""Definitions of the same metric that differ by source, so that older numbers can be compared.

`paper` is what we report. Sources: TOFU's paper and code (arXiv:2401.06121, locuslab/tofu), MUSE's
code (arXiv:2407.06460), open-unlearning's code.
"""

from dataclasses import dataclass, fields

from brittle.base.errors import UserError


@dataclass(frozen=True)
class Definitions:
    """One source's choices.

    eos: the end token is scored as part of the answer. utility: the mean over wrong answers in the
    truth ratio of model utility: `arith` or `geom`. forget: the same, in the truth ratio of forget
    quality. rouge: ROUGE-L `recall` or `f1` in tables and in model utility. stem: ROUGE with
    Porter's stemmer. rows: only the first rows of a set (TOFU's ds_size). min_k: share of the
    lowest tokens in MIN-K %. drop_last: exact memorisation and extraction strength leave the last
    label out. floor: extraction strength is at least 1/n, also for a model that predicts nothing.
    boundary: where the answer begins. `together`: behind the tokens that prompt and whole text
    share.
        `length`: behind as many tokens as the prompt has. With a template that ends in a blank, the
        first answer token is then not scored.
    """

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
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        del pairs["name"]
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


DEFINITIONS = {
    "paper": Definitions("paper"),
    "tofu": Definitions("tofu", eos=True, forget="geom", rows=300),
    "muse": Definitions("muse", rouge="f1", stem=False, min_k=0.4),
    "open-unlearning": Definitions(
        "open-unlearning",
        eos=True,
        utility="geom",
        forget="geom",
        min_k=0.4,
        drop_last=True,
        floor=True,
        boundary="length",
    ),
}


def named(name):
    """The `Definitions` of a source. Raises UserError for an unknown one."""
    if name not in DEFINITIONS:
        raise UserError(f"--definitions {name}: choose {', '.join(DEFINITIONS)}.")
    return DEFINITIONS[name]
