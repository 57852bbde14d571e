"""Compiled files, where PYTHONDONTWRITEBYTECODE says that none may be left."""

import os
import sys
import sysconfig
from pathlib import Path

# folders of a library that nobody imports from as a part of it
ELSEWHERE = ("site-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip")


def share(folder):
    """Compile into `folder`, for this process and its children, and nowhere else.

    What one process has compiled the others find. Python then looks for compiled files below
    `folder` alone, so those that the standard library and the installed packages have already are
    linked there: compiling torch and transformers anew takes half a minute.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if "PYTHONPYCACHEPREFIX" not in os.environ:
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder)
        for name in ("stdlib", "purelib", "platlib"):
            link_compiled(sysconfig.get_path(name), folder)
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"]


def link_compiled(library, folder):
    """Link the compiled files of `library`, a folder of sys.path, as they are named below `folder`:
    `library/a/__pycache__/b.pyc` is `folder/library/a/b.pyc` there.
    """
    for place, below, names in os.walk(library):
        if not place.endswith("__pycache__"):
            below[:] = [name for name in below if name not in ELSEWHERE]
            continue
        linked = Path(folder, *Path(place).parent.parts[1:])
        linked.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not os.path.lexists(linked / name):
                os.symlink(os.path.join(place, name), linked / name)
