"""Knobs: dataclass fields that become command-line flags, with a help text, bounds and choices.

A method and an attack are dataclasses. Each of their settings is declared once, as a knob. From the
knob follow the flag of the script, its default, its help, the check of what the user typed, and the
line in the model card or the record.

A knob may also say where a search (unlearn/search.py) looks for its value: `log_range`,
`linear_range`, `factors` of its default, or `one_of` some values.

A script of many classes (unlearn/unlearn.py) gives every flag the help of `all_knobs`: its default
depends on the class. A script of one class (eval/noise.py) gives every flag its type and its
default, by `typed_options`.
"""

import inspect
import math
import re
from dataclasses import field, fields
from typing import Annotated, NamedTuple

from brittle.base.errors import UserError

REFUSALS = "File of refusals, one a line (a built-in list where empty)."


class Search(NamedTuple):
    """Where a search looks for the value of a setting.

    scale    log or linear: numbers from low to high. factor: those times the setting's default, on
             a log scale. choices: one of `choices`.
    """

    scale: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple = ()


def log_range(low, high):
    """Numbers from low to high, equally likely by their logarithm."""
    return Search("log", low, high)


def linear_range(low, high):
    """Numbers from low to high, all equally likely."""
    return Search("linear", low, high)


def factors(low, high):
    """The default times low to high, equally likely by the logarithm."""
    return Search("factor", low, high)


def one_of(*choices):
    """One of these values; of a knob that takes several, a text such as `1/4,1/2`."""
    return Search("choices", choices=choices)


def knob(
    default,
    help,
    *,
    low=None,
    high=None,
    choices=None,
    noun="values",
    blocks=False,
    search=None,
):
    """A field that becomes a flag.

    `low` and `high` bound its numbers (inclusive), `choices` are its only texts. A tuple is a flag
    that takes several values, all of the type of the default's first; error messages call them
    `noun`. Where `blocks` is true it numbers blocks, and takes shares of the depth too (see
    `resolve_blocks`). `search` is a `Search`; a search leaves a knob without one as it is.
    """
    about = {"help": help, "low": low, "high": high, "choices": choices, "noun": noun}
    return field(default=default, metadata={**about, "blocks": blocks, "search": search})


def retain_knob(default, *more):
    """The knob that exchanges a method's retain term; `more` are choices beside nll, kl and l2."""
    choices = ("nll", "kl", "l2", *more)
    return knob(
        default,
        "Retain term: nll, kl (to the start), l2 (of hidden states).",
        choices=choices,
        search=one_of(*choices),
    )


def knobs(cls):
    """{field name: field} of the knobs of a dataclass."""
    return {spec.name: spec for spec in fields(cls) if "help" in spec.metadata}


def searched(cls):
    """{field name: its Search} of the fields of a dataclass that say where a search looks."""
    ranges = {spec.name: spec.metadata.get("search") for spec in fields(cls)}
    return {name: range_ for name, range_ in ranges.items() if range_ is not None}


def flag(name):
    """The command line's spelling of a knob's name."""
    return "--" + name.replace("_", "-")


