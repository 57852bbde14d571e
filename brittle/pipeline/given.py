"""Checks of what the user gave the pipeline in place of the preset's models, method and data.

They run before anything is planned.
"""

import json
import re
from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.layout import is_same
from brittle.base.own_data import unlearned_on
from brittle.data import abilities
from brittle.models.find import model_folder
from brittle.models.twin import check_twin
from brittle.pipeline import methods

TEXTS = ("forget.txt", "retain.txt")
TABLES = ("mcq_forget.jsonl", "mcq_retain.jsonl", "mcq_general.jsonl")
HUB_ID = r"(?!outputs/|data/)\w[\w.-]*/[\w.-]+"  # the two folders are ours
# what a step needs of the data folder, beside the texts: the names of data.abilities
READS = {
    "tamper": "attacks",
    "harness": "accuracies",
    "recovery": "attacks",
    "significance": "accuracies",
    "14": "layers",
    "14t": "layers",
}
WORLD = "pretrain_base.txt"  # what the mini family is trained on


NO_TWIN = (
    "note: no --filtered, so what comes back is measured from chance, and no model can be called "
    '"removed" or "only hidden". A model trained without the forget texts would settle it.'
)


def is_strange(study, base):
    """Whether `base` is another model than the preset's; then so are its twin and its data."""
    return base is not None and not is_same(base, study.base)


def complete(study, base=None, filtered=None, unlearned=None, data=None):
    """(filtered, data): the user's; None where the preset's hold, empty where there is none.

    The preset's Filtered is the twin of the preset's Base alone. Where the mini world is the
    preset's, a model of another family is asked about the data that it was unlearned on, if its
    record names them.
    """
    if not is_strange(study, base):
        return filtered, data
    if data is None and "family" in study.makes and family(base) != "mini":
        folder = unlearned_on(unlearned[0]) if unlearned else None
        data = str(folder) if folder and folder.is_dir() else ""
    return filtered or "", data


def check_given(study, base=None, filtered=None, unlearned=None, method=None, data=None):
    """Lines to print. Raises UserError for what cannot be used.

    `study` is as its preset has it, the others are the user's, as `complete` leaves them.
    """
    if method or ("unlearn" in study.makes and not (unlearned or study.unlearned)):
        methods.check_trained(method or study.method)
    named = [("--base", base), ("--filtered", filtered)]
    named += [("--unlearned", model) for model in unlearned or []]
    for flag, model in named:
        if model:
            check_model(flag, model)
    check_twin(base or study.base, filtered, unlearned or study.unlearned)
    notes = [NO_TWIN] if filtered == "" else []
    if data != "":
        return notes + data_notes(study, base, data)
    if not (unlearned or study.unlearned):
        raise UserError(
            f"--base {base} alone: there is nothing to compare it with. Give --unlearned MODEL, or "
            "--data DIR (forget.txt, retain.txt), and a model is unlearned on these."
        )
    return [
        "note: no --data, so the weights alone are compared: no texts are read, no questions "
        "asked, nothing is attacked."
    ]


def data_notes(study, base=None, data=None):
    """Lines about the data that are read: what a folder lacks, or that it is the mini world.

    Raises UserError for a folder that cannot serve.
    """
    # such a study makes models of its own, and a world to ask them about
    makes_models = "family" in study.makes
    if data is not None:
        return check_data(data, trains=makes_models and base is None and not study.source)
    if makes_models and is_strange(study, base) and family(base) != "mini":
        return [
            f"note: {base} is asked about the mini world ({study.data}). "
            "Give --data DIR or a preset of your own (experiment/presets/*.toml)."
        ]
    return []


def check_model(flag, model):
    """Is there such a folder, or can the hub be asked? Offline the cache has it, or nothing has."""
    folder, adapters = Path(model).expanduser(), flag not in ("--base", "--from")
    hub = re.fullmatch(HUB_ID, model)
    if not folder.exists() and not hub and (model.startswith((".", "~")) or "/" in model):
        raise UserError(
            f"{flag} {model}: no such folder. "
            "Give one that holds config.json, or a Hugging Face id (owner/name)."
        )
    if not folder.exists() and hub and not offline():
        return
    try:
        model_folder(model, weights=folder.exists() or offline(), adapters=adapters)
    except UserError as error:
        raise UserError(f"{flag} {error}") from None


def check_source(source, base=None, filtered=None):
    """Raise UserError where no family can be made of the model that --from gives."""
    if base is not None or filtered is not None:
        flag = "--base" if base is not None else "--filtered"
        raise UserError(f"--from {source} makes Base and Filtered. Leave {flag} out.")
    check_model("--from", source)


def offline():
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def family(model):
    """The `family` that a model's config.json names.

    None where it names none, or cannot be read without the hub.
    """
    path = Path(model).expanduser() / "config.json"
    try:
        if not path.is_file():
            from huggingface_hub import try_to_load_from_cache

            path = try_to_load_from_cache(model, "config.json")
        return json.loads(Path(path).read_text(encoding="utf-8")).get("family")
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def check_data(data, *, trains):
    """Lines about a data folder; `trains`: the mini family would be trained on it.

    Raises UserError where it cannot serve.
    """
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"--data {data}: no such folder. "
            f"It holds {', '.join((*TEXTS, *TABLES))}; see docs/data.md."
        )
    lacks = [name for name in TEXTS if not (folder / name).is_file()]
    if lacks:
        raise UserError(
            f"--data {data} has no {' and no '.join(lacks)}: "
            "one text a line is wanted; see docs/data.md."
        )
    if trains and not (folder / WORLD).is_file():
        raise UserError(f"--data {data} has no {WORLD} to train the mini models on. Give --base.")
    return left_out_notes(data)


def left_out(data):
    """{step: what the data folder lacks for it} of the steps that read what is not there."""
    lacks = abilities.lacking(Path(data).expanduser())
    return {step: lacks[name] for step, name in READS.items() if lacks[name]}


def left_out_notes(data):
    """One line on the files that a data folder lacks, and what is left out for it; or none."""
    lacks = [name for name in TABLES if not (Path(data).expanduser() / name).is_file()]
    steps = left_out(data)
    if not lacks and not steps:
        return []
    reasons = [f"no {name}" for name in lacks] or sorted(set(steps.values()))
    without = ", ".join(steps) or "general questions"
    return [f"note: {data} has {', '.join(reasons)}: left out are {without}; see docs/data.md."]


def with_controls(rows, data):
    """(rows, lines to print): `rows` of steps.csv without a control whose texts `data` lacks.

    data: the user's folder; None where the study's own is read, which has all. Raises UserError
    where there are no texts to train a control on.
    """
    if data is None:
        return rows, []
    if not data:
        raise UserError("--controls: a control is trained on texts. Give --data DIR.")
    lacking = {
        row["step"]: text
        for row in rows
        if row["scope"] == "control"
        for text in re.findall(r"\{data\}/(\S+)", row["extra"])
        if text not in TEXTS and not (Path(data).expanduser() / text).is_file()
    }
    notes = [
        f"note: {data} has no {text}: the control {n} is left out." for n, text in lacking.items()
    ]
    return [row for row in rows if row["step"] not in lacking], notes


def without_left_out(tasks, data):
    """The tasks whose files the data folder has; all of them where no folder was given."""
    steps = left_out(data) if data else {}
    return [task for task in tasks if task.step not in steps]
