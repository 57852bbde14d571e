"""Everything that is imported; what is run lives in the folders beside it.

Submodules load on first use (`brittle.losses.nll`), so a script can name them all and still answer `--help` without torch.
"""

import importlib


def __getattr__(name):
    try:
        return importlib.import_module(f"brittle.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"brittle.{name}":
            raise
        raise AttributeError(f"module 'brittle' has no attribute {name!r}") from None
