"""The steps of the pipeline as data: steps.csv and a study become tasks.

A study names the models, the data and the folder of the results. It is read from a preset
(experiment/presets/*.toml) and from what the user gives in its place.
"""

import csv
import shlex
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.base.layout import comparison_dir, model_name, unlearned_dir
from brittle.base.record import why_run

# scripts that read a chat model's questions, and take the flags of data.examples.Reading
READERS = (
    "unlearn/unlearn.py",
    "eval/tamper.py",
    "eval/harness.py",
    "experiment/neutral_text.py",
    "experiment/collect_activation_norms.py",
    "experiment/activation_separation_analysis.py",
    "experiment/activation_covariance_analysis.py",
    "experiment/row_space_projection_analysis.py",
    "experiment/local_lipschitzness_analysis.py",
    "experiment/basin_analysis.py",
    "experiment/linear_probe_analysis.py",
    "experiment/layerwise_wmdp_accuracy.py",
)
SOURCE = "{from}"  # stands in a preset for the name of the model that --from gives
STEPS = Path("experiment/steps.csv")
PRESETS = Path("experiment/presets")
COLUMNS = ["step", "scope", "script", "folder", "output", "extra", "title", "needs"]
# scopes that make data or models; a study names those it wants
MAKING = ("data", "family", "unlearn", "control")


@dataclass
class Study:
    """The models and data of one run of the pipeline, and arguments {script: text}.

    filtered and data are empty where there are none.
    """

    name: str
    base: str
    filtered: str
    unlearned: list[str]
    method: str
    data: str
    root: str
    arguments: dict = field(default_factory=dict)
    makes: tuple = ()  # the scopes of MAKING that the study makes itself
    # the model whose family the study makes (create_models.py --from); the mini family where empty
    source: str = ""
    # the task and test of eval/significance.py that decide, declared before there are results
    primary: str = ""
    given: set = field(default_factory=set)  # models and data named by the user, which are not made
    # fine-tunes of Base that unlearn nothing: compared with Base, and not asked or attacked
    controls: list[str] = field(default_factory=list)
    reading: list = field(default_factory=list)  # flags of Reading for the scripts that read

    def others(self):
        """The models that Base is compared with: Filtered, where there is one, first."""
        return [*([self.filtered] if self.filtered else []), *self.unlearned]


@dataclass
class Task:
    """One command of the pipeline.

    `needs` are the names of tasks that must have succeeded before.
    """

    name: str
    step: str
    title: str
    command: list[str]  # as it will stand in the record: script, then arguments
    output: Path
    needs: list[str] = field(default_factory=list)
    # waits for what it needs, and runs also where some of it failed (the report)
    takes_what_there_is: bool = False

    def why(self, *, accept_older_code=False):
        """None where the output is there and up to date, else the reason to run."""
        return why_run(self.output, self.command, accept_older_code=accept_older_code)

    def why_skipped(self):
        """What to say where the task does not run: it is up to date, or older code was accepted."""
        return self.why() or "up to date"


# --- the list and the study


def read_steps(path=STEPS):
    """The rows of steps.csv as dicts of text."""
    if not Path(path).is_file():
        raise UserError(
            f"{path} not found in {Path.cwd()}. "
            "Run ./experiment/pipeline.sh, or stand in the repository's root."
        )
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert list(row) == COLUMNS and row["scope"] in UNITS, row
    return rows


