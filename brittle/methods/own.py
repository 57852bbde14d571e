"""A method of one's own: a class in a file outside the package, named as `path/to/mine.py:Mine`.

    load("path/to/mine.py:Mine")     the class, checked; the file is read once as long as it is
                                     the same
    file_of("path/to/mine.py:Mine")  the file; None for a method of the list

Folders, tables and configuration files call it by its class, `Mine` (base.layout.method_label).
"""

import hashlib
import inspect
import sys
import traceback
import types
from dataclasses import Field, is_dataclass
from pathlib import Path

from brittle.base import code
from brittle.base.errors import UserError
from brittle.base.layout import FILTER, is_method_file, method_label
from brittle.methods.base import Method

HOW = "docs/cookbook.md shows one"


def file_of(method):
    """The file of a method of one's own; None for a method of the list."""
    if not is_method_file(method):
        return None
    return Path(method.rpartition(":")[0] or method).expanduser()


def load(method, taken):
    """The class that `method` names. taken: names that it must not have.

    Raises UserError for a file that is not there or does not run, and for a class that is no
    method.
    """
    file = file_of(method)
    name = method_label(method)
    module = _module(method, file)
    code.uses(file)
    classes = [key for key, value in vars(module).items() if _is_own(value, module)]
    listed = f"It has {', '.join(classes)}." if classes else "It has no class."
    if ":" not in method:
        raise UserError(
            f"--method {method}: name its class too, such as {method}:{(classes or ['Mine'])[0]}. "
            f"{listed}"
        )
    if name not in classes:
        raise UserError(f"--method {method}: {file} has no class {name}. {listed}")
    if name.casefold() in {other.casefold() for other in (*taken, FILTER)}:
        raise UserError(
            f"--method {method}: {name} is the name of a method of the package, and their folders "
            "would mix. Call the class otherwise."
        )
    cls = getattr(module, name)
    _check_protocol(method, cls)
    return cls


def _is_own(value, module):
    """Whether `value` is a class that the module itself defines."""
    return isinstance(value, type) and value.__module__ == module.__name__


def _module(method, file):
    """The module of the file. It is run where the file is new, or not what it was."""
    try:
        source = file.read_bytes()
    except (OSError, ValueError):
        raise UserError(
            f"--method {method}: {file} not found, or no file that can be read."
        ) from None
    digest = hashlib.sha256(str(file.resolve()).encode() + source).hexdigest()
    name = f"brittle_own_{digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module  # dataclasses look up the module of a class
    try:
        exec(compile(source, str(file), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"--method {method}: {_explain(error, file)}") from None
    return module


def _explain(error, file):
    """What is wrong with a file that does not run, and in which line."""
    if isinstance(error, SyntaxError):
        return f"{file} is no Python, line {error.lineno}: {error.msg}."
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    at = f", line {lines[-1]}" if lines else ""
    return f"{file}{at} breaks as it is read: {type(error).__name__}: {error}."


def _check_protocol(method, cls):
    """Raise UserError where the class is no method."""
    if not issubclass(cls, Method):
        raise UserError(
            f"--method {method}: {cls.__name__} does not extend Method "
            f"(brittle.methods.base); {HOW}."
        )
    if any(isinstance(value, Field) for value in vars(cls).values()) or not is_dataclass(cls):
        raise UserError(
            f"--method {method}: {cls.__name__} has knobs, and no @dataclass above its class."
        )
    if cls.losses is Method.losses and cls.fit is Method.fit:
        raise UserError(
            f"--method {method}: {cls.__name__} has no losses(forget, retain, progress); {HOW}."
        )
    if cls.losses is not Method.losses and len(inspect.signature(cls.losses).parameters) < 4:
        raise UserError(
            f"--method {method}: losses of {cls.__name__} takes forget, retain and progress; {HOW}."
        )
