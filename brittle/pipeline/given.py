"""What the user gave the pipeline in place of the preset's models, method and data: checked before anything is planned."""

import json
import re
from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.layout import FILTER
from brittle.methods import METHODS
from brittle.models.find import model_folder

TEXTS = ("forget.txt", "retain.txt")
TABLES = ("mcq_forget.jsonl", "mcq_retain.jsonl", "mcq_general.jsonl")
HUB_ID = r"(?!outputs/|data/)\w[\w.-]*/[\w.-]+"  # the two folders are ours
WORLD = "pretrain_base.txt"  # what the mini family is trained on


def check(preset, base=None, filtered=None, unlearned=None, method=None, data=None):
    """Lines to print; raises UserError for what cannot be used. `preset` is as it was read, the others are the user's."""
    if method or ("unlearn" in preset.makes and not (unlearned or preset.unlearned)):
        check_method(method or preset.method)
    for flag, model in [
        ("--base", base),
        ("--filtered", filtered),
        *(("--unlearned", model) for model in unlearned or []),
    ]:
        if model is not None:
            check_model(flag, model)
    mini = (
        "family" in preset.makes
    )  # the preset makes models of its own, and a world to ask them about
    strange = base is not None and not same(base, preset.base)
    if mini and strange and filtered is None:
        raise UserError(
            f"--base {base} needs --filtered: preset {preset.name} has a filtered model for {preset.base} alone."
        )
    notes = check_data(data, mini and base is None) if data is not None else []
    if mini and strange and data is None and family(base) != "mini":
        notes.append(
            f"note: {base} is asked about the mini world ({preset.data}). "
            "Give --data DIR or a preset of your own (experiment/presets/*.toml)."
        )
    return notes


def check_method(method):
    if method == FILTER:
        raise UserError(
            f"--method {FILTER}: hooks/ makes it, the pipeline does not. Give the baked model with --unlearned."
        )
    if method not in METHODS:
        raise UserError(f"--method {method}: choose {', '.join(METHODS)}.")


def check_model(flag, model):
    """Is there such a folder, or can the hub be asked? Offline the cache has it, or nothing has."""
    folder, adapters = Path(model).expanduser(), flag != "--base"
    hub = re.fullmatch(HUB_ID, model)
    if not folder.exists() and not hub and (model.startswith((".", "~")) or "/" in model):
        raise UserError(
            f"{flag} {model}: no such folder. Give one that holds config.json, or a Hugging Face id (owner/name)."
        )
    if not folder.exists() and hub and not offline():
        return
    try:
        model_folder(model, weights=folder.exists() or offline(), adapters=adapters)
    except UserError as error:
        raise UserError(f"{flag} {error}") from None


def offline():
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def same(one, other):
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def family(model):
    """The `family` that a model's config.json names; None where it names none, or cannot be read without the hub."""
    path = Path(model).expanduser() / "config.json"
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(model, "config.json")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8")).get("family")
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def check_data(data, trains):
    """Lines about a data folder; `trains`: the mini family would be trained on it. Raises UserError where it cannot serve."""
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"--data {data}: no such folder. It holds {', '.join((*TEXTS, *TABLES))}; see docs/data.md."
        )
    lacks = [name for name in TEXTS if not (folder / name).is_file()]
    if lacks:
        raise UserError(
            f"--data {data} has no {' and no '.join(lacks)}: one text a line is wanted; see docs/data.md."
        )
    if trains and not (folder / WORLD).is_file():
        raise UserError(
            f"--data {data} has no {WORLD} to train the mini models on. Give --base and --filtered."
        )
    lacks = [name for name in TABLES if not (folder / name).is_file()]
    return (
        [f"note: {data} has no {', no '.join(lacks)}: what reads it will fail; see docs/data.md."]
        if lacks
        else []
    )
