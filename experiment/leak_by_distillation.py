"""What does a teacher's output give away to weights that never saw the forget domain?

    uv run experiment/leak_by_distillation.py                          3 worlds x 2 initial weights
    uv run experiment/leak_by_distillation.py --jobs 14 --worlds 0,1,2 --inits 0,1
    uv run experiment/leak_by_distillation.py --arms soft,seen --worlds 0 --inits 0

A student starts from fresh weights and learns a teacher's predictions on the pretraining text, or
on that text without a forget name or fact (unlearn/unlearn.py --method distill). Base as teacher on
all text is the positive control, Filtered the negative one. The arms (ARMS) exchange the teacher,
the text, what the teacher tells of a token, and whether the names of the three domains share
syllables. Each student is measured by eval/leak_bits.py, those of soft labels also under the
relearning attack (eval/attack.py). Every cell is kept; what is there is not made again.

Writes <root>/leak_by_distillation.csv (a row a student), leak_summary.csv (a row an arm: means over
worlds and initial weights, intervals by Student's t over worlds) and a figure.
"""

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.base.knobs import listed

CELL = ["arm", "teacher", "text", "labels", "pieces", "world", "init"]
MEASURED = [
    "forget_accuracy",
    "half_b_accuracy",
    "retain_accuracy",
    "general_accuracy",
    "bits",
    "bits_null",
    "sharpness",
    "teacher_bits",
    "teacher_half_b_accuracy",
    "attacked",
    "recovery",
]
COLUMNS = [*CELL, *MEASURED]
MEANS = (
    "forget_accuracy",
    "half_b_accuracy",
    "retain_accuracy",
    "general_accuracy",
    "bits",
    "teacher_bits",
    "attacked",
    "recovery",
)
SUMMARY = [
    *CELL[:5],
    "n",
    *(f"{name}{end}" for name in MEANS for end in ("", "_low", "_high")),
]
ROLES = ("base", "filtered")
METHOD = "cb_lat"  # the unlearned teacher: the mini family's method that hides best
TEACHERS = (*ROLES, METHOD)


class Arm(NamedTuple):
    """What a student learns from. flags: of unlearn.py, beside teacher and text."""

    name: str
    text: str
    flags: tuple = ()
    teachers: tuple = TEACHERS
    pieces: str = "shared"
    attacked: bool = False


def _told(name, *flags):
    """An arm that exchanges what Base tells of a token, on text without the forget domain."""
    return Arm(name, "no-forget", flags, ("base",))


ARMS = [
    Arm("all", "all", attacked=True),
    Arm("soft", "no-forget", attacked=True),
    Arm("disjoint", "no-forget", pieces="disjoint"),
    _told("seen", "--labels", "seen"),
    _told("topk5", "--labels", "topk:5"),
    _told("topk50", "--labels", "topk:50"),
    _told("sampled", "--labels", "sampled"),
    _told("argmax", "--labels", "argmax"),
    _told("warm", "--temperature", "3"),
    _told("cold", "--temperature", "0.5"),
    _told("noise1", "--label-noise", "1"),
    _told("noise4", "--label-noise", "4"),
]


class Place(NamedTuple):
    """One family: the world of a seed, and the seed of the initial weights. home: its folder."""

    home: Path
    world: int
    init: int
    pieces: str

    @property
    def name(self):
        return f"w{self.world}-i{self.init}-{self.pieces}"

    @property
    def data(self):
        return self.home.parent / f"data-w{self.world}-{self.pieces}"

    def model(self, role):
        """The folder of Base, of Filtered, or of the unlearned teacher."""
        if role in ROLES:
            return self.home / "models" / f"mini-{role}"
        return self.home / f"mini-base__{role}" / "unlearned_model"

    def student(self, tag):
        return self.home / f"mini-base__distill-{tag}" / "unlearned_model"


class DistilledCell(NamedTuple):
    """One student."""

    place: Place
    arm: Arm
    teacher: str

    @property
    def tag(self):
        return f"{self.teacher.replace('_', '')}-{self.arm.name}"

    @property
    def folder(self):
        return self.place.student(self.tag)


def cells(arms, root, worlds, inits):
    """Every DistilledCell of the arms, worlds and initial weights."""
    return [
        DistilledCell(Place(root / f"w{w}-i{i}-{arm.pieces}", w, i, arm.pieces), arm, teacher)
        for w in worlds
        for i in inits
        for arm in arms
        for teacher in arm.teachers
    ]


