"""The mutants that no test noticed, from the results of several runs: a list with reasons.

Runs may be of several machines and commits. A mutant is known by its module, its line's text and
its change, so it is the same one when the lines above it have moved. A mutant that a test noticed
in any run is left out, and so is one whose line is no longer there.
"""

import csv
import re
import subprocess
from collections import Counter
from typing import NamedTuple

from mutants import digest

COLUMNS = ["module", "line", "operator", "before", "after", "occurrence", "status", "reason"]
NOTICED, ALIVE = ("killed", "timeout"), ("survived", "not reached")


class Change(NamedTuple):
    """A mutant by what it says. occurrence: of the lines of this text in its module, from 1."""

    module: str
    operator: str
    before: str
    after: str
    occurrence: int


def squeeze(text):
    """The text with single blanks."""
    return " ".join(text.split())


def read_results(places):
    """[row] of results files, or of all results*.csv of folders, in the order of `places`."""
    rows = []
    for place in places:
        for path in sorted(place.glob("results*.csv")) if place.is_dir() else [place]:
            with open(path, newline="", encoding="utf-8") as file:
                rows += csv.DictReader(file)
    return rows


class Texts:
    """A module's text as it was when its mutants were listed: of now, or of git's history."""

    def __init__(self, root):
        self.root = root
        self.known = {}

    def now(self, module):
        path = self.root / module
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def of(self, module, sha):
        """The text with this digest, or None where neither the tree nor its history has it."""
        if (module, sha) not in self.known:
            texts = self.versions(module)
            self.known[module, sha] = next((text for text in texts if digest(text) == sha), None)
        return self.known[module, sha]

    def versions(self, module):
        yield self.now(module)
        for commit in self.git("log", "--format=%H", "--", module).split():
            yield self.git("show", f"{commit}:{module}")

    def git(self, *arguments):
        done = subprocess.run(
            ["git", *arguments], cwd=self.root, capture_output=True, check=False, encoding="utf-8"
        )
        return done.stdout


def change_of(row, text):
    """The `Change` of a mutant's row, from the text of its module."""
    start, end = int(row["start"]), int(row["end"])
    first, last = text.rfind("\n", 0, start) + 1, text.find("\n", end)
    before = squeeze(text[first:last])
    after = squeeze(text[first:start] + row["new"] + text[end:last])
    lines = lines_of(before, text, text[first:last].count("\n") + 1)
    occurrence = lines.index(text.count("\n", 0, first) + 1) + 1
    return Change(row["module"], row["operator"], before, after, occurrence)


def lines_of(wanted, text, height=1):
    """The lines, from 1, at which `height` lines of the text read as `wanted`."""
    lines = text.split("\n")
    starts = range(len(lines) - height + 1)
    return [k + 1 for k in starts if squeeze(" ".join(lines[k : k + height])) == wanted]


def line_now(change, text):
    """The line of a change in the module's present text; None where it is gone."""
    for height in (1, 2, 3):
        lines = lines_of(change.before, text, height)
        if len(lines) >= change.occurrence:
            return lines[change.occurrence - 1]
    return None


def read_list(path):
    """{Change: its row} of a list of survivors, {} where there is none."""
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        Change(*(row[key] for key in Change._fields[:-1]), int(row["occurrence"])): row
        for row in rows
    }


def harmless_kind(change, kinds):
    """The reason of the first of `kinds` (mutation.toml) that fits a change, or ''."""
    for kind in kinds:
        fits = re.search(kind["operator"], change.operator)
        if fits and re.search(kind["after"], change.after):
            return kind["reason"]
    return ""


def merge(rows, texts, listed):
    """({Change: status} of what no run noticed, how many rows have no text).

    rows: of results. listed: the list as it stands, which the rows are added to.
    """
    statuses = {change: {row["status"]} for change, row in listed.items()}
    lost = 0
    for row in rows:
        text = texts.of(row["module"], row["sha"])
        if text is None:
            lost += 1
            continue
        statuses.setdefault(change_of(row, text), set()).add(row["status"])
    alive = {
        change: next(status for status in ALIVE if status in seen)
        for change, seen in statuses.items()
        if not seen & set(NOTICED)
    }
    return alive, lost


def list_survivors(alive, texts, listed, kinds):
    """[row] of COLUMNS of {Change: status}, without those whose line is gone."""
    survivors = []
    for change, status in alive.items():
        line = line_now(change, texts.now(change.module))
        if line is not None:
            reason = listed.get(change, {}).get("reason") or harmless_kind(change, kinds)
            about = {"line": line, "status": status, "reason": reason}
            survivors.append(change._asdict() | about)
    return sorted(survivors, key=lambda row: [row[key] for key in ("module", "line", "after")])


def write_survivors(path, places, root, kinds):
    """Add results to the list of survivors; what and which reasons stand there stay."""
    texts, listed = Texts(root), read_list(path)
    alive, lost = merge(read_results(places), texts, listed)
    survivors = list_survivors(alive, texts, listed, kinds)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(survivors)
    counts = Counter(row["status"] for row in survivors)
    bare = sum(not row["reason"] for row in survivors)
    gone = len(alive) - len(survivors)
    print(f"{dict(counts)}, {bare} without a reason; {gone} whose line is gone")
    if lost:
        print(f"{lost} results left out: git does not know the text that was mutated")
