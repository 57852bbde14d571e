"""One rule for relative paths: they start where you stand.

Scripts run where they are called. Those over many steps (the pipeline, create_all) run in the
repository, where the steps and presets lie, so they turn what the user gave into paths that mean
the same from there. An error about something that is not there shows its absolute path.
"""

import os
import re
from pathlib import Path

from brittle.base import code
from brittle.base.layout import is_method_file, looks_like_folder
from brittle.base.record import within_project

MISSING = re.compile(r"not found|no such (folder|file)|no local folder")


class Standing:
    """Where the user stood before this process went to the repository."""

    def __init__(self, here):
        self.here = Path(here)

    def path(self, value):
        """A path of the user (or None) as it is called from the repository."""
        if value is None or self.here == Path.cwd():
            return value
        return within_project(self.here / Path(value).expanduser())

    def model(self, value):
        """A model of the user: a folder as `path` has it, an id of the hub as it is."""
        if value is None:
            return None
        is_folder = looks_like_folder(value) or (self.here / value).exists()
        return self.path(value) if is_folder else value

    def method(self, value):
        """A method's name as it is, the file of one of the user's own as `path` has it."""
        if value is None or not is_method_file(value):
            return value
        file, _, name = value.rpartition(":")
        return f"{self.path(file)}:{name}" if file else self.path(value)

    def preset(self, value):
        """A preset's name as it is, a .toml file as `path` has it."""
        return self.path(value) if value.endswith(".toml") else value


def enter_repository(home):
    """Go to the folder `home`. Returns the `Standing` that paths of the user are read by."""
    here = Path.cwd()
    os.chdir(home)
    return Standing(here)


def looked_for(message, arguments):
    """`message`, and the absolute path of the relative one that it calls missing.

    arguments: the command line, whose values may be paths without a slash.
    """
    first = re.split(r"\.\s", message, maxsplit=1)[0]
    if not MISSING.search(first):
        return message
    values = {argument.rpartition("=")[2] for argument in arguments}
    for word in first.split():
        name = word.strip("'\",:;")
        is_relative = bool(name) and not name.startswith(("/", "~", "-"))
        if is_relative and ("/" in name or name in values) and not os.path.exists(name):
            return f"{message} Looked for {os.path.abspath(name)}."
    return message


def where(folder):
    """A line that says where `folder` lies, for a user who stands outside the repository; or ''."""
    if Path(folder).is_absolute() or Path.cwd() == code.ROOT:
        return ""
    return f"{folder} lies where you stand: {Path(folder).absolute()}"
