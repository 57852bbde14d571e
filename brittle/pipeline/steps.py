"""The steps of the pipeline as data: steps.csv and a preset expanded into tasks, each with its command and what it needs."""

import shlex
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.layout import comparison_dir, model_name, unlearned_dir
from brittle.base.record import why_run
from brittle.base.tables import read_cells

STEPS = Path("experiment/steps.csv")
PRESETS = Path("experiment/presets")
COLUMNS = ["step", "scope", "script", "folder", "output", "extra", "title", "needs"]
SCOPES = ("data", "family", "unlearn", "comparison", "model", "all")


@dataclass
class Preset:
    """The three models, the data, and arguments for scripts ({script: text}); scopes `data` and `family` only where named."""

    name: str
    base: str
    filtered: str
    unlearned: list[str]
    method: str
    data: str
    root: str
    arguments: dict = field(default_factory=dict)
    makes: tuple = ()  # scopes that this preset makes itself: data, family, unlearn
    primary: str = ""  # the metric that decides, declared before there are results: task and test of eval/significance.py
    given: set = field(default_factory=set)  # models and data named by the user, which are not made


@dataclass
class Task:
    """One command of the pipeline. `needs` are the names of tasks that must have succeeded before."""

    name: str
    step: str
    title: str
    command: list[str]  # as it will stand in the record: script, then arguments
    output: Path
    needs: list[str] = field(default_factory=list)
    takes_what_there_is: bool = (
        False  # waits for what it needs, and runs also where some of it failed (the report)
    )

    def why(self, *, accept_older_code=False):
        """None where the output is there and up to date, else the reason to run."""
        return why_run(self.output, self.command, accept_older_code=accept_older_code)

    def why_skipped(self):
        """What to say where the task does not run: that it is up to date, or that older code was accepted."""
        return self.why() or "up to date"


def read_steps(path=STEPS):
    if not Path(path).is_file():
        raise UserError(
            f"{path} not found in {Path.cwd()}. Run ./experiment/pipeline.sh, or stand in the repository's root."
        )
    rows = read_cells(path)
    for row in rows:
        assert list(row) == COLUMNS and row["scope"] in SCOPES, row
    return rows


def read_preset(name):
    """The preset called `name` (experiment/presets/<name>.toml) or at the path `name`. Raises UserError."""
    path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
    if not path.is_file():
        raise UserError(
            f"--preset {name}: choose {', '.join(sorted(p.stem for p in PRESETS.glob('*.toml')))}, or a .toml file."
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        preset = Preset(path.stem, **table)
    except (
        ValueError,
        TypeError,
    ) as error:  # not TOML, not UTF-8; names that are missing or unknown
        raise UserError(f"{path} is no preset: {error}") from None
    if isinstance(preset.unlearned, str):
        preset.unlearned = [preset.unlearned]
    texts = [preset.base, preset.filtered, preset.method, preset.data, preset.root, preset.primary]
    texts += [*preset.unlearned, *preset.makes]
    if not all(
        isinstance(text, str) for text in [*texts, *preset.arguments, *preset.arguments.values()]
    ):
        raise UserError(
            f"{path} is no preset: models, method, data, root, primary, makes and arguments are texts."
        )
    return preset


def tasks(preset, rows):
    """All tasks of `preset`, in the order of `rows`. Comparisons are base -> filtered and base -> each unlearned model."""
    made, units = [], {}
    if not preset.unlearned:
        preset.unlearned = [str(unlearned_dir(preset.root, preset.base, preset.method))]
    others = [preset.filtered, *preset.unlearned]
    names = [model_name(model) for model in (preset.base, *others)]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"two of the models are called {name}, so their results would mix. Give their folders other names."
            )
    for row in rows:
        if row["scope"] in ("data", "family", "unlearn") and row["scope"] not in preset.makes:
            continue
        if row["step"] in preset.given or (
            row["scope"] == "unlearn" and "unlearned" in preset.given
        ):
            continue
        for unit, arguments, outdir, sources in _units(row, preset, others):
            name = f"{row['step']} {unit}".strip()
            needs = _needs(row["needs"], unit, units, made) + [
                n for s in sources for n in units.get(("makes", s), [])
            ]
            texts = row["extra"], preset.arguments.get(row["script"], "")
            extra = [
                part
                for text in texts
                for part in shlex.split(text.format(data=shlex.quote(preset.data)))
            ]
            task = Task(
                name,
                row["step"],
                row["title"],
                [row["script"], *arguments, *extra],
                outdir / row["output"],
                needs,
            )
            task.takes_what_there_is = row["needs"] == "*"
            made.append(task)
            units.setdefault(row["step"], {})[unit] = name
            if row["scope"] in ("family", "unlearn"):
                units.setdefault(("makes", str(outdir)), []).append(name)
            if row["scope"] == "data":
                units.setdefault(("makes", "data"), []).append(name)
    return made


def _units(row, preset, others):
    """(unit, arguments, output folder, things it reads) for every run of a row; things are `data` and model folders."""
    root, scope = Path(preset.root), row["scope"]
    if scope == "data":
        yield "", ["--outdir", preset.data], Path(preset.data), []
    elif scope == "family":
        folder = Path(preset.base if "base" in row["extra"] else preset.filtered)
        yield "", ["--data", preset.data, "--outdir", str(folder.parent)], folder, ["data"]
    elif scope == "unlearn":
        folder = unlearned_dir(root, preset.base, preset.method)
        command = ["--model", preset.base, "--method", preset.method, "--root", str(root)]
        yield "", command, folder, ["data", preset.base]
    elif scope == "comparison":
        for other in others:
            outdir = comparison_dir(root, preset.base, other) / row["folder"]
            command = ["--model-a", preset.base, "--model-b", other, "--outdir", str(outdir)]
            yield model_name(other), command, outdir, ["data", preset.base, other]
    elif scope == "model":
        for model in [preset.base, *others]:
            outdir = root / model_name(model) / row["folder"]
            yield (
                model_name(model),
                ["--model", model, "--outdir", str(outdir)],
                outdir,
                ["data", model],
            )
    else:
        outdir = root / row["folder"]
        command = ["--base", preset.base, "--filtered", preset.filtered]
        command += [part for model in preset.unlearned for part in ("--unlearned", model)] + [
            "--root",
            str(root),
        ]
        yield (
            "",
            command + (["--outdir", str(outdir)] if row["folder"] else []),
            outdir,
            ["data", preset.base, *others],
        )


def _needs(wanted, unit, units, made):
    """Task names behind a row's `needs`: the same unit's task of each step named, or all its units; * is every task before."""
    if wanted == "*":
        return [task.name for task in made]
    named = []
    for step in wanted.split():
        found = units.get(step, {})
        named += [found[unit]] if unit in found else list(found.values())
    return named


def override(preset, **given):
    """`preset` with the models, method, data and root that the user gave; what the user gives is not made by the pipeline."""
    given = {key: value for key, value in given.items() if value}
    if "root" in given and preset.base.startswith(f"{preset.root}/"):
        for role in ("base", "filtered"):
            setattr(preset, role, given["root"] + getattr(preset, role).removeprefix(preset.root))
    for key, value in given.items():
        setattr(preset, key, value)
    preset.given = {"base", "filtered", "unlearned", "data"} & set(given)
    return preset
