"""One model under many attacks: loaded once, attacked cell by cell, every cell kept in a file of
its own until it is stale.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from brittle.attacks import attack_class
from brittle.attacks.material import TELLING, Material, forbidden
from brittle.attacks.meter import COLUMNS, attack_model, choose, eval_sets
from brittle.base import code
from brittle.base.errors import UserError
from brittle.base.files import describe_file, replace_text
from brittle.base.layout import model_files
from brittle.metrics import mcq
from brittle.models import guarded

DATA = (
    "mcq_forget.jsonl",
    "mcq_retain.jsonl",
    "qa_forget.jsonl",
    "retain.txt",
    "retain.jsonl",
    "neutral.txt",
    *TELLING,
)


@dataclass
class Session:
    """A model folder and a data folder; the model is loaded, inside `guard` if any, when the first
    attack needs it.
    """

    folder: Path
    data: Path
    max_items: int = 200
    batch_size: int = 256
    device: str = "auto"
    dtype: str = "float32"
    guard: object = None
    guard_files: tuple = ()
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
        """A row (`columns` and those of COLUMNS) a variant and split, every split asked of every
        variant; broken ones said.
        """
        meter, material = self.run(attack, everything=True)
        for note in meter.notes:
            print(f"note: {note}")
        print(f"half B was not in what the attack read ({len(material.read)} texts)")
        return [{c: row.get(c) for c in [*columns, *COLUMNS]} for row in meter.rows]

    def run(self, attack, everything=False):
        """(`Meter`, `Material`) of an attack (an object). Raises UserError where it has read half
        B.
        """
        material, sets = Material(self.data), eval_sets(self.data, self.max_items, attack.seed)
        return attack_model(
            attack, *self.model(), material, sets, forbidden(self.data), self.batch_size, everything
        ), material

    def key(self, name, attack, described):
        """All that a cell follows from but its code, as JSON. described: {path: files.describe_file(path)}."""
        settings = {**asdict(attack), "max_items": self.max_items, "dtype": self.dtype}
        settings["guard"] = self.guard.about if self.guard else None
        hashes = {path: entry["sha256"] for path, entry in described.items()}
        made = {
            "attack": name,
            "settings": settings,
            "inputs": hashes,
        }
        return json.loads(json.dumps(made, default=str))

    def cell(self, name, seed, described):
        """The outcome of attack `name` with `seed`: a dict that JSON can hold. A failed attack has
        no numbers, but a note.
        """
        attack = attack_class(name)(seed=seed)
        made = {
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
            made |= {
                "rows": meter.rows,
                "chosen": best,
                "facts": meter.facts(best),
                "notes": meter.notes,
            }
            made |= {"texts_read": len(material.read), "read_sha256": material.digest()}
        except UserError as error:
            made["notes"] = [str(error)]
        made["code"] = seen.code()
        return made | {
            "seconds": round(time.time() - wall, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
        }


def read_cell(path, key):
    """The cell at `path` where it was made from `key`, by code that is still the same; else None."""
    try:
        cell = json.loads(path.read_text(encoding="utf-8"))
        if cell["key"] != key or not code.still_true(cell["code"]):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or damaged
        return None
    code.use(cell["code"])
    return cell


def cells(session, names, seeds, folder, force=False, say=print):
    """[(attack, seed, cell)] of all attacks and seeds; those in `folder` that are still true are
    taken from there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = {path: describe_file(path) for path in session.inputs()}
    for seed in seeds:
        for name in names:
            path = folder / f"{name}-{seed}.json"
            found = (
                None
                if force
                else read_cell(path, session.key(name, attack_class(name)(seed=seed), described))
            )
            if found is None:
                found = session.cell(name, seed, described)
                replace_text(path, json.dumps(found))
                took = f"{found['seconds']:.1f} s, of CPU {found['cpu_seconds']:.1f} s"
                say(
                    f"{name} (seed {seed}): {took}: {found['chosen'] or 'failed: ' + '; '.join(found['notes'])}"
                )
            yield name, seed, found