def show(value):
    """A knob's value as the text that `parse` reads."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def parse(cls, name, text):
    """The value of knob `name` of `cls` from a flag's text, by the type of its default. Raises
    UserError.
    """
    spec = knobs(cls)[name]
    several = isinstance(spec.default, tuple)
    kind = type(spec.default[0]) if several else type(spec.default)
    texts = _split(text) if several else [text]
    try:
        values = [kind(one) for one in texts]
    except ValueError:
        values = []
    if not values:
        raise UserError(f"{flag(name)} {text}: {_wanted(spec)} wanted.")
    for value in values:
        _check_value(spec, text, value)
    return tuple(values) if several else values[0]


def listed(text):
    """The values of a text with commas; none of None.

    Blanks around them are left out, and so are empty ones, as behind a comma at the end.
    """
    return [value.strip() for value in (text or "").split(",") if value.strip()]


def _split(text):
    """The values of a text with commas, with or without brackets around them."""
    return listed(str(text).strip("()[]"))


def _wanted(spec):
    """What a knob takes, in words."""
    if isinstance(spec.default, tuple):
        return f"{spec.metadata['noun']} such as {show(spec.default)}"
    kind = type(spec.default)
    return {int: "a whole number", float: "a number"}.get(kind, kind.__name__)


def _check_value(spec, text, value):
    """Raises UserError where `value` is none of the knob's choices, not finite, or out of its
    bounds.
    """
    choices = spec.metadata["choices"]
    if choices and value not in choices:
        raise UserError(f"{flag(spec.name)} {text}: choose {' or '.join(choices)}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{flag(spec.name)} {text}: a finite number wanted.")
    low, high = spec.metadata["low"], spec.metadata["high"]
    too_low = low is not None and not value >= low
    too_high = high is not None and not value <= high
    if too_low or too_high:
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise UserError(f"{flag(spec.name)} {text}: must be {bounds}.")


def resolve_blocks(cls, given, count):
    """`given` {knob: text or value} with shares of the depth as block numbers, where the knob
    numbers blocks of a model that has `count`.

    `7/32` is block 7 of 32, and of `count` blocks the one as deep. The third number of
    START:END:STEP is at least 1. Raises UserError for a share above 1.
    """
    own = knobs(cls)
    resolved = dict(given)
    for name, value in given.items():
        if name in own and own[name].metadata["blocks"] and "/" in show(value):
            starts, *step = re.split(r"(?<=:)(?=[^:]*$)", show(value), maxsplit=1)
            starts = _at_depth(name, starts, count, low=0)
            resolved[name] = starts + "".join(_at_depth(name, s, count, low=1) for s in step)
    return resolved


def _at_depth(name, text, count, low):
    """`text` with every share of the depth in it replaced by a block number, at least `low`."""

    def block(match):
        share, whole = int(match[1]), int(match[2])
        if not share <= whole or not whole:
            raise UserError(f"{flag(name)} {text}: {match[0]} is no share of the depth.")
        return str(max(low, min(count - 1, round(share * count / whole))))

    return re.sub(r"(\d+)\s*/\s*(\d+)", block, text)


def build(cls, name, given, **more):
    """An object of `cls` with the knobs of `given` ({name: text or value}) and the fields `more`.

    `name` is what the user calls the class. Raises UserError for a knob that it does not read.
    """
    own = knobs(cls)
    for key in given:
        if key not in own:
            reads = ", ".join(map(flag, own)) or "no knobs"
            raise UserError(f"{name} does not read {flag(key)}; it reads {reads}.")
    return cls(**more, **{key: parse(cls, key, show(value)) for key, value in given.items()})


def all_knobs(classes):
    """{knob: help with the choices, the defaults, and whose they are} over {method name: class},
    for one --help. Of a single class the defaults are its own.
    """
    texts, owners, choices = {}, {}, {}
    for name, cls in classes.items():
        for key, spec in knobs(cls).items():
            texts.setdefault(key, spec.metadata["help"])
            owners.setdefault(key, {}).setdefault(show(spec.default), []).append(name)
            choices.setdefault(key, {}).update(dict.fromkeys(spec.metadata["choices"] or ()))
    helps = {}
    for key, text in texts.items():
        helps[key] = f"{text}{_unnamed(text, choices[key])}{_defaults(owners[key], classes)}"
    return helps


def _defaults(owners, classes):
    """The end of a knob's help: {default: names of the classes that have it}."""
    if len(classes) == 1:
        (value,) = owners
        return f" [default: {value}]" if value else ""
    listed = "; ".join(f"{value}: {', '.join(names)}" for value, names in owners.items())
    return f" [{listed}]"


def _unnamed(text, choices):
    """The choices of a knob, where its help does not name them all."""
    if all(re.search(rf"\b{re.escape(choice)}\b", text) for choice in choices):
        return ""
    return f" One of: {', '.join(choices)}."


def typed_options(cls, defaults=None, group=None):
    """[inspect.Parameter] for typer: an option for each knob of `cls`, with its type, bounds, help
    and default.

    A knob with several values is an option that can be repeated. `defaults` {knob: value} replaces
    defaults. `group` is theirs in --help.
    """
    import typer

    parameters = []
    for name, spec in knobs(cls).items():
        default = (defaults or {}).get(name, spec.default)
        low, high, text = (spec.metadata[key] for key in ("low", "high", "help"))
        if isinstance(default, tuple):
            # typer's message for a list does not say which flag was wrong as `parse` does
            kind = list[type(default[0])]
            text = f"{text[:-1]} (repeatable)."
            option = typer.Option(flag(name), help=text, rich_help_panel=group)
        else:
            kind = type(default)
            option = typer.Option(flag(name), min=low, max=high, help=text, rich_help_panel=group)
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[kind, option],
            )
        )
    return parameters


def values(owner):
    """{knob: value} of a method or an attack, for the model card and the record."""
    return {name: getattr(owner, name) for name in knobs(type(owner))}
