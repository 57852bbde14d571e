"""Which code made a result, and whether that code is still the same.

A result is made from inputs, models, a command and code. Its code is every file of brittle/ that
the run imported, and the script. The rule gives the same answer in a process of its own and in a
child that the pipeline forks from a parent which has everything imported already (there
`sys.modules` says nothing about the run):

    the modules named by the import statements that the run executed, and by those at the top of
    its script, and all that these modules import at their top, directly or through others.

A function's imports count when the function runs. What is loaded by `importlib.import_module`
(methods, attacks) counts too. The imports at the top of a module are read from its text, because
they run once a process and not once a run.

These go by the rule: the records beside outputs (`record.Run`, `record.why_run`), the cells of
attacks, the answers and the spectra that are kept. Each holds {path: SHA-256}. Paths below the
repository are relative to it, so a result stays true when the checkout moves.

    start()                 a run begins; `command.run` and the pipeline's runner call it
    end(before)             it is over, and `before` is what `start` returned
    made_by(script)         the code of this run so far, the script among it
    with watch() as seen    the code of one part of a run: `seen.code()`
    uses(file)              a file of the user is run: what it imports of brittle is this run's
    use(code)               a kept result is taken: its code belongs to this run, and to the parts
                            of it that are being watched
    older(code)             the files that are not what they were; `why_older` says so in words
"""

import ast
import builtins
import contextlib
import functools
import hashlib
import importlib
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent
NAME = PACKAGE.name

_import, _import_module = builtins.__import__, importlib.import_module
_watches = []  # the first is the run's own; none before `start`
_accepted = False  # whether this process takes results of older code for true


class Watch:
    """What was imported of brittle while it was open, and the code of kept results taken then."""

    def __init__(self, modules=()):
        self.modules, self.taken = set(modules), []

    def code(self):
        """{path: SHA-256} of the files.

        Where a kept result was made by an older file, that file's old digest stands here: what was
        made from older code is itself of older code.
        """
        imported = {_name_of(file) for file in closure(self.modules)}
        code = {path: digest for path, digest in digests().items() if path in imported}
        for taken in self.taken:
            for path, digest in taken.items():
                if path not in code or digest != digests().get(path):
                    code[path] = digest
        return dict(sorted(code.items()))


# --- what is imported


def _note(names):
    for watch_of_names in _watches:
        watch_of_names.modules.update(names)


def _importing(name, globals=None, locals=None, fromlist=(), level=0):
    if _watches and level == 0 and (name == NAME or name.startswith(f"{NAME}.")):
        _note([name, *(f"{name}.{member}" for member in fromlist or ())])
    return _import(name, globals, locals, fromlist, level)


def _importing_module(name, package=None):
    if _watches and name.startswith(f"{NAME}."):
        _note([name])
    return _import_module(name, package)


def _install():
    builtins.__import__ = _importing
    importlib.import_module = _importing_module


def start():
    """A run begins: nothing is imported yet but what stands at the top of its script.

    Returns what was watched before, for `end`.
    """
    _install()
    before, _watches[:] = list(_watches), [Watch()]
    return before


def end(before):
    """The run is over: what this process does next, as a second run or a test, is none of it."""
    _watches[:] = before


@contextlib.contextmanager
def watch(*modules):
    """A `Watch` of what the block imports, beginning with `modules` (names)."""
    _install()
    digests()
    opened = Watch(modules)
    _watches.append(opened)
    try:
        yield opened
    finally:
        _watches[:] = [other for other in _watches if other is not opened]


@contextlib.contextmanager
def uncounted():
    """What the block imports is no part of any run.

    The pipeline imports everything ahead of its children.
    """
    saved, _watches[:] = list(_watches), []
    try:
        yield
    finally:
        _watches[:] = saved


def again(seen):
    """What `seen` (a closed `Watch`) imported is used once more.

    So is the code that loaded a model, by every part of the run that asks the model.
    """
    _note(seen.modules)


def uses(file):
    """What the user's `file` imports of brittle at its top belongs to this run.

    The file itself is an input of the run, as data are.
    """
    _note(imports(file))


