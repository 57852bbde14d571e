"""Where results go, and what makes them trustworthy.

A run's outputs are staged, recorded, hashed, and put in place by rename, the CSV last.
"""

import contextlib
import glob
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from brittle.base import code
from brittle.base.errors import UserError
from brittle.base.files import (
    abandoned,
    changed,
    describe_file,
    hold,
    missing_folders,
    recover_folder,
    remove_empty,
    replace_folder,
)
from brittle.base.tables import write_csv

HUB_CACHE = "$HF_HUB_CACHE"  # stands in records for the folder of the hub's cache
LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "peft",
    "accelerate",
    "datasets",
    "lm-eval",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
)

_said = {}  # {folder: line}: what the command that runs has made, said at its end


def say(path, text):
    """Say at the end of the command what `path` holds: its main numbers, in place of its size."""
    path = Path(path)
    _said[str(path.parent)] = f"{path}: {text}"


def closing_lines():
    """The lines to say at the end of a command, a line a folder of results; each is said once."""
    lines = list(_said.values())
    _said.clear()
    return lines


def relative(path):
    """`path` relative to the working folder where it lies in it.

    So a record stays true when the checkout moves.
    """
    path = Path(path).resolve()
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def within_project(path):
    """`path` as records name it, so that they stay true when the project or the home moves.

    It is text: relative to the working folder where it lies in it, and below $HF_HUB_CACHE where it
    lies in the hub's cache. Links at its end are not followed: a file of that cache keeps its name.
    """
    path = Path(path)
    if not path.is_absolute():
        return str(path)
    place = path.parent.resolve() / path.name
    for home, name in ((Path.cwd(), ""), (hub_cache().resolve(), HUB_CACHE)):
        if place.is_relative_to(home):
            return str(Path(name, place.relative_to(home)))
    return str(path)


def of_record(name):
    """The path that a record names: the other way round from `within_project`."""
    home, _, rest = name.partition("/")
    return hub_cache() / rest if home == HUB_CACHE else Path(name)


def hub_cache():
    """Where huggingface_hub keeps models, by its rules: importing it takes longer than this."""
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    return Path(os.path.expandvars(given or f"{home}/hub")).expanduser()


def portable(command):
    """A command as records hold it: paths below the working folder are relative to it."""
    words = []
    for word in map(str, command):
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        place = within_project(value) if value.startswith("/") else value
        words.append(word if place.startswith("/") else f"{flag}{equals}{place}")
    return words


def command_line():
    """The command as a list: the script, then the arguments."""
    return portable([relative(sys.argv[0]), *sys.argv[1:]])