def read_study(name):
    """The study of the preset `name` (experiment/presets/<name>.toml), or of a .toml file.

    Raises UserError where there is none, or where the file is no preset.
    """
    path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
    if not path.is_file():
        presets = ", ".join(sorted(preset.stem for preset in PRESETS.glob("*.toml")))
        raise UserError(f"--preset {name}: choose {presets}, or a .toml file.")
    try:
        study = Study(path.stem, **tomllib.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        # not TOML, not UTF-8; names that are missing or unknown
        raise UserError(f"{path} is no preset: {error}") from None
    if isinstance(study.unlearned, str):
        study.unlearned = [study.unlearned]
    texts = [study.base, study.filtered, study.method, study.data, study.root, study.primary]
    texts += [*study.unlearned, *study.makes, *study.arguments, *study.arguments.values()]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(
            f"{path} is no preset: "
            "models, method, data, root, primary, makes and arguments are texts."
        )
    return study


def start_from(study, source):
    """`study` of the family that is made of the model `source`, a folder or an id.

    Its models are called after it, where the preset has SOURCE. Raises UserError for a preset whose
    models have names of their own, and for one that lacks a `source`.
    """
    source = source or study.source
    if not source:
        if SOURCE in study.base:
            raise UserError(f"preset {study.name} makes a family of a model: give --from MODEL.")
        return study
    if SOURCE not in study.base:
        raise UserError(
            f"--from {source}: preset {study.name} has models of its own. Use --preset injected."
        )
    study.source = source
    for role in ("base", "filtered"):
        setattr(study, role, getattr(study, role).replace(SOURCE, model_name(source)))
    script = "create_models.py"
    own = study.arguments.get(script, "")
    quoted = shlex.quote(source).replace("{", "{{").replace("}", "}}")
    study.arguments[script] = f"--from {quoted} {own}".strip()
    return study


def override(study, **given):
    """`study` with the models, method, data and root that the user gave; these are not made.

    None is what was not given. An empty `filtered` or `data` says that there is none.
    """
    given = {key: value for key, value in given.items() if value is not None}
    if "root" in given and study.base.startswith(f"{study.root}/"):
        # the models that the study makes move along with its root
        study.base = given["root"] + study.base.removeprefix(study.root)
        study.filtered = given["root"] + study.filtered.removeprefix(study.root)
    for key, value in given.items():
        setattr(study, key, value)
    study.given = {"base", "filtered", "unlearned", "data"} & set(given)
    return study


# --- tasks


class Unit(NamedTuple):
    """One run of a step: of a model, of a comparison, or the only one (then `name` is empty).

    `reads` are the sources it needs: `data` and model folders.
    """

    name: str
    arguments: list[str]
    outdir: Path
    reads: list[str]


def tasks(study, rows):
    """All tasks of `study`, in the order of `rows`.

    Comparisons are base -> filtered and base -> each unlearned model. Steps that read data are left
    out where the study has none, and so is what needs these steps.
    """
    if not study.unlearned:
        study.unlearned = [str(unlearned_dir(study.root, study.base, study.method))]
    if "control" in study.makes:
        names = [row["step"] for row in rows if row["scope"] == "control"]
        study.controls = [str(unlearned_dir(study.root, study.base, name)) for name in names]
    _check_names(study)
    planned = []
    named = {}  # {step: {unit: name of its task}}
    makers = {}  # {`data` or a model folder: names of the tasks that make it}
    without_data = set()
    for row in rows:
        if _lacks_data(row, study, without_data):
            without_data.add(row["step"])
        if row["step"] in without_data or _is_left_out(row, study):
            continue
        for unit in _units(row, study):
            name = f"{row['step']} {unit.name}".strip()
            needs = _needs(row["needs"], unit.name, named, planned)
            needs += [maker for source in unit.reads for maker in makers.get(source, [])]
            task = Task(
                name=name,
                step=row["step"],
                title=row["title"],
                command=[row["script"], *unit.arguments, *_extra(row, study)],
                output=unit.outdir / row["output"],
                needs=list(dict.fromkeys(needs)),
                takes_what_there_is=row["needs"] == "*",
            )
            planned.append(task)
            named.setdefault(row["step"], {})[unit.name] = name
            if row["scope"] in MAKING:
                source = "data" if row["scope"] == "data" else str(unit.outdir)
                makers.setdefault(source, []).append(name)
    return planned


def _check_names(study):
    """Raise UserError where two models have one name: it names their folders of results."""
    names = [model_name(model) for model in (study.base, *study.others(), *study.controls)]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"two of the models are called {name}, so their results would mix. "
                "Give their folders other names."
            )