class Maker:
    """The tasks of a study, each once. device, entities and steps: flags of the commands."""

    def __init__(self, device, entities, steps):
        self.on = [] if device == "auto" else ["--device", device]
        self.entities, self.steps = entities, steps
        self.tasks = {}

    def add(self, name, line, output, needs=()):
        from brittle.pipeline.steps import Task

        words = [str(word) for word in line]
        self.tasks.setdefault(name, Task(name, "leak", "Leak", words, output, list(needs)))
        return name

    def data(self, place):
        line = ["create_datasets.py", "--outdir", place.data, "--seed", place.world]
        line += ["--pieces", place.pieces, "--entities", self.entities]
        return self.add(f"data {place.data.name}", line, place.data / "retain.txt")

    def model(self, place, role):
        """The task of Base, Filtered or the unlearned teacher."""
        data, name = self.data(place), f"{role} {place.name}"
        folder = place.model(role)
        if role in ROLES:
            line = ["create_models.py", "--only", role, "--data", place.data]
            line += ["--outdir", folder.parent, "--seed", place.init, *self.on]
            line += ["--steps", self.steps] if self.steps else []
            return self.add(name, line, folder / "model.safetensors", [data])
        base = self.model(place, "base")
        line = ["unlearn/unlearn.py", "--method", role, "--model", place.model("base")]
        line += ["--root", place.home, *self.reading(place)]
        return self.add(name, line, folder / "training_history.csv", [base])

    def reading(self, place):
        return ["--data", place.data, "--seed", place.init, *self.on]

    def student(self, cell):
        """The task of a student, and those that measure it and its teacher."""
        place, name = cell.place, f"{cell.tag} {cell.place.name}"
        needs = [self.model(place, "base"), self.model(place, cell.teacher)]
        line = ["unlearn/unlearn.py", "--method", "distill", "--model", place.model("base")]
        line += ["--teacher", place.model(cell.teacher), "--text", cell.arm.text, *cell.arm.flags]
        line += ["--name", cell.tag, "--root", place.home, "--save-every", 0]
        line += ["--steps", self.steps] if self.steps else []
        line += self.reading(place)
        self.add(name, line, cell.folder / "training_history.csv", needs)
        self.leak(place, cell.teacher, place.model(cell.teacher), needs[1])
        self.leak(place, cell.tag, cell.folder, name)
        if cell.arm.attacked:
            self.attack(place, cell.tag, cell.folder, name)
            for role in ROLES:
                self.attack(place, role, place.model(role), self.model(place, role))

    def leak(self, place, label, folder, need):
        outdir = place.home / "leaks" / label
        line = ["eval/leak_bits.py", "--model", folder, "--outdir", outdir, *self.reading(place)]
        self.add(f"leak {label} {place.name}", line, outdir / "leak_bits.csv", [need])

    def attack(self, place, label, folder, need):
        outdir = place.home / "attacks" / label
        line = ["eval/attack.py", "--model", folder, "--outdir", outdir, "--data", place.data]
        line += ["--attacks", "relearn", *self.on]
        self.add(f"attack {label} {place.name}", line, outdir / "attacks.csv", [need])


def leaked(place, label):
    """The row of eval/leak_bits.py of a model."""
    from brittle.base.tables import read_rows

    (row,) = read_rows(place.home / "leaks" / label / "leak_bits.csv", text=("model",))
    return row


def attacked(place, label):
    """Half B after the relearning attack, at the variant that half A chose; None without it."""
    from brittle.base.tables import read_rows

    path = place.home / "attacks" / label / "attacks.csv"
    rows = read_rows(path, text=("attack", "variant"))
    for row in rows:
        if (row["attack"], row["split"], row["chosen"]) == ("relearn", "forget_b", 1):
            return row["accuracy"]
    return None


def row_of(cell):
    """A row of COLUMNS of a student that was measured."""
    from brittle.metrics.recovery import heldout_recovery

    place, arm = cell.place, cell.arm
    student, teacher = leaked(place, cell.tag), leaked(place, cell.teacher)
    line = dict.fromkeys(COLUMNS) | {name: student[name] for name in MEASURED if name in student}
    line |= {
        "arm": arm.name,
        "teacher": cell.teacher,
        "text": arm.text,
        "labels": " ".join(arm.flags) or "soft",
        "pieces": arm.pieces,
        "world": place.world,
        "init": place.init,
        "teacher_bits": teacher["bits"],
        "teacher_half_b_accuracy": teacher["half_b_accuracy"],
    }
    if arm.attacked:
        ends = [attacked(place, label) for label in (cell.tag, "filtered", "base")]
        line["attacked"], line["recovery"] = ends[0], heldout_recovery(*ends)
    return line


