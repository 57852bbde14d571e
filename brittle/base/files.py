"""Files that are whole or not there: hashes, and putting files and folders in place by rename."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path

HASH_CACHE = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "brittle" / "sha256.json"
)
REMOVED = "weights.removed.json"  # in a model folder: what its weights were
CACHED_FROM = 64 << 20  # bytes: smaller files are hashed faster than a cache is read


def sha256(path):
    """Hex digest of a file.

    Blobs of the hub's cache are named by it. Digests of other large files are kept by path, size,
    time of change and inode.
    """
    real = Path(path).resolve()
    if real.parent.name == "blobs" and len(real.name) == 64:
        return real.name
    stat = real.stat()
    key = f"{real}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"
    cache = {}
    if stat.st_size >= CACHED_FROM:
        try:
            cache = json.loads(HASH_CACHE.read_text())
        except (OSError, ValueError):
            cache = {}
        if key in cache:
            return cache[key]
    with open(real, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if stat.st_size >= CACHED_FROM:
        try:
            HASH_CACHE.parent.mkdir(parents=True, exist_ok=True)
            replace_text(HASH_CACHE, json.dumps({**cache, key: digest}))
        except OSError:
            pass  # a cache that cannot be written costs time, nothing else
    return digest


def describe_file(path):
    """{sha256, size, mtime_ns} of a file."""
    stat = os.stat(path)
    return {"sha256": sha256(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def changed(path, was):
    """Whether the file is gone or has another content than `was`, its `describe_file` of then.

    Weights that were removed to save space are not gone: a note beside them says what they were.
    """
    try:
        stat = os.stat(path)
    except OSError:
        note = removed(Path(path).parent).get(Path(path).name, {})
        return note.get("sha256") != was["sha256"]
    if stat.st_size != was["size"]:
        return True
    return stat.st_mtime_ns != was["mtime_ns"] and sha256(path) != was["sha256"]


def removed(folder):
    """{name: its `describe_file`} of the weights that were removed from a model folder."""
    try:
        return json.loads((Path(folder) / REMOVED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def replace_text(path, text):
    """Write `text` to `path` by rename, so that the file is the old or the new one, never half."""
    staged = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.part")
    try:
        staged.write_text(text, encoding="utf-8")
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)


def replace_folder(new, folder):
    """Put the folder `new` in the place of `folder`.

    Where the process is killed between the two renames, `recover_folder` puts the old one back.
    """
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder):
    """Put back the old folder where `replace_folder` was killed before the new one was in place."""
    folder = Path(folder)
    old = folder.with_name(f".{folder.name}.old")
    if old.is_dir() and not folder.exists():
        os.rename(old, folder)


def missing_folders(folder):
    """`folder` and those above it that do not exist, deepest first.

    `remove_empty` takes them away again where what they are made for fails.
    """
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_empty(folders):
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def hold(folder):
    """Lock `folder`.

    Returns a descriptor; the lock ends when that is closed or the process ends.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def abandoned(folder):
    """Whether no process holds `folder`.

    A lock tells a dead process from another machine's and from a zombie; its number does not.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
