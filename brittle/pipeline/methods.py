"""What makes the unlearned model of each method, where it lies, and what its record says.

The scripts over all methods use it.

Methods are trained by unlearn/unlearn.py. The activation filter is the exception: a chain of four
scripts in hooks/ makes it. No other file of the pipeline and no script over all methods knows that.
"""

import json
import shlex
from dataclasses import replace

from brittle.base.errors import UserError
from brittle.base.files import changed
from brittle.base.layout import (
    FILTER,
    is_method_file,
    is_same,
    method_label,
    model_name,
    unlearned_dir,
)
from brittle.base.record import of_record
from brittle.methods import METHODS, chosen, method_class, own
from brittle.pipeline import steps
from brittle.unlearning.job import read_defaults
from brittle.unlearning.spent import COST, UNLEARNED, read_cost

UNTRAINED = (FILTER,)  # what hooks/ makes; their rows stand at the end of every table
UNLEARN, PRESETS = "unlearn/unlearn.py", "unlearn/presets.toml"
NAMES = (*METHODS, *UNTRAINED)


def check(name):
    """Raise UserError, with the list, where no method is called `name`."""
    if name != FILTER:
        method_class(name)


def check_trained(name):
    """Raise UserError where the pipeline cannot train a model with the method `name`."""
    if name == FILTER:
        raise UserError(
            f"--method {FILTER}: hooks/ makes it, the pipeline does not. "
            "Give the baked model with --unlearned."
        )
    if name not in METHODS and not is_method_file(name):
        raise UserError(f"--method {name}: choose {', '.join(METHODS)}, or path/to/mine.py:Mine.")
    method_class(name)


def making(study, rows, name):
    """The tasks of `rows` for one method; their names tell the methods apart."""
    chosen = replace(study, method=name, unlearned=[], given=set(study.given))
    renamed = {"unlearn": f"unlearn {name}"}
    tasks = [
        replace(
            task,
            name=renamed.get(task.name, task.name),
            needs=[renamed.get(need, need) for need in task.needs],
        )
        for task in steps.tasks(chosen, rows)
    ]
    if name != FILTER:
        return [with_teacher(task, name) for task in tasks]
    place = next(i for i, task in enumerate(tasks) if task.step == "unlearn")
    return [*tasks[:place], *_filter_chain(study, tasks[place]), *tasks[place + 1 :]]


def with_teacher(task, name):
    """`task`, waiting for the teacher that the mini preset names for a method, where it is made."""
    if task.step != "unlearn":
        return task
    defaults = read_defaults(PRESETS, "mini", name)
    teacher = defaults.knobs.get("teacher")
    if teacher is None:
        return task
    return replace(task, needs=[*task.needs, f"unlearn {teacher}", teacher])


def _filter_chain(study, task):
    """Fit, tune, bake and verify in the place of `task`, whose name the baking takes."""
    baked = task.output.parent
    home = baked.parent
    folder = home / "filter"
    data = study.data
    texts = ["--forget", f"{data}/forget.txt", "--retain", f"{data}/retain.txt", *study.reading]
    model = ["--model", study.base]
    of_filter = [*model, "--filter", str(folder)]
    verify = [
        "--baked",
        str(baked),
        "--outdir",
        str(home / "verify"),
        "--data",
        data,
        *study.reading,
    ]
    chain = [
        (
            "fit filter",
            "hooks/fit_filter.py",
            [*model, *texts, "--out", str(folder)],
            folder / "spectrum.csv",
        ),
        ("tune filter", "hooks/tune_strength.py", [*of_filter, *texts], folder / "strength.csv"),
        (task.name, "hooks/bake_filter.py", [*of_filter, "--out", str(baked)], baked / "bake.csv"),
        (
            "verify filter",
            "hooks/verify_filter.py",
            [*of_filter, *verify],
            home / "verify" / "verify.csv",
        ),
    ]
    tasks, needs = [], task.needs
    for name, script, arguments, output in chain:
        tasks.append(steps.Task(name, task.step, "Filter", [script, *arguments], output, needs))
        needs = [name]
    return tasks


def found_models(root, base, names):
    """({label of a method: model folder}, methods without a model) of `names`, for `base`.

    Raises UserError for a model of a file of the user that is not what it was.
    """
    models, absent = {}, []
    for name in names:
        folder = unlearned_dir(root, base, name)
        if (folder / "config.json").is_file():
            check_own_file(folder, name)
            models[method_label(name)] = str(folder)
        else:
            absent.append(name)
    return models, absent


