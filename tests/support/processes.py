"""Scripts of the repository, run in this process or in a fork of it."""

import contextlib
import logging
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

# starts a script anew in a process that accelerate has already been used in
DRIVER = """
import runpy, sys
from accelerate.state import AcceleratorState
AcceleratorState._reset_state(True)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_script(argv):
    """Exit status of `python script arguments ...`, run in this process."""
    try:
        runpy.run_path(str(argv[0]), run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


class Child:
    """A script in a forked process."""

    def __init__(self, argv, log, env):
        sys.stdout.flush()
        sys.stderr.flush()
        self.files = [Path(f"{log}.out"), Path(f"{log}.err")]
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                os.setpgid(0, 0)  # a terminal's foreground job: signals go to all of it
                for stream, file in enumerate(self.files, 1):
                    os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
                sys.stdout, sys.stderr = (
                    os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2)
                )
                for logger in map(logging.getLogger, list(logging.root.manager.loggerDict)):
                    for handler in (
                        logger.handlers
                    ):  # what libraries log goes to stderr, as it would in a new process
                        if isinstance(handler, logging.StreamHandler):
                            handler.setStream(sys.stderr)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.environ.update(env)
                sys.argv = argv
                code = run_script(argv)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(Exception):
                        stream.flush()
                os._exit(code)
        with contextlib.suppress(OSError):
            os.setpgid(self.pid, self.pid)

    def wait(self, seconds=120):
        """Its result; `code` is negative where a signal ended it."""
        deadline = time.time() + seconds
        while (ended := os.waitpid(self.pid, os.WNOHANG)) == (0, 0):
            if time.time() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(
                    f"no end after {seconds} s: {self.files[0].read_text()[-2000:]}"
                )
            time.sleep(0.01)
        out, err = (f.read_text() for f in self.files)
        return SimpleNamespace(code=os.waitstatus_to_exitcode(ended[1]), out=out, err=err)
