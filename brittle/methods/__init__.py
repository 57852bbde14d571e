"""The methods by name, one line each: module and class, loaded when asked for."""

import importlib

from brittle.errors import UserError

METHODS = {
    "ga": "ga:GA",
    "npo": "npo:NPO",
    "rmu": "rmu:RMU",
    "cb_lat": "cb_lat:CBLAT",
}


def method_class(name):
    """The dataclass of the method called `name`. Raises UserError with the list for an unknown one."""
    if name not in METHODS:
        raise UserError(f"no method {name!r}. Methods: {', '.join(METHODS)}.")
    module, _, cls = METHODS[name].partition(":")
    return getattr(importlib.import_module(f"brittle.methods.{module}"), cls)
