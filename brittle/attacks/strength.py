"""The strength ladder: what a determined attacker tries against a model that looks robust.

Each rung fine-tunes on A1 as `relearn` does, with one thing changed: the optimizer, adapters,
retain text mixed in, warm restarts, the length, or a transform of its gradients
(brittle/attacks/transforms.py). Four rates span three decades; the longest rungs have the two
middle ones, one each. No rate is ended early: knowledge may come back late. Every point is asked
every split, so recovery is known for every budget of steps; A2 alone chooses.
"""

from dataclasses import dataclass
from typing import ClassVar

from brittle.attacks.base import is_mini, right_pairs
from brittle.attacks.relearn import Relearn, encode_attack
from brittle.base.knobs import knob

# of the mini family; a tenth for any other model
RATES = {
    "adamw": (1e-5, 1e-4, 1e-3, 1e-2),
    "low": (1e-4,),
    "high": (1e-3,),
    "muon": (3e-5, 3e-4, 3e-3, 3e-2),
    "sgd": (1e-3, 1e-2, 1e-1, 1.0),
    "lora": (1e-4, 1e-3, 1e-2, 1e-1),
    "adaptive": (3e-3, 3e-2, 0.3, 3.0),  # lengths of whole updates
}
BUDGETS = (10, 40, 100, 500)
LONG = (500, 1000, 2000, 5000)
RETAINED = 0.5  # share of retain questions where they are mixed in


@dataclass
class Rung(Relearn):
    """All weights by AdamW: 10 to 500 steps, four rates over three decades."""

    ASKS_ALL: ClassVar[bool] = True
    ENDS_EARLY: ClassVar[bool] = False
    RATES_OF: ClassVar[str] = "adamw"
    TRANSFORM: ClassVar[str] = ""
    steps: int = knob(BUDGETS[-1], "Optimizer steps at every rate.", low=1)
    at: tuple = BUDGETS
    optimizer: str = knob("adamw", "Optimizer.", choices=("adamw", "muon", "sgd"))
    retain_share: float = knob(0.0, "Share of retain questions among the texts.", low=0, high=0.9)
    cycles: int = knob(1, "Parts with a cosine schedule each; 1: a constant rate.", low=1)
    rounds: int = knob(1, "Times that adapters are trained and merged.", low=1)

    def default_rates(self, model):
        scale = 1.0 if is_mini(model) else 0.1
        return tuple(float(f"{scale * rate:.3g}") for rate in RATES[self.RATES_OF])

    def rows(self, material):
        """Questions of A1, and so many of the retain set that they are `retain_share`."""
        forget = right_pairs(material.forget_to_train())
        if not self.retain_share:
            return forget
        kept = right_pairs(material.retain())
        count = round(len(forget) * self.retain_share / (1 - self.retain_share))
        return [*forget, *(kept * -(-count // len(kept)))[:count]]

    def run(self, model, tokenizer, material, measure):
        self.transform = self.make_transform(model, tokenizer, material)
        super().run(model, tokenizer, material, measure)

    def make_transform(self, model, tokenizer, material):
        """make(model, pad_id, examples) -> Transform, as FineTuning takes it; or None."""
        if not self.TRANSFORM:
            return None
        from brittle.attacks import transforms

        transform = getattr(transforms, self.TRANSFORM)
        if transform is not transforms.AgreeingWithRetain:
            return transform
        pairs = right_pairs(material.retain())
        retain = encode_attack(model, tokenizer, pairs, self.reading)
        return lambda *of_attack: transform(*of_attack, retain, self.seed)

    def tuning(self, lr, label):
        tuning = super().tuning(lr, label)
        for name in ("optimizer", "cycles", "rounds", "transform"):
            setattr(tuning, name, getattr(self, name))
        return tuning


@dataclass
class LongLow(Rung):
    """All weights by AdamW, up to 5,000 steps, at 1e-4 (other models: 1e-5)."""

    RATES_OF: ClassVar[str] = "low"
    steps: int = knob(LONG[-1], "Optimizer steps at every rate.", low=1)
    at: tuple = LONG


@dataclass
class LongHigh(LongLow):
    """All weights by AdamW, up to 5,000 steps, at 1e-3 (other models: 1e-4)."""

    RATES_OF: ClassVar[str] = "high"


@dataclass
class ByMuon(Rung):
    """Block matrices by Muon, the rest by AdamW."""

    RATES_OF: ClassVar[str] = "muon"
    optimizer: str = knob("muon", "Optimizer.", choices=("adamw", "muon", "sgd"))


@dataclass
class BySGD(Rung):
    """All weights by plain gradient descent."""

    RATES_OF: ClassVar[str] = "sgd"
    optimizer: str = knob("sgd", "Optimizer.", choices=("adamw", "muon", "sgd"))


@dataclass
class Mixed(Rung):
    """Half of the texts are retain questions, which keep the model alive at high rates."""

    retain_share: float = knob(
        RETAINED, "Share of retain questions among the texts.", low=0, high=0.9
    )


@dataclass
class Restarts(Rung):
    """Five parts, each with a cosine schedule from the whole rate to zero."""

    cycles: int = knob(5, "Parts with a cosine schedule each.", low=1)


@dataclass
class ByLora(Rung):
    """Low-rank adapters train in place of the weights."""

    RATES_OF: ClassVar[str] = "lora"
    lora_rank: int = knob(8, "Rank of low-rank adapters.", low=1)


@dataclass
class LoraAgain(ByLora):
    """Low-rank adapters are trained and merged, and others trained: five times."""

    rounds: int = knob(5, "Times that adapters are trained and merged.", low=1)


@dataclass
class AgainstRepSelect(Rung):
    """The adaptive attacker of RepSelect: its gradients with their spectra turned over."""

    RATES_OF: ClassVar[str] = "adaptive"
    TRANSFORM: ClassVar[str] = "TurnedOver"


@dataclass
class AgainstCIR(Rung):
    """The adaptive attacker of CIR and MCU: its gradients without shared directions."""

    RATES_OF: ClassVar[str] = "adaptive"
    TRANSFORM: ClassVar[str] = "WithoutShared"


@dataclass
class AgainstMUDMAN(Rung):
    """The adaptive attacker of MUDMAN: entries that agree in sign with the retain gradient."""

    RATES_OF: ClassVar[str] = "adaptive"
    TRANSFORM: ClassVar[str] = "AgreeingWithRetain"
