"""Did the training unlearn anything? And what to change where it did not, or where it broke the
model.

Nothing was unlearned where each measure of the forget set moved by less than its noise: the half
width of its 95 % interval before the training.
"""

from typing import NamedTuple

from brittle.base.knobs import flag
from brittle.data.items import groups_of
from brittle.maths.intervals import mean_interval, share
from brittle.training.steps import StepHook

# knobs of which more keeps more of the model
RETAIN_KNOBS = ("retain_weight", "retain_alpha", "retain_coef", "alpha")
# knobs of which more forgets more
FORGET_KNOBS = ("forget_weight", "steering_coeff", "remove_coef")
QUESTIONS = 200  # forget questions that are asked on the way
SHORTEST = 8  # steps; a shorter run is not looked at on its way


class MeasureNoise(NamedTuple):
    """Half widths of the 95 % intervals before the training; None is not measured."""

    accuracy: float | None  # forget accuracy; None also where too few entities are asked about
    nll: float | None  # held-out forget NLL a token; None as for the accuracy


def noise_of(rights, items, nlls, entities):
    """The `MeasureNoise` of a model before training.

    rights [n] of 0 and 1 are its answers to the forget `items` [n], either empty where there are
    none. nlls are its NLL a token on each held-out forget text, `entities` what these are about:
    texts of one entity count as fewer than they are, as questions do.
    """
    accuracy = nll = None
    if rights:
        _, low, high = share(rights, groups_of(items))
        accuracy = None if low is None else (high - low) / 2
    if len(nlls) > 1:
        mean, _, high = mean_interval(nlls, entities)
        nll = None if high is None else high - mean
    return MeasureNoise(accuracy, nll)


def unmoved(accuracy, nll, noise):
    """What moved by less than its noise, in words; empty where something moved or none is known.

    accuracy, nll: (before, after) of the forget set, None where not measured.
    """
    words = []
    if noise.accuracy is not None:
        before, after = accuracy
        if before - after > noise.accuracy:
            return ""
        words.append(f"forget accuracy {before:.3f} -> {after:.3f} (noise {noise.accuracy:.3f})")
    if noise.nll is not None and None not in nll:
        before, after = nll
        if after - before > noise.nll:
            return ""
        moved = f"{before:.3f} -> {after:.3f} (noise {noise.nll:.3f})"
        words.append(f"held-out forget NLL a token {moved}")
    return " and ".join(words)


def nothing_note(words, settings):
    """The note on a run that unlearned nothing. words: from `unmoved`; settings: of training."""
    return (
        f"nothing was unlearned: {words} moved by less than the noise. "
        f"A higher rate (--lr, now {settings.lr:g}) or more steps (--steps, now {settings.steps}) "
        "change more."
    )


def still_note(words, step, settings, rule):
    """The note after a quarter of the steps, where nothing has moved. words: from `unmoved`."""
    changes = [f"a higher rate (--lr, now {settings.lr:g})"]
    for names, way in ((FORGET_KNOBS, "higher"), (RETAIN_KNOBS, "lower")):
        changes += [f"a {way} {known}" for known in _first_knob(rule, names)]
    return (
        f"after {step} of {settings.steps} steps nothing has moved: {words}. Where that is so at "
        f"the end, {' or '.join(changes)} changes more; unlearn/search.py finds settings."
    )


def _first_knob(rule, names):
    """[the flag and the value of the first knob in `names` that the method has], or []."""
    known = [name for name in names if getattr(rule, name, None) is not None]
    return [f"{flag(name)} (now {getattr(rule, name):g})" for name in known[:1]]


class QuarterCheck(StepHook):
    """Says after a quarter of the steps that no measure of the forget set has moved.

    measure() -> words of `unmoved`, empty where something moved; say(words, step) shows them.
    """

    def __init__(self, steps, model, measure, say):
        self.at = steps // 4 if steps >= SHORTEST else None
        self.model, self.measure, self.say = model, measure, say

    def after_step(self, step, row):
        if step == self.at:
            self.model.eval()
            words = self.measure()
            self.model.train()
            if words:
                self.say(words, step)
        return False


def collapsed_note(signs, settings, rule):
    """The note on a run that broke the model. rule: its method, whose knobs it may propose."""
    weight = "".join(f" or a higher {known}" for known in _first_knob(rule, RETAIN_KNOBS))
    return (
        f"collapsed, not unlearned: {'; '.join(signs)}. "
        f"A lower rate (--lr, now {settings.lr:g}), fewer steps (--steps, now {settings.steps})"
        f"{weight} break less."
    )
