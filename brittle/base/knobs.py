"""Knobs: dataclass fields that become command-line flags, with a help text, bounds and choices.

A method and an attack are dataclasses. Each of their settings is declared once, as a knob; from it follow the flag of the
script, its help, the check of what the user typed, and the line in the model card.
"""

import dataclasses
import math
import re
from dataclasses import field, fields

from brittle.base.errors import UserError

REFUSALS = "File of refusals, one a line (a built-in list where empty)."


def knob(default, help, low=None, high=None, choices=None):
    """A field that becomes a flag. `low` and `high` bound its numbers (inclusive), `choices` are its only texts."""
    return field(
        default=default, metadata={"help": help, "low": low, "high": high, "choices": choices}
    )


def retain_knob(default, *more):
    return knob(
        default,
        "Retain term: nll, kl (to the start), l2 (of hidden states).",
        choices=("nll", "kl", "l2", *more),
    )


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
        wanted = {
            tuple: "block numbers such as 5,6,7",
            int: "a whole number",
            float: "a number",
        }.get(kind, kind.__name__)
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
    shown = {
        key: "; ".join(f"{d}: {', '.join(names)}" for d, names in found.items())
        for key, (_, found, _) in helps.items()
    }
    return {
        key: f"{text}{_unnamed(text, choices)} [{shown[key]}]"
        for key, (text, _, choices) in helps.items()
    }


def _unnamed(text, choices):
    """The choices of a knob, where its help does not name them all."""
    return (
        ""
        if all(re.search(rf"\b{re.escape(c)}\b", text) for c in choices)
        else f" One of: {', '.join(choices)}."
    )


def values(method):
    """{knob: value} of a method, for the model card and the record."""
    return {name: dataclasses.asdict(method)[name] for name in knobs(type(method))}
