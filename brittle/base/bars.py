"""Progress bars: where they are drawn, and that they are quiet where nobody sees them.

A bar rewrites its line, which works on a terminal alone. In a file or a pipe it is a piece of text
a second. So a bar is drawn where stderr is a terminal; in a step of the pipeline, whose output is a
log, the last state of its bar stands in a file of one line; else there is none. The rule holds for
the bars of libraries too, once `everywhere` was called.
"""

import contextlib
import sys
from pathlib import Path

_state_file = None  # where a step of the pipeline leaves the last state of its bar


class OneLine:
    """A file that holds the last line written to it alone."""

    def __init__(self, path):
        self.path = Path(path)

    def write(self, text):
        if text.strip():
            self.path.write_text(text.strip(), encoding="utf-8")

    def flush(self):
        """Nothing waits: `write` has closed the file."""


def draw_in(path):
    """From now on bars of this process leave their last state in the file `path`; None ends it."""
    global _state_file
    _state_file = path


def place():
    """Where a bar is drawn now; None where nobody would see it."""
    if _state_file is not None:
        return OneLine(_state_file)
    return sys.stderr if sys.stderr.isatty() else None


def everywhere():
    """From now on every bar of tqdm follows the rule, those of libraries included.

    Some libraries say `disable=False` themselves, which no environment variable overrules.
    """
    from tqdm import std

    if getattr(std.tqdm.__init__, "follows_the_rule", False):
        return
    usual = std.tqdm.__init__

    def follow(self, *arguments, **keywords):
        if keywords.get("file") is None:
            keywords["file"] = place()
            keywords["disable"] = keywords.get("disable") or keywords["file"] is None
        usual(self, *arguments, **keywords)

    follow.follows_the_rule = True
    std.tqdm.__init__ = follow


@contextlib.contextmanager
def progress_bar(total, start, label):
    """tqdm's bar with `label`; none where that is None, or where nobody would see it."""
    from tqdm import tqdm

    everywhere()
    with tqdm(
        total=total,
        initial=start,
        desc=label,
        disable=label is None,
        mininterval=1,
        dynamic_ncols=True,
    ) as bar:
        yield bar
