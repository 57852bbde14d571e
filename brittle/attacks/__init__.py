"""The attacks, one file each, and what they share. ATTACKS lists them in the scoreboard's order.

Reading order: base (the protocol), noise (a short example), material (what an attacker may read),
meter (how an attacked model is measured), session (one model under many attacks), figures.
"""

import importlib

from brittle.base.errors import UserError
from brittle.base.knobs import listed

ATTACKS = {
    "none": "base:Attack",
    "relearn": "relearn:Relearn",
    "relearn_lora": "relearn:RelearnLora",
    "relearn_benign": "relearn:RelearnBenign",
    "quantize": "quantize:Quantize",
    "prune": "prune:Prune",
    "noise": "noise:Noise",
    "prompts": "prompts:Prompts",
    "soft_prompt": "soft_prompt:SoftPrompt",
    "gcg": "gcg:GCG",
    "ablate": "ablate:Ablate",
    "lens": "lens:LogitLens",
}


def attack_class(name):
    """The dataclass of the attack called `name`. Raises UserError for an unknown one."""
    if name not in ATTACKS:
        raise UserError(f"no attack {name!r}. Attacks: {', '.join(ATTACKS)}.")
    module, _, cls = ATTACKS[name].partition(":")
    return getattr(importlib.import_module(f"brittle.attacks.{module}"), cls)


def chosen(names):
    """The attacks of a list with commas, `none` first: without it nothing can be compared."""
    asked = listed(names) or list(ATTACKS)
    for name in asked:
        attack_class(name)
    return list(dict.fromkeys(["none", *asked]))
