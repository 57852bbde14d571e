"""The unlearning methods, one file each, and what they share. METHODS lists them by name.

Reading order: base (the protocol), npo (a short example), terms, wrappers, masks, adversary, refusals;
then sequential/, the one method that is a folder. Modules are loaded when they are asked for.
"""

import importlib
import re

from brittle.base.errors import UserError

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
}


def method_class(name):
    """The dataclass of the method called `name`. Raises UserError with the list for an unknown one."""
    if name not in METHODS:
        raise UserError(f"no method {name!r}. Methods: {', '.join(METHODS)}.")
    module, _, cls = METHODS[name].partition(":")
    return getattr(importlib.import_module(f"brittle.methods.{module}"), cls)


def describe(name):
    """{title, paper, url, formula} of a method, from its module's docstring: the first line names the publication (an arXiv
    number, or a repository), the first indented block is the formula, each line up to a wide gap."""
    text = importlib.import_module(method_class(name).__module__).__doc__.strip()
    paper, number, repository = re.search(
        r"\(([^()]*?), (?:arXiv:(\d{4}\.\d{5})|(github\.com/[\w./-]+))", text
    ).groups()
    formula = re.search(r"\n\n((?:    .*\n)+)", text + "\n")[1]
    parts = [re.split(r"\s{4,}", line.strip())[0].rstrip(",;") for line in formula.splitlines()]
    return {
        "title": text.partition(" (")[0], "paper": paper,
        "url": f"https://arxiv.org/abs/{number}" if number else f"https://{repository}", "formula": "; ".join(parts)
    }  # fmt: skip
