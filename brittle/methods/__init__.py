"""The unlearning methods, one file each, and what they share. METHODS lists them by name.

Reading order: base (the protocol), npo (a short example), terms, wrappers, masks, adversary,
refusals, distill with labels and teachers, own (a class in a file of the user), controls (CONTROLS:
fine-tunes that unlearn nothing); then sequential/, the one method that is a folder. Modules are
loaded when asked for.
"""

import importlib
import re
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.base.knobs import listed
from brittle.base.layout import is_method_file, method_label

METHODS = {
    "ga_simple": "ga_simple:GASimple",
    "ga": "ga:GA",
    "grad_diff": "grad_diff:GradDiff",
    "kl_min": "kl_min:KLMin",
    "dpo": "dpo:DPO",
    "idk": "idk:IDK",
    "npo": "npo:NPO",
    "simnpo": "simnpo:SimNPO",
    "me": "me:ME",
    "rmu": "rmu:RMU",
    "cb": "cb:CB",
    "lat": "lat:LAT",
    "cb_lat": "cb_lat:CBLAT",
    "ngdiff": "ngdiff:NGDiff",
    "tar": "tar:TAR",
    "sequential": "sequential.method:Sequential",
    "wt_dist": "wt_dist:WtDist",
    "wt_dist_reg": "wt_dist_reg:WtDistReg",
    "task_vector": "task_vector:TaskVector",
    "negmerge": "negmerge:NegMerge",
    "repair": "repair:Repair",
    "sam": "sam:SAM",
    "distill": "distill:Distill",
    "undo": "undo:Undo",
    "oracle_match": "oracle_match:OracleMatch",
    "repselect": "repselect:RepSelect",
    "cir": "cir:CIR",
    "mcu": "mcu:MCU",
    "mudman": "mudman:MUDMAN",
}
CONTROLS = {"finetuned": "controls:Finetuned", "added": "controls:Added"}


def method_class(name):
    """The dataclass of the method called `name`, also of `path/to/mine.py:Mine`.

    Raises UserError for an unknown one.
    """
    known = METHODS | CONTROLS
    if is_method_file(name):
        from brittle.methods.own import load

        return load(name, known)
    if name not in known:
        raise UserError(
            f"no method {name!r}. Methods: {', '.join(METHODS)}, or path/to/mine.py:Mine."
        )
    module, _, cls = known[name].partition(":")
    return getattr(importlib.import_module(f"brittle.methods.{module}"), cls)


def chosen(text, known=METHODS):
    """The methods of a text with commas, each once; all of `known` where it is empty.

    Raises UserError for a file of the user that holds no method, and for two of one name: it is
    their folders' and rows'.
    """
    named = list(dict.fromkeys(listed(text))) or list(known)
    labels = {}
    for name in named:
        if is_method_file(name):
            method_class(name)
        other = labels.setdefault(method_label(name).casefold(), name)
        if other != name:
            raise UserError(
                f"--methods {other} and {name} have one name, so their results would mix. "
                "Rename a class."
            )
    return named


class Description(NamedTuple):
    """What a method's docstring says of it; an empty text where it does not say."""

    title: str
    paper: str  # of its publication: authors and year
    url: str
    formula: str


# (Zhang et al. 2024, arXiv:2404.05868 ...) or (EleutherAI 2026, github.com/EleutherAI/unlearn)
PUBLICATION = re.compile(r"\(([^()]*?), (?:arXiv:(\d{4}\.\d{5})|(github\.com/[\w./-]+))")
FORMULA = re.compile(r"\n\n((?:    .*\n)+)")


def describe(name):
    """The Description of a method, from its module's docstring.

    The first paragraph is the title and names the publication, by an arXiv number or a repository.
    The first indented block is the formula, each line up to a wide gap.
    """
    text = importlib.import_module(method_class(name).__module__).__doc__ or name
    text = text.strip() + "\n"
    head = " ".join(text.partition("\n\n")[0].split())
    publication, formula = PUBLICATION.search(head), FORMULA.search(text)
    paper, url, lines = "", "", []
    if publication:
        paper, number, repository = publication.groups()
        url = f"https://arxiv.org/abs/{number}" if number else f"https://{repository}"
    if formula:
        lines = [re.split(r"\s{4,}", line.strip())[0] for line in formula[1].splitlines()]
    return Description(
        title=head.partition(" (")[0].rstrip("."),
        paper=paper,
        url=url,
        formula="; ".join(line.rstrip(",;") for line in lines),
    )
