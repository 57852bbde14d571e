"""Where results go, and what makes them trustworthy: staged, recorded, hashed, and put in place by rename, the CSV last."""

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

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "peft", "accelerate", "datasets", "lm-eval", "numpy",
             "scipy", "scikit-learn", "pandas")  # fmt: skip


def relative(path):
    """`path` relative to the working folder, where it lies in it: a record stays true when the checkout moves."""
    path, cwd = Path(path).resolve(), Path.cwd()
    return path.relative_to(cwd) if path.is_relative_to(cwd) else path


def within_project(path):
    """`path` as text, relative to the working folder where it is absolute and lies in it. Links are not followed."""
    path = Path(path)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return str(path)


def command_line():
    """The command as a list: the script, then the arguments as they were given."""
    return [str(relative(sys.argv[0])), *sys.argv[1:]]


def _versions():
    found = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit():
    """The commit of the code, with -dirty where tracked files differ; None outside a checkout."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here)]
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10
        )
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (
        (head.stdout.strip() + ("-dirty" if dirty.stdout.strip() else ""))
        if head.returncode == 0
        else None
    )


def record_path(output):
    """`per_layer.csv` -> `per_layer.run.json`, beside it."""
    return Path(output).with_suffix(".run.json")


class Run:
    """One script's outputs in `outdir`, all or nothing.

        with Run(outdir, inputs=[...], models={"model_a": folder}, seed=0) as run:
            run.figure(fig, "x.png")
            run.csv("x.csv", COLUMNS, rows)

    Files are staged in a hidden folder; at the end of the block each CSV's record (`x.run.json`: command, inputs and models
    with their hashes, seed, versions, commit, duration, hashes of the outputs) and the files are put in place by rename,
    CSVs last. After an error nothing of this run is left and what was there before is untouched.
    With `whole=True` the outputs are a folder (a model): `outdir` itself is replaced by the staged one, and every file in
    it counts as an output.
    """

    def __init__(self, outdir, inputs=(), models=None, seed=None, settings=None, whole=False):
        self.outdir, self.whole = Path(outdir), whole
        self.inputs, self.models = [str(p) for p in inputs], dict(models or {})
        self.seed, self.settings = seed, dict(settings or {})
        self.order, self.provisional, self.started, self.rows = (
            [],
            set(),
            (time.time(), time.monotonic()),
            {},
        )

    def __enter__(self):
        home = self.outdir.parent if self.whole else self.outdir
        prefix = f".{self.outdir.name if self.whole else 'run'}.part-"
        self.stage = home / (prefix + secrets.token_hex(4))
        self.new, self.held = missing_folders(home), None
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
            except (
                FileNotFoundError
            ):  # another run that failed has just removed the folder that both had found missing
                self.stage.mkdir(parents=True)
            self.held = hold(self.stage)
            # what was read is what stood there at the start: hash before the work, not after
            self.read = {path: describe_file(path) for path in self._input_files()}
            code.digests()
            self.script = code.script_code(sys.argv[0])
        except BaseException as error:
            self._clean()
            if isinstance(error, (FileExistsError, NotADirectoryError)):
                raise UserError(
                    f"--outdir {self.outdir} is or lies under a file, not a folder. Choose another."
                ) from None
            if isinstance(error, IsADirectoryError):
                raise UserError(f"{error.filename} is a folder; a file is wanted.") from None
            if isinstance(error, FileNotFoundError):
                raise UserError(f"{error.filename} not found. Make it, or name another.") from None
            raise
        return self

    def _clean(self):
        """Remove what was staged, and the folders that were made for it where they are still empty."""
        shutil.rmtree(self.stage, ignore_errors=True)
        if self.held is not None:
            os.close(self.held)
        remove_empty(self.new)

    def _input_files(self):
        from brittle.base.layout import model_files

        weights = [str(f) for model in self.models.values() for f in model_files(model)]
        return [*self.inputs, *weights]

    def path(self, name, provisional=False):
        """Where to write the output `name` now; it is put in place at the end. A provisional one is not of the record: the
        next script of a chain replaces it, and this run stays up to date."""
        if name not in self.order:
            self.order.append(name)
        if provisional:
            self.provisional.add(name)
        return self.stage / name

    def csv(self, name, columns, rows):
        self.rows[name] = write_csv(self.path(name), columns, rows)

    def figure(self, figure, name):
        import matplotlib.pyplot as plt

        figure.savefig(self.path(name), dpi=110, bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self._finish()
        finally:
            self._clean()
        return False

    def record(self):
        return {
            "command": command_line(),
            "models": self.models,
            "inputs": {within_project(path): about for path, about in self.read.items()},
            "code": code.made_by(self.script),
            "outputs": {
                name: describe_file(self.stage / name)
                for name in self.order
                if name not in self.provisional
            },
            "rows": self.rows,
            "seed": self.seed,
            "settings": self.settings,
            "versions": _versions(),
            "git_commit": git_commit(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.started[0])),
            "seconds": round(
                time.monotonic() - self.started[1], 3
            ),  # also where the clock is set back
        }

    def _finish(self):
        if self.whole:
            self.order = [
                *sorted({p.name for p in self.stage.iterdir() if p.is_file()} - set(self.order)),
                *self.order,
            ]
        names = sorted(
            self.order, key=lambda n: n.endswith(".csv")
        )  # stable: CSVs last, in the order they were written
        text = json.dumps(self.record(), indent=1, default=str)
        recorded = {record_path(n).name for n in names if n.endswith(".csv")} or {
            record_path(names[-1]).name
        }
        for record in recorded:
            (self.stage / record).write_text(text, encoding="utf-8")
        if self.whole:
            return replace_folder(self.stage, self.outdir)
        for name in [*sorted(recorded), *names]:
            os.replace(self.stage / name, self.outdir / name)


def older_code(output):
    """That `output` was made by older code, in words; None where it was not, or has no record."""
    try:
        record = json.loads(record_path(output).read_text(encoding="utf-8"))
        return code.why_older(record.get("code"))
    except (OSError, ValueError, AttributeError):
        return None


def why_run(output, command, *, accept_older_code=False):
    """None where `output` is complete, was made by `command`, and its inputs and code are unchanged; else the reason to run.

    Inputs are compared by content (size and mtime first, the hash where those differ), not by age: a restored or
    touched file with the same bytes gives the same result, and a clock set back cannot hide a change. What the code
    of a result is, `brittle.base.code` says; with `accept_older_code` it may have changed.
    """
    output = Path(output)
    recover_folder(output.parent)
    if not output.exists():
        return "no output yet"
    try:
        record = json.loads(record_path(output).read_text(encoding="utf-8"))
        if record["command"] != command:
            return "made by another command line"
        for name in (output.name, *record["outputs"]):
            if changed(output.parent / name, record["outputs"][name]):
                return f"{name} is not what was written"
        for path, was in record["inputs"].items():
            if changed(path, was):
                return f"{path} changed"
        for path in record.get("settings", {}).get(
            "absent", []
        ):  # what the run would have read, had it been there
            if os.path.exists(path):
                return f"{path} is new"
        if not (accept_older_code or code.accepted()):
            return code.why_older(record.get("code"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or damaged
        return "no record of how it was made"
    return None
