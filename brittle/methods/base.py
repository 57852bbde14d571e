"""The method protocol. A method is a dataclass; its `knob` fields become flags; nothing else knows its name.

needs_reference                                          does a loss read the frozen starting model
trains(model) -> names | None                            which parameters train; None is all
start(model, reference, data)                            once: draw targets, measure the start
losses(forget, retain, progress) -> {term: scalar}       named, already weighted, summed by the loop; progress 0 to 1
Two more for the few that are not a sum of losses:
combine({term: [gradient, ...]}, lr) -> [gradient, ...]  makes one gradient of the terms' own (NGDiff); None is their sum
fit(loop) -> history                                     runs the training, once or several times (task vectors)
And for one whose parameters take turns (sequential):
check()                                                  refuses knobs that do not go together
plan(steps, one_pass) -> (steps, stretches)              how long it trains; a learning rate schedule for each stretch
phase(progress) -> bool                                  before each step: True where an optimizer of its own starts
measures() -> {column: number}                           behind each step: more columns of the history
"""

import dataclasses
import math
import re
from dataclasses import dataclass, field, fields
from typing import ClassVar

import brittle
from brittle.errors import UserError

REFUSALS = "File of refusals, one a line (a built-in list where empty)."


def knob(default, help, low=None, high=None, choices=None):
    """A field that becomes a flag. `low` and `high` bound its numbers (inclusive), `choices` are its only texts."""
    return field(default=default, metadata={"help": help, "low": low, "high": high, "choices": choices})


def retain_knob(default, *more):
    return knob(default, "Retain term: nll, kl (to the start), l2 (of hidden states).", choices=("nll", "kl", "l2", *more))


@dataclass
class Method:
    kind: ClassVar[str] = "loss"  # loss, representation, gradient, or weight-space (which needs every weight: no LoRA)
    needs_reference: ClassVar[bool] = False
    combine: ClassVar = None
    replicates: ClassVar[bool] = False  # of several processes each holds the whole model; otherwise it is sharded
    phased: ClassVar[bool] = False  # parameters take turns
    adapters: ClassVar[bool] = False  # set by the wrappers: low-rank adapters train, not the weights
    seed: int = 0
    state: dict = field(default_factory=dict)  # what must survive an interruption (numbers), kept in the checkpoint

    def trains(self, model):
        return None

    def start(self, model, reference, data):
        """model: what will be trained; reference: `with reference as frozen:` gives its starting state;
        data: `.forget`, `.retain` (text.Stream of token ids) and `.tokenizer`."""
        self.model, self.reference = model, reference

    def losses(self, forget, retain, progress):
        raise NotImplementedError

    def check(self):
        pass

    def plan(self, steps, one_pass):
        """`steps` as asked for (None: not at all), `one_pass` those of one pass over the forget texts."""
        return steps or one_pass, ()

    def budget(self, streams):
        """A line to print before the training, where there is something to say."""

    def phase(self, progress):
        return False

    def measures(self):
        return {}

    def fit(self, loop):
        return loop()


@dataclass
class WithRetain(Method):
    """A method whose retain term can be exchanged: `--retain-loss`."""

    retain_weight: float = knob(1.0, "Weight of the retain term.", low=0)
    retain_loss: str = retain_knob("nll")

    @property
    def needs_reference(self):
        return self.retain_loss in ("kl", "l2")

    def retain_term(self, retain):
        """retain_weight times: nll, the NLL a token; kl, mean KL(p_start || p) a token; l2, mean ||h - h_start||_2 over
        tokens and blocks. The latter two are 0 at the start."""
        return self.retain_weight * brittle.losses.RETAIN[self.retain_loss](self.model, retain, self.reference)


def knobs(cls):
    """{field name: field} of a method's knobs."""
    return {f.name: f for f in fields(cls) if "help" in f.metadata}


def flag(name):
    return "--" + name.replace("_", "-")


def show(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def parse(cls, name, text):
    """The value of knob `name` of `cls` from a flag's text, by the type of its default. Raises UserError."""
    spec = knobs(cls)[name]
    kind = type(spec.default)
    try:
        if kind is tuple:
            value = tuple(int(part) for part in str(text).strip("()[]").split(",") if part.strip())
            if not value:
                raise ValueError
        else:
            value = kind(text)
    except ValueError:
        wanted = {tuple: "block numbers such as 5,6,7", int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise UserError(f"{flag(name)} {text}: {wanted} wanted.") from None
    choices, low, high = (spec.metadata[k] for k in ("choices", "low", "high"))
    if choices and value not in choices:
        raise UserError(f"{flag(name)} {text}: choose {' or '.join(choices)}.")
    if kind is float and not math.isfinite(value):
        raise UserError(f"{flag(name)} {text}: a finite number wanted.")
    for v in value if kind is tuple else (value,):
        if (low is not None and not v >= low) or (high is not None and not v <= high):
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            raise UserError(f"{flag(name)} {text}: must be {bounds}.")
    return value


def build(cls, name, given, **more):
    """The method with the knobs of `given` ({name: text or value}). Raises UserError for one that it does not read."""
    own = knobs(cls)
    for key in given:
        if key not in own:
            reads = ", ".join(map(flag, own)) or "no knobs"
            raise UserError(f"{name} does not read {flag(key)}; it reads {reads}.")
    made = {}
    for key, value in given.items():
        made[key] = parse(cls, key, show(tuple(value) if isinstance(value, list) else value))
    return cls(**more, **made)


def all_knobs(classes):
    """{knob: help with the choices, the defaults, and whose they are} over {method name: class}, for one --help."""
    helps = {}
    for name, cls in classes.items():
        for key, spec in knobs(cls).items():
            _, defaults, choices = helps.setdefault(key, (spec.metadata["help"], {}, {}))
            defaults.setdefault(show(spec.default), []).append(name)
            choices.update(dict.fromkeys(spec.metadata["choices"] or ()))
    shown = {key: "; ".join(f"{d}: {', '.join(names)}" for d, names in found.items()) for key, (_, found, _) in helps.items()}
    return {key: f"{text}{_unnamed(text, choices)} [{shown[key]}]" for key, (text, _, choices) in helps.items()}


def _unnamed(text, choices):
    """The choices of a knob, where its help does not name them all."""
    return "" if all(re.search(rf"\b{re.escape(c)}\b", text) for c in choices) else f" One of: {', '.join(choices)}."


def values(method):
    """{knob: value} of a method, for the model card and the record."""
    return {name: dataclasses.asdict(method)[name] for name in knobs(type(method))}