def _is_left_out(row, study):
    """Whether `row` makes what the study does not make, or what the user gave."""
    if row["scope"] in MAKING and row["scope"] not in study.makes:
        return True
    makes = "unlearned" if row["scope"] == "unlearn" else row["step"]
    return makes in study.given


def _lacks_data(row, study, without_data):
    """Whether `row` reads data that the study has not, or needs one of the steps `without_data`."""
    reads = "{data}" in row["extra"]
    return not study.data and (reads or bool(without_data & set(row["needs"].split())))


def _extra(row, study):
    """The arguments of a row, then those that the study has for its script, and for reading.

    Those of unlearn.py are for the method, and not for controls.
    """
    own = "" if row["scope"] == "control" else study.arguments.get(row["script"], "")
    texts = row["extra"], own
    data = shlex.quote(study.data)
    arguments = [argument for text in texts for argument in shlex.split(text.format(data=data))]
    taught = row["script"] == "create_models.py" and study.source
    reads = taught or row["script"] in READERS
    return [*arguments, *(study.reading if reads else [])]


def _needs(wanted, unit, named, planned):
    """Names of the tasks behind a row's `needs`.

    Of each step named it is the task of the same unit, else all its tasks.

    A star is every task that was planned before.
    """
    if wanted == "*":
        return [task.name for task in planned]
    needs = []
    for step in wanted.split():
        names = named.get(step, {})
        needs += [names[unit]] if unit in names else list(names.values())
    return needs


def _units(row, study):
    """The `Unit`s of a row of steps.csv."""
    return UNITS[row["scope"]](row, study)


def _units_data(row, study):
    yield Unit("", ["--outdir", study.data], Path(study.data), [])


def _units_family(row, study):
    is_base = "base" in row["extra"]
    folder = Path(study.base if is_base else study.filtered)
    # Filtered of an injected family takes as many steps as Base did
    reads = ["data"] if is_base or not study.source else ["data", study.base]
    yield Unit("", ["--data", study.data, "--outdir", str(folder.parent)], folder, reads)


def _units_unlearn(row, study):
    folder = unlearned_dir(study.root, study.base, study.method)
    root = str(Path(study.root))
    arguments = ["--model", study.base, "--method", study.method, "--root", root]
    yield Unit("", arguments, folder, ["data", study.base])


def _units_control(row, study):
    """A control takes the size of the first unlearned model's change."""
    folder, like = unlearned_dir(study.root, study.base, row["step"]), study.unlearned[0]
    arguments = ["--model", study.base, "--method", row["step"], "--like", like]
    arguments += ["--root", str(Path(study.root))]
    yield Unit("", arguments, folder, ["data", study.base, like])


def _units_comparison(row, study):
    for other in (*study.others(), *study.controls):
        outdir = comparison_dir(study.root, study.base, other) / row["folder"]
        arguments = ["--model-a", study.base, "--model-b", other, "--outdir", str(outdir)]
        yield Unit(model_name(other), arguments, outdir, ["data", study.base, other])


def _units_model(row, study):
    for model in (study.base, *study.others()):
        outdir = Path(study.root) / model_name(model) / row["folder"]
        arguments = ["--model", model, "--outdir", str(outdir)]
        yield Unit(model_name(model), arguments, outdir, ["data", model])


def _units_all(row, study):
    root = Path(study.root)
    outdir = root / row["folder"]
    arguments = ["--base", study.base]
    if study.filtered:
        arguments += ["--filtered", study.filtered]
    for model in study.unlearned:
        arguments += ["--unlearned", model]
    if row["needs"] == "*":
        for model in study.controls:
            arguments += ["--control", model]
    arguments += ["--root", str(root)]
    if row["folder"]:
        arguments += ["--outdir", str(outdir)]
    yield Unit("", arguments, outdir, ["data", study.base, *study.others()])


UNITS = {
    "data": _units_data,
    "family": _units_family,
    "unlearn": _units_unlearn,
    "control": _units_control,
    "comparison": _units_comparison,
    "model": _units_model,
    "all": _units_all,
}