def use(code):
    """A kept result that was made by `code` {path: SHA-256} is taken."""
    for opened in _watches:
        opened.taken.append(code)


# --- from modules to files


def _file_of(module):
    """The file of a module of brittle.

    None for other modules, and for a name inside a module (a function, a class).
    """
    package, *parts = module.split(".")
    if package != NAME:
        return None
    place = PACKAGE.joinpath(*parts)
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        if file.is_file():
            return file
    return None


def _name_of(file):
    """`file` relative to the repository or else the working folder, where it lies in one."""
    file = Path(file).resolve()
    for home in (ROOT, Path.cwd()):
        if file.is_relative_to(home):
            return file.relative_to(home).as_posix()
    return file.as_posix()


def _statements(body):
    """The statements of a module that run when it is imported: all but those inside functions."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield statement
        yield from _statements(
            child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)
        )


@functools.cache
def _imports_at(file, size, mtime_ns):
    names = set()
    for statement in _statements(ast.parse(file.read_bytes()).body):
        if isinstance(statement, ast.Import):
            names.update(alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            names.add(statement.module)
            names.update(f"{statement.module}.{alias.name}" for alias in statement.names)
    return frozenset(name for name in names if name.split(".")[0] == NAME)


def imports(file):
    """Names of brittle that `file` imports at its top; some may be names inside a module."""
    stat = file.stat()
    return _imports_at(file, stat.st_size, stat.st_mtime_ns)


def closure(modules):
    """The files of `modules`, of their packages, and of all that these import at their top."""
    waiting, files = set(modules), {}
    while waiting:
        module = waiting.pop()
        if module in files:
            continue
        file = files[module] = _file_of(module)
        packages = {module.rpartition(".")[0]} - {""}
        waiting |= packages | (imports(file) if file else set())
    return {file for file in files.values() if file}


def script_code(script):
    """{path: SHA-256} of the script itself; empty where a run has none that is a Python file."""
    file = Path(script)
    if file.suffix != ".py" or not file.is_file():
        return {}
    return {_name_of(file): digest(file.resolve())}


def made_by(script):
    """{path: SHA-256} of the code of this run so far.

    `script` is what `script_code` returned at the start of the run. In a process that never called
    `start` (a test, a notebook) the code is all of brittle that is imported.
    """
    if _watches:
        seen = Watch(_watches[0].modules)
        seen.taken = _watches[0].taken
    else:
        seen = Watch(name for name in list(sys.modules) if name.split(".")[0] == NAME)
    for path in script:
        file = next((f for f in (ROOT / path, Path(path)) if f.is_file()), None)
        if file:
            seen.modules |= imports(file)
    return seen.code() | script


# --- digests


@functools.cache
def _digest_at(file, size, mtime_ns):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def digest(path):
    """SHA-256 of a file that a record names (`path` as it stands there); None where it is gone."""
    for file in (ROOT / path, Path(path).absolute()):
        with contextlib.suppress(OSError):
            stat = file.stat()
            return _digest_at(file, stat.st_size, stat.st_mtime_ns)
    return None


@functools.cache
def digests():
    """{path: SHA-256} of every file of brittle/, as they were when this process first asked.

    A process runs the code that it read at its start, and so do the children that the pipeline
    forks: a file that is mended meanwhile must not stand in their records as what made the result.
    """
    return {_name_of(file): digest(file) for file in sorted(PACKAGE.rglob("*.py"))}


# --- whether a result is still true


def older(code):
    """The files of `code` {path: SHA-256} that are not what they were, by name."""
    return [path for path, was in sorted(code.items()) if digest(path) != was]


def why_older(code):
    """That a result was made by older code, in words; None where it was not.

    `code` is None where it was not recorded.
    """
    if code is None:
        return "made by older code: its files were not recorded"
    files = older(code)
    if not files:
        return None
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"made by older code: {files[0]}{more}"


def accept_older():
    """From now on this process takes kept results of older code for true.

    The pipeline's children do where the user says so.
    """
    global _accepted
    _accepted = True


def accepted():
    """Whether `accept_older` was called."""
    return _accepted


def still_true(code):
    """Whether a kept result that was made by `code` may be taken."""
    return _accepted or why_older(code) is None
