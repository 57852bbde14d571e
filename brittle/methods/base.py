"""The method protocol. A method is a dataclass; its `knob` fields become flags; nothing else knows its name.

needs_reference                                          does a loss read the frozen starting model
start(model, reference, data)                            once: draw targets, measure the start, choose what trains
losses(forget, retain, progress) -> {term: scalar}       named, already weighted, summed by the loop; progress 0 to 1
"""

import dataclasses
from dataclasses import dataclass, field, fields
from typing import ClassVar

from brittle.errors import UserError


def knob(default, help, low=None, high=None):
    """A field that becomes a flag. `low` and `high` bound its numbers (inclusive)."""
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass
class Method:
    needs_reference: ClassVar[bool] = False
    seed: int = 0

    def start(self, model, reference, data):
        """model: what will be trained; reference: `with reference as frozen:`; data: `.forget`, `.retain` (text.Stream)."""
        self.model, self.reference = model, reference

    def losses(self, forget, retain, progress):
        raise NotImplementedError


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
    low, high = spec.metadata["low"], spec.metadata["high"]
    for v in value if kind is tuple else (value,):
        if (low is not None and not v >= low) or (high is not None and not v <= high):
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            raise UserError(f"{flag(name)} {text}: must be {bounds}.")
    return value


def build(cls, name, given, seed=0):
    """The method with the knobs of `given` ({name: text or value}). Raises UserError for one that it does not read."""
    own = knobs(cls)
    for key in given:
        if key not in own:
            reads = ", ".join(map(flag, own)) or "no knobs"
            raise UserError(f"{name} does not read {flag(key)}; it reads {reads}.")
    made = {}
    for key, value in given.items():
        made[key] = parse(cls, key, show(tuple(value) if isinstance(value, list) else value))
    return cls(seed=seed, **made)


def all_knobs(classes):
    """{knob: help with each method's default} over {method name: class}, for one --help."""
    helps = {}
    for name, cls in classes.items():
        for key, spec in knobs(cls).items():
            helps.setdefault(key, [spec.metadata["help"], []])[1].append(f"{name} {show(spec.default)}")
    return {key: f"{text} [{'; '.join(defaults)}]" for key, (text, defaults) in helps.items()}


def values(method):
    """{knob: value} of a method, for the model card and the record."""
    return {name: dataclasses.asdict(method)[name] for name in knobs(type(method))}
