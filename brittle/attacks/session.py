"""One model under many attacks.

The model is loaded once and attacked cell by cell: a cell is an attack with a seed. Every cell is
kept in a file of its own until the model, the data, the settings or the code change.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from brittle.attacks import attack_class
from brittle.attacks.material import TELLING, Material, forbidden
from brittle.attacks.meter import (
    COLUMNS,
    NEVER_SEEN_FILE,
    Meter,
    attack_model,
    choose,
    eval_sets,
    sets_of,
)
from brittle.base import code
from brittle.base.errors import UserError
from brittle.base.files import describe_file, replace_text
from brittle.base.layout import model_files
from brittle.base.record import within_project
from brittle.data.examples import DEFAULT, Reading
from brittle.metrics import mcq
from brittle.models import guarded

DATA = (
    "mcq_forget.jsonl",
    "mcq_retain.jsonl",
    NEVER_SEEN_FILE,
    "qa_forget.jsonl",
    "retain.txt",
    "retain.facts.jsonl",
    "retain.jsonl",
    "neutral.txt",
    *TELLING,
)


@dataclass
class AttackSession:
    """A model folder and a data folder.

    The model is loaded when the first attack needs it, inside `guard` where there is one.
    """

    folder: Path
    data: Path
    max_items: int = 200
    batch_size: int = 256
    device: str = "auto"
    dtype: str = "float32"
    guard: object = None
    guard_files: tuple = ()
    reading: Reading = DEFAULT
    loaded: list = field(default_factory=list)
    loading: code.Watch | None = None  # the code that loaded the model: every cell's code too

    def model(self):
        """(model, tokenizer)"""
        if not self.loaded:
            with code.watch() as self.loading:
                self.loaded += guarded.load(self.folder, self.device, self.dtype, guard=self.guard)
        code.again(self.loading)
        return self.loaded

    def files(self):
        """The data folder's files that attacks read, or that are read to tell half B."""
        read = [str(self.data / name) for name in DATA if (self.data / name).is_file()]
        return list(dict.fromkeys([*read, *map(str, self.guard_files)]))

    def inputs(self):
        """All files that an attack's outcome depends on: data, and the model's own."""
        return [*self.files(), *map(str, model_files(self.folder))]

    def chance(self):
        """Accuracy on half B by guessing."""
        items = eval_sets(self.data, self.max_items)["forget_b"]
        return mcq.chance(items)

    def rows(self, attack, columns):
        """A row a variant and split, with `columns` and those of `meter.COLUMNS`.

        Every variant is asked every split. What went wrong is printed.
        """
        meter, material = self.run(attack, everything=True)
        for note in meter.notes:
            print(f"note: {note}")
        print(f"half B was not in what the attack read ({len(material.read)} texts)")
        wanted = [*columns, *COLUMNS]
        return [{column: row.get(column) for column in wanted} for row in meter.rows]

    def run(self, attack, *, everything=False):
        """(`Meter`, `Material`) of an attack. Raises UserError where it has read half B."""
        model, tokenizer = self.model()
        material = Material(self.data, attack.seed)
        sets = sets_of(attack, self.data, self.max_items)
        everything = everything or attack.ASKS_ALL
        meter = Meter(model, tokenizer, sets, self.batch_size, everything, self.reading)
        banned = {} if attack.READS_B else forbidden(self.data)
        attack_model(attack, meter, material, banned)
        return meter, material

    def key(self, name, attack, described):
        """All that a cell follows from but its code, as JSON.

        described: {path: files.describe_file(path)}.
        """
        settings = {**asdict(attack), "max_items": self.max_items, "dtype": self.dtype}
        settings["guard"] = self.guard.about if self.guard else None
        hashes = {within_project(path): entry["sha256"] for path, entry in described.items()}
        key = {"attack": name, "settings": settings, "inputs": hashes}
        return json.loads(json.dumps(key, default=str))

    def attack(self, name, seed):
        """The attack `name` with its defaults."""
        return attack_class(name)(seed=seed, reading=self.reading)

    def cell(self, name, seed, described):
        """The outcome of attack `name` with `seed`: a dict that JSON can hold.

        A failed attack has no numbers, but a note.
        """
        attack = self.attack(name, seed)
        cell = {
            "key": self.key(name, attack, described),
            "code": {},
            "rows": [],
            "facts": {},
            "chosen": None,
            "notes": [],
            "texts_read": None,
            "read_sha256": None,
        }
        self.model()  # loading it is no attack's time
        wall, cpu = time.time(), time.process_time()
        modules = {__name__, type(attack).__module__, type(self.guard).__module__}
        try:
            with code.watch(*modules) as seen:
                meter, material = self.run(attack)
            best = choose(meter.rows)
            cell |= {
                "rows": meter.rows,
                "facts": meter.facts(best),
                "chosen": best,
                "notes": meter.notes,
                "texts_read": len(material.read),
                "read_sha256": material.digest(),
            }
        except UserError as error:
            cell["notes"] = [str(error)]
        cell["code"] = seen.code()
        return cell | {
            "seconds": round(time.time() - wall, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
        }


def read_cell(path, key):
    """The cell at `path`, or None where it was made from another key or by other code."""
    try:
        cell = json.loads(path.read_text(encoding="utf-8"))
        if cell["key"] != key or not code.still_true(cell["code"]):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or damaged
        return None
    code.use(cell["code"])
    return cell


def describe_cell(name, seed, cell):
    """A line about a cell that was made: how long it took, and which variant counts."""
    took = f"{cell['seconds']:.1f} s, of CPU {cell['cpu_seconds']:.1f} s"
    result = cell["chosen"] or "failed: " + "; ".join(cell["notes"])
    return f"{name} (seed {seed}): {took}: {result}"


def cells(session, names, seeds, folder, *, force=False, say=print):
    """Yield (attack, seed, cell) of all attacks and seeds.

    Cells in `folder` that are still true are taken from there, unless `force` makes them anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = {path: describe_file(path) for path in session.inputs()}
    for seed in seeds:
        for name in names:
            path = folder / f"{name}-{seed}.json"
            cell = None
            if not force:
                key = session.key(name, session.attack(name, seed), described)
                cell = read_cell(path, key)
            if cell is None:
                cell = session.cell(name, seed, described)
                replace_text(path, json.dumps(cell))
                say(describe_cell(name, seed, cell))
            yield name, seed, cell
