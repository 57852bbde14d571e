"""The attacks, one file each, and what they share. ATTACKS lists them in the scoreboard's order.

Reading order: base (the protocol), noise (a short example), material (what an attacker may read),
meter (how an attacked model is measured), session (one model under many attacks), figures. LADDER
lists what only a determined attacker does.
"""

import importlib

from brittle.base.errors import UserError
from brittle.base.knobs import listed

ATTACKS = {
    "none": "base:Attack",
    "relearn": "relearn:Relearn",
    "relearn_lora": "relearn:RelearnLora",
    "relearn_benign": "relearn:RelearnBenign",
    "distill": "distill:DistilledStudent",
    "quantize": "quantize:Quantize",
    "prune": "prune:Prune",
    "noise": "noise:Noise",
    "prompts": "prompts:Prompts",
    "soft_prompt": "soft_prompt:SoftPrompt",
    "gcg": "gcg:GCG",
    "ablate": "ablate:Ablate",
    "lens": "lens:LogitLens",
}

# The rungs of the strength ladder (experiment/ladder.py): dearer than all the attacks above, so
# nobody runs them who does not ask. The last is no attack.
LADDER = {
    "strong_adamw": "strength:Rung",
    "strong_long_low": "strength:LongLow",
    "strong_long_high": "strength:LongHigh",
    "strong_muon": "strength:ByMuon",
    "strong_sgd": "strength:BySGD",
    "strong_mixed": "strength:Mixed",
    "strong_restarts": "strength:Restarts",
    "strong_lora": "strength:ByLora",
    "strong_lora_again": "strength:LoraAgain",
    "adaptive_repselect": "strength:AgainstRepSelect",
    "adaptive_cir": "strength:AgainstCIR",
    "adaptive_mudman": "strength:AgainstMUDMAN",
    "restore": "restore:Restore",
    "learn_b": "price:LearnB",
}


def attack_class(name):
    """The dataclass of the attack called `name`. Raises UserError for an unknown one."""
    known = {**ATTACKS, **LADDER}
    if name not in known:
        raise UserError(f"no attack {name!r}. Attacks: {', '.join(known)}.")
    module, _, cls = known[name].partition(":")
    return getattr(importlib.import_module(f"brittle.attacks.{module}"), cls)


def chosen(names):
    """The attacks of a list with commas, `none` first: without it nothing can be compared."""
    asked = listed(names) or list(ATTACKS)
    for name in asked:
        attack_class(name)
    return list(dict.fromkeys(["none", *asked]))