def unlearned_models(root, base, names, given):
    """({name in a table: model}, methods without a model).

    names: methods with commas, all where it is empty. given: models that the user named instead.
    """
    asked = chosen(names, NAMES)
    for name in asked:
        check(name)
    if given:
        prefix = f"{model_name(base)}__"
        return {model_name(model).removeprefix(prefix): model for model in given}, []
    return found_models(root, base, asked)


def check_own_file(folder, name):
    """Raise UserError where the model in `folder` was not made by the user's file as it is now."""
    file = own.file_of(name)
    if file is None:
        return
    try:
        record = json.loads((folder / "training_history.run.json").read_text(encoding="utf-8"))
        made_by = [was for path, was in record["inputs"].items() if is_same(of_record(path), file)]
    except (OSError, ValueError, KeyError, TypeError):
        made_by = []
    if not made_by or changed(file, made_by[0]):
        raise UserError(
            f"{folder} was not made by {file} as it is now. Make it again: the same unlearn.py "
            f"command, or unlearn/create_all.py --methods {name}."
        )


def check_config(path, names):
    """Raise UserError where the TOML file has no table of a method that is trained."""
    from brittle.unlearning.job import read_own

    for name in names:
        if name in METHODS or is_method_file(name):
            read_own(path, name)


def with_config(study, path):
    """`study`, whose methods take their settings from a TOML file with a table a method."""
    more = study.arguments.get(UNLEARN, "")
    study.arguments[UNLEARN] = f"{more} --config {shlex.quote(str(path))}".strip()
    return study


def by_config(path, names, base, data, root, reading=()):
    """{label of a method: the task that makes its model of `base` by its table of a TOML file}.

    names: none are all tables of the file. The tasks are those of create_all.py, so what one has
    made the other finds. reading: flags for how a chat model is asked. Raises UserError for a name
    that is no method, or has no table.
    """
    from brittle.unlearning.job import own_tables

    names = names or own_tables(path)
    for name in names:
        check_trained(name)
    check_config(path, names)
    study = steps.override(steps.read_study("mini"), base=base, data=str(data), root=str(root))
    study = with_config(study, path)
    study.reading = list(reading)
    rows = [row for row in steps.read_steps() if row["step"] == "unlearn"]
    return {method_label(name): making(study, rows, name)[0] for name in names}


def how_to_make(root, base, names=(), filtered=None, data=None, *, attack=True):
    """The command that makes the unlearned models of `base` by the methods `names` (none: all).

    What the mini study has by itself is left out. A base of one's own is unlearned on data of one's
    own: where `data` are not known, the command has a place for them. attack False: nothing is
    attacked, and models are made whose weights were removed.
    """
    study = steps.read_study("mini")
    words = ["./unlearn/create_all_unlearning_models.sh"]
    is_own_base = not is_same(base, study.base)
    if is_own_base:
        words += ["--base", base, *(["--filtered", filtered] if filtered and attack else [])]
    if not attack:
        words += ["--no-attack"]
    if is_own_base:
        is_own = data is not None and not is_same(data, study.data)
        words += ["--data", str(data) if is_own else "DIR"]
    if not is_same(root, study.root):
        words += ["--root", str(root)]
    if names:
        words += ["--methods", ",".join(names)]
    return shlex.join(words)


def records(root, base, name):
    """The files that `outcome` reads."""
    if name == FILTER:
        from brittle.filters.folder import table_files

        return table_files(root, base)
    return [unlearned_dir(root, base, name) / UNLEARNED]


def outcome(root, base, name):
    """A method's model in numbers; None where it was not made.

    They are {method, forget_accuracy, retain_accuracy, general_accuracy, steps, seconds} and COST,
    which is None where the record does not say it.
    """
    if name == FILTER:
        from brittle.filters.folder import table_row

        row = table_row(root, base)
        return row and {**dict.fromkeys(COST), **row}
    (path,) = records(root, base, name)
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    after = record["settings"]["accuracy"]["after"]
    return {
        "method": method_label(name),
        **{f"{split}_accuracy": after.get(split) for split in ("forget", "retain", "general")},
        "steps": record["rows"]["training_history.csv"],
        "seconds": record["seconds"],
        **read_cost(path),
    }