def interval(rows, column):
    """(mean, low, high) of a column over worlds: of each world the mean over initial weights.

    The interval is Student's t over the worlds' means, None of a single world.
    """
    from statistics import fmean

    from brittle.maths.intervals import mean_interval

    worlds = {}
    for row in rows:
        if row[column] is not None:
            worlds.setdefault(row["world"], []).append(row[column])
    means = [fmean(values) for values in worlds.values()]
    return mean_interval(means) if means else (None, None, None)


def summary(table):
    """A row of SUMMARY an arm and teacher."""
    groups = {}
    for row in table:
        groups.setdefault((row["arm"], row["teacher"]), []).append(row)
    for rows in groups.values():
        line = {name: rows[0][name] for name in CELL[:5]} | {"n": len(rows)}
        for name in MEANS:
            ends = zip(("", "_low", "_high"), interval(rows, name), strict=True)
            line |= {f"{name}{end}": value for end, value in ends}
        yield line


def plot(lines):
    """Half B of the students as made, an arm a row, and the bits that they tell."""
    from brittle.base import figures

    names = [f"{line['arm']}, {line['teacher']}" for line in lines]
    size = {"columns": 2, "height": 0.34 * len(names) + 1.8}
    figure, axes = figures.figure(
        "What a teacher's outputs give away", f"families: {lines[0]['n']}", **size
    )
    panels = (("half_b_accuracy", "half B of the student, as made"), ("bits", "leak bits"))
    for axis, (column, label) in zip(axes, panels, strict=True):
        for place, line in enumerate(lines):
            colour = figures.CYCLE[TEACHERS.index(line["teacher"]) % len(figures.CYCLE)]
            value, low, high = (line[f"{column}{end}"] for end in ("", "_low", "_high"))
            if low is not None:
                axis.plot([low, high], [place, place], color=colour)
            axis.plot(value, place, "o", color=colour)
        axis.set_yticks(range(len(names)), names if axis is axes[0] else [""] * len(names))
        figures.finish(axis, label, "", integer=False, legend=False)
        axis.set_ylim(len(names) - 0.5, -0.5)
    axes[0].axvline(0.25, color="0.6", linestyle=":")
    return figure


def chosen_arms(text):
    """The arms of a text with commas; all where it is empty. Raises UserError."""
    known = {arm.name: arm for arm in ARMS}
    names = listed(text) or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"--arms {unknown[0]}: choose {', '.join(known)}.")
    return [known[name] for name in names]


def main(
    root: options.Root = Path("outputs/leak"),
    worlds: Annotated[str, typer.Option(help="Seeds of the world, with commas.")] = "0,1,2",
    inits: Annotated[str, typer.Option(help="Seeds of the weights, with commas.")] = "0,1",
    arms: Annotated[
        str, typer.Option(help=f"With commas (all): {', '.join(arm.name for arm in ARMS)}.")
    ] = "",
    entities: Annotated[int, typer.Option(min=4, help="Entities a domain of the worlds.")] = 80,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of families and students (as they are).")
    ] = None,
    device: options.Device = "auto",
    table_only: Annotated[
        bool, typer.Option("--table", help="Run nothing; write the tables of what is there.")
    ] = False,
    dry_run: options.DryRun = False,
    accept_older_code: options.AcceptOlderCode = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side (2 on CPU, 1 on GPU).")
    ] = None,
):
    """Distil students from teachers that know, hide or never knew, and measure what they know."""
    from brittle.base.record import Run, say
    from brittle.pipeline import runner

    wanted = cells(chosen_arms(arms), root, options.read_seeds(worlds), options.read_seeds(inits))
    maker = Maker(device, entities, steps)
    for cell in wanted:
        maker.student(cell)
    status = runner.run(
        [] if table_only else list(maker.tasks.values()),
        root,
        jobs=jobs,
        dry_run=dry_run,
        accept_older_code=accept_older_code,
    )
    if dry_run:
        return status
    done = [cell for cell in wanted if is_measured(cell)]
    if not done:
        raise UserError(f"no student was measured. See {root}/logs.")
    table = [row_of(cell) for cell in done]
    files = [cell.place.home / "leaks" / cell.tag / "leak_bits.csv" for cell in done]
    with Run(root, files, settings={"cells": len(done), "wanted": len(wanted)}) as run:
        lines = list(summary(table))
        run.figure(plot(lines), "leak_by_distillation.png")
        run.csv("leak_summary.csv", SUMMARY, lines)
        run.csv("leak_by_distillation.csv", COLUMNS, table)
    say(root / "leak_by_distillation.csv", f"{len(done)} of {len(wanted)} students")
    return status


def is_measured(cell):
    """Are the student's leak bits, and its teacher's, there?"""
    home = cell.place.home / "leaks"
    return all((home / n / "leak_bits.csv").is_file() for n in (cell.tag, cell.teacher))


if __name__ == "__main__":
    command.run(main)
