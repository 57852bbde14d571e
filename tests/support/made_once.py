"""What is made once in a run of the tests, by the first test process that needs it."""

import contextlib
import os


def made_once(name, tmp_path_factory, make):
    """The folder or file `base` that make(path) makes: the first test process makes it for all."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent  # that of all test processes of this run
    place = place / name
    if not place.exists():
        made = tmp_path_factory.mktemp("made")
        make(made / "base")
        with contextlib.suppress(OSError):  # another process was first
            made.rename(place)
    return place / "base"