def _versions():
    """{library: version} of those that are installed, and of Python."""
    versions = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def git_commit():
    """The commit of the code, with -dirty where tracked files differ; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    captured = {"capture_output": True, "text": True, "timeout": 10}
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], **captured)
        status = subprocess.run([*git, "status", "--porcelain", "-uno"], **captured)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if head.returncode != 0:
        return None
    dirty = "-dirty" if status.stdout.strip() else ""
    return head.stdout.strip() + dirty


def record_path(output):
    """`per_layer.csv` -> `per_layer.run.json`, beside it."""
    return Path(output).with_suffix(".run.json")


class Run:
    """One script's outputs in `outdir`, all or nothing.

        with Run(outdir, inputs=[...], models={"model_a": folder}, seed=0) as run:
            run.figure(fig, "x.png")
            run.csv("x.csv", COLUMNS, rows)

    Files are staged in a hidden folder. At the end of the block the files and each CSV's record
    (`x.run.json`) are put in place by rename, CSVs last. A record holds the command, inputs, models
    and code with their hashes, seed, versions, commit, duration, and hashes of the outputs. After
    an error nothing of this run is left, and what was there before is untouched.

    At the command's end a line says where the results are and how many rows there are, or what
    `say` was told of them. A script that says it itself passes `quiet=True`.

    With `whole=True` the outputs are a folder (a model): `outdir` itself is replaced by the staged
    one, and every file in it counts as an output.
    """

    def __init__(
        self,
        outdir,
        inputs=(),
        models=None,
        seed=None,
        settings=None,
        *,
        whole=False,
        quiet=False,
    ):
        self.outdir = Path(outdir)
        self.whole, self.quiet = whole, quiet or whole
        self.inputs = [str(path) for path in inputs]
        self.models = dict(models or {})
        self.seed = seed
        self.settings = dict(settings or {})
        self.started = time.time()
        self.clock = time.monotonic()  # also right where the time of day is set back
        self.order = []  # names of the outputs, in the order they were written
        self.provisional = set()
        self.rows = {}  # {CSV: how many rows it has}

    def __enter__(self):
        home = self.outdir.parent if self.whole else self.outdir
        name = self.outdir.name if self.whole else "run"
        prefix = f".{name}.part-"
        self.stage = home / (prefix + secrets.token_hex(4))
        self.new = missing_folders(home)
        self.held = None
        try:
            home.mkdir(parents=True, exist_ok=True)
            if self.outdir.is_file():
                raise FileExistsError
            recover_folder(self.outdir)
            for stale in home.glob(f"{glob.escape(prefix)}*"):
                if abandoned(stale):
                    shutil.rmtree(stale, ignore_errors=True)
            try:
                self.stage.mkdir()
            except FileNotFoundError:
                # another run that failed has just removed the folder that both had found missing
                self.stage.mkdir(parents=True)
            self.held = hold(self.stage)
            # what was read is what stood there at the start: hash before the work, not after
            self.read = {path: describe_file(path) for path in self._input_files()}
            code.digests()
            self.script = code.script_code(sys.argv[0])
        except BaseException as error:
            self._clean()
            mistake = self._explain(error)
            if mistake:
                raise UserError(mistake) from None
            raise
        return self

    def _explain(self, error):
        """The user's mistake behind an error of the file system; None where it is none."""
        if isinstance(error, FileExistsError | NotADirectoryError):
            return f"--outdir {self.outdir} is or lies under a file, not a folder. Choose another."
        if isinstance(error, IsADirectoryError):
            return f"{error.filename} is a folder; a file is wanted."
        if isinstance(error, FileNotFoundError):
            return f"{error.filename} not found. Make it, or name another."
        return None

    def _clean(self):
        """Remove what was staged, and the folders made for it where they are still empty."""
        shutil.rmtree(self.stage, ignore_errors=True)
        if self.held is not None:
            os.close(self.held)
        remove_empty(self.new)

    def _input_files(self):
        from brittle.base.layout import model_files

        weights = [str(f) for model in self.models.values() for f in model_files(model)]
        return [*self.inputs, *weights]

    def path(self, name, *, provisional=False):
        """Where to write the output `name` now; it is put in place at the end.

        A provisional output is not in the record: the next script of a chain replaces it, and this
        run stays up to date.
        """
        if name not in self.order:
            self.order.append(name)
        if provisional:
            self.provisional.add(name)
        return self.stage / name

    def csv(self, name, columns, rows):
        """Write the rows (dicts) as the output `name`."""
        self.rows[name] = write_csv(self.path(name), columns, rows)

    def figure(self, figure, name):
        """Draw a figure as the output `name`, and close it.

        The PNG holds its y axes as the text `Axes` (`figures.y_axes` in JSON): the report compares
        those of figures that stand side by side.
        """
        import matplotlib.pyplot as plt

        from brittle.base.figures import y_axes

        about = {"Software": None, "Axes": json.dumps(y_axes(figure))}
        figure.savefig(self.path(name), dpi=110, bbox_inches="tight", metadata=about)
        plt.close(figure)

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self._finish()
        finally:
            self._clean()
        return False

    def record(self):
        """What is known of how the outputs were made, for the JSON file beside them."""
        return {
            "command": command_line(),
            "models": {role: within_project(model) for role, model in self.models.items()},
            "inputs": {within_project(path): about for path, about in self.read.items()},
            "code": code.made_by(self.script),
            "outputs": {
                name: describe_file(self.stage / name)
                for name in self.order
                if name not in self.provisional
            },
            "rows": self.rows,
            "seed": self.seed,
            "settings": self.settings | self._absent(),
            "versions": _versions(),
            "git_commit": git_commit(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.started)),
            "seconds": round(time.monotonic() - self.clock, 3),
        }

    def _absent(self):
        """What the run would have read, had it been there, as the record names it."""
        absent = self.settings.get("absent")
        return {"absent": [within_project(path) for path in absent]} if absent else {}

    def _finish(self):
        """Write the records, and put everything in place."""
        if self.whole:
            staged = {path.name for path in self.stage.iterdir() if path.is_file()}
            self.order = [*sorted(staged - set(self.order)), *self.order]
        # the sort is stable: CSVs come last, in the order they were written
        names = sorted(self.order, key=lambda name: name.endswith(".csv"))
        tables = [name for name in names if name.endswith(".csv")]
        records = {record_path(name).name for name in tables or names[-1:]}
        text = json.dumps(self.record(), indent=1, default=str)
        for name in records:
            (self.stage / name).write_text(text, encoding="utf-8")
        if self.whole:
            replace_folder(self.stage, self.outdir)
            return
        for name in [*sorted(records), *names]:
            os.replace(self.stage / name, self.outdir / name)
        if tables and not self.quiet:
            say(self.outdir / tables[-1], f"{self.rows[tables[-1]]} rows")
        elif not self.quiet:
            _said[str(self.outdir)] = f"{self.outdir}: {len(names)} files, such as {names[-1]}"


def older_code(output):
    """That `output` was made by older code, in words; None where it was not, or has no record."""
    try:
        record = json.loads(record_path(output).read_text(encoding="utf-8"))
        return code.why_older(record.get("code"))
    except (OSError, ValueError, AttributeError):
        return None


def why_run(output, command, *, accept_older_code=False):
    """The reason to run `command` again; None where `output` is complete and still true.

    It is true where it was made by this command, and its inputs and code are unchanged. Inputs are
    compared by content (size and mtime first, the hash where those differ), not by age: a restored
    or touched file with the same bytes gives the same result, and a clock set back cannot hide a
    change. What the code of a result is, `brittle.base.code` says; with `accept_older_code` it may
    have changed.
    """
    output = Path(output)
    recover_folder(output.parent)
    if not output.exists():
        return "no output yet"
    try:
        record = json.loads(record_path(output).read_text(encoding="utf-8"))
        if portable(record["command"]) != portable(command):
            return "made by another command line"
        for name in (output.name, *record["outputs"]):
            if changed(output.parent / name, record["outputs"][name]):
                return f"{name} is not what was written"
        for path, was in record["inputs"].items():
            if changed(of_record(path), was):
                return f"{path} changed"
        # what the run would have read, had it been there
        for path in record.get("settings", {}).get("absent", []):
            if of_record(path).exists():
                return f"{path} is new"
        if not (accept_older_code or code.accepted()):
            return code.why_older(record.get("code"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # there is none, or it is damaged
        return "no record of how it was made"
    return None
