"""What is wanted of a filter: retain limits that it must keep, and a forget target that it matches.

Everything here reads numbers of a reading, the dict of statistics that tuning.Tuner gives:

    forget_nll, retain_nll, general_nll    loss of the answers, nats a token
    forget_kl, retain_kl, general_kl       KL from the unfiltered model, nats a token
    retain_kl_p90                          90th percentile of it over stretches of retain text
    auc                                    LOSS-AUC of forget texts against never-seen ones, or None
    known                                  share of answers above their runners-up

`general_*` are there only where general text is.
"""

import math
from dataclasses import dataclass, field

RIVALS = 9  # a known answer token still beats so many runners-up of the unfiltered model
CHANCE = 1 / (RIVALS + 1)
KNOWN = 0.05  # excess over chance at which an answer counts as no longer known
LIKE_UNSEEN = 0.05  # a LOSS-AUC within this of 0.5: the noise of an AUC of some hundred texts
EXPLANATIONS = {
    "matched": "",
    "over-forgotten": (
        ": forget texts have become less likely than never-seen ones, which a look at losses tells"
    ),
    "retain-limited": (
        ": more would break the retain limit, the sets share what would have to be removed"
    ),
    "site-limited": ": no strength or number of components at this site does more",
}


@dataclass
class Limits:
    """Nats a token that the KL from the unfiltered model may reach.

    `retain` holds for the mean over retain text and for the 90th percentile over stretches of it,
    `general` for the mean over general text.
    """

    retain: float = 0.05
    general: float = 0.02

    def excess(self, reading):
        """How far a reading lies beyond the limits, in nats.

        It is 0 or less within them, and infinite where a number is not finite.
        """
        excesses = [reading["retain_kl"] - self.retain, reading["retain_kl_p90"] - self.retain]
        if "general_kl" in reading:
            excesses.append(reading["general_kl"] - self.general)
        return max(excesses) if all(map(math.isfinite, excesses)) else math.inf

    def half(self):
        return Limits(self.retain / 2, self.general / 2)


def distance(reading):
    """How far from forgotten a reading is; 0 or less where the target is reached.

    The target: the losses of forget texts are those of never-seen ones (LOSS-AUC at most
    0.5 + LIKE_UNSEEN), and an answer's first token beats the model's own runners-up no more often
    than chance + KNOWN. Infinite where the loss is not finite: a broken model has not forgotten.
    """
    if not math.isfinite(reading.get("forget_nll", 0.0)):
        return math.inf
    known = reading["known"] - CHANCE - KNOWN
    if reading["auc"] is None:
        return known
    return max(known, reading["auc"] - 0.5 - LIKE_UNSEEN)


def overshoot(reading):
    """How far the LOSS-AUC lies below what never-seen text would give.

    Above 0, whoever looks at losses sees that something was removed.
    """
    return 0.0 if reading["auc"] is None else max(0.0, 0.5 - LIKE_UNSEEN - reading["auc"])


@dataclass
class Choice:
    """A filter at its strength, and what it does there.

    `limited`: more (strength, components, gate) would have broken the limits. `curve`:
    [(strength, reading)] around the chosen strength. `strength_limit`: the largest strength within
    the limits.
    """

    filter: object
    reading: dict
    limits: Limits
    limited: bool = False
    curve: list = field(default_factory=list)
    strength_limit: float = 1.0

    @property
    def gated(self):
        return self.filter.gate is not None

    @property
    def beyond(self):
        """Does it break the limits? (At strength 1, before a smaller one is looked for.)"""
        return self.limits.excess(self.reading) > 0

    @property
    def reached(self):
        return distance(self.reading) <= 0 and not self.beyond

    @property
    def status(self):
        if self.reached:
            return "over-forgotten" if overshoot(self.reading) else "matched"
        return "retain-limited" if self.limited else "site-limited"

    @property
    def key(self):
        """Choices are sorted by this, the best first.

        Of those that reach the target the simplest comes first (ungated before gated), then what
        does not overshoot, then the least damage to the retain set. The others follow: those
        within the limits first, then by what they forget.
        """
        if self.reached:
            return 0, self.gated, overshoot(self.reading) > 0, self.reading["retain_kl"]
        return 1, self.beyond, distance(self.reading)

    def reason(self):
        """One sentence with the numbers behind the status."""
        reading = self.reading
        auc = "" if reading["auc"] is None else f"LOSS-AUC {reading['auc']:.2f} (target 0.50), "
        return (
            f"{auc}answers still known {reading['known']:.2f} (chance {CHANCE:.2f}), "
            f"retain KL {reading['retain_kl']:.3f} nats a token, "
            f"90th percentile {reading['retain_kl_p90']:.3f} (limit {self.limits.retain:g})"
            f"{EXPLANATIONS[self.status]}"
        )
