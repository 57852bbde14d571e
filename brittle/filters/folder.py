"""The folder of a filter: who writes what, and how it is read back.

    hooks/fit_filter.py     candidates.safetensors, spectrum.csv, and a provisional filter
    hooks/tune_strength.py  the filter (filter.safetensors, filter.json), strength.json, .csv, .png
    hooks/bake_filter.py    reads the filter; writes the baked model beside this folder
    hooks/verify_filter.py  reads the filter and the baked model; writes verify.csv beside both

The provisional filter is the first candidate, switched off and untuned. It is not in the record of
fitting, so that tuning may replace it while fitting stays up to date.
"""

import json
from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.layout import FILTER, unlearned_dir
from brittle.base.tables import read_rows
from brittle.models.filter import FILES, TENSORS, Filter, load

CANDIDATES = "candidates.safetensors"
STRENGTH = "strength.json"
UNTUNED = "untuned"


def folder_of(root, model):
    """`<root>/<model>__filter/filter`, beside the baked model."""
    return unlearned_dir(root, model, FILTER).with_name("filter")


def baked_of(root, model):
    """`<root>/<model>__filter/unlearned_model`, beside the filter."""
    return folder_of(root, model).with_name("unlearned_model")


def table_files(root, model):
    """What `table_row` reads."""
    home = folder_of(root, model).parent
    names = (
        "verify/verify.csv",
        "filter/spectrum.run.json",
        "filter/strength.run.json",
        "unlearned_model/bake.run.json",
    )
    return [home / name for name in names]


def table_row(root, model):
    """The filter's row of the methods table, or None where it was not made.

    It holds the baked filter's accuracies (hooks/verify_filter.py), and the seconds that fitting,
    tuning and baking took.
    """
    accuracies, *records = table_files(root, model)
    if not all(path.is_file() for path in (accuracies, *records)):
        return None
    verified = read_rows(accuracies)[0]
    seconds = sum(json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in records)
    shares = {
        f"{split}_accuracy": verified[f"{split}_accuracy"]
        for split in ("forget", "retain", "general")
    }
    return {"method": FILTER, **shares, "steps": 0, "seconds": round(seconds, 3)}


def save_candidates(run, candidates):
    """Write all Filters {(site, gated): Filter}, and a provisional filter, through a record.Run."""
    from safetensors.torch import save_file

    tensors, about = {}, {}
    for (site, gated), chosen in candidates.items():
        key = f"{site}|{'gated' if gated else 'plain'}"
        about[key] = chosen.about
        for name in TENSORS:
            if getattr(chosen, name) is not None:
                tensors[f"{key}|{name}"] = getattr(chosen, name).contiguous()
    metadata = {"candidates": json.dumps(about, default=float)}
    save_file(tensors, run.path(CANDIDATES), metadata=metadata)
    for name in FILES:
        run.path(name, provisional=True)
    next(iter(candidates.values())).at(0.0).save(run.stage)


def load_candidates(folder):
    """{(site, gated): Filter} that hooks/fit_filter.py wrote; without a file, the folder's filter.

    Raises UserError where the file is damaged, or where the folder holds no filter at all.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / CANDIDATES
    if not path.is_file():
        only = load(folder)
        return {(only.site, only.gate is not None): only.at(1.0)}
    candidates = {}
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for key, about in json.loads(file.metadata()["candidates"]).items():
                tensors = {
                    name: file.get_tensor(f"{key}|{name}")
                    for name in TENSORS
                    if f"{key}|{name}" in names
                }
                site, _, kind = key.partition("|")
                candidates[site, kind == "gated"] = Filter(site, about=about, **tensors)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). Make it again with hooks/fit_filter.py."
        ) from None
    return candidates


def save_tuned(run, chosen, summary):
    """Write the filter with its strength, and strength.json, through a record.Run."""
    for name in FILES:
        run.path(name)
    chosen.save(run.stage)
    text = json.dumps(summary, indent=1, default=float) + "\n"
    run.path(STRENGTH).write_text(text, encoding="utf-8")


def load_tuned(folder, strength=None, *, allow_reflection=False):
    """The Filter of a folder at its tuned strength, or at the one that is given.

    Raises UserError for a filter without a strength, and for a strength outside the limits.
    """
    chosen = load(folder)
    if strength is not None:
        chosen = chosen.at(strength)
    elif chosen.about.get("status") == UNTUNED:
        raise UserError(
            f"the filter in {folder} has no strength yet. "
            "Run hooks/tune_strength.py, or give --strength."
        )
    check_strength(chosen.strength, allow_reflection=allow_reflection)
    return chosen


def check_strength(strength, *, allow_reflection=False):
    """Raise UserError for a strength outside [0, 1], or [0, 2] where reflection is allowed.

    Beyond 1 directions are reflected, not removed.
    """
    if not 0 <= strength <= (2 if allow_reflection else 1):
        raise UserError(
            f"strength {strength:g} lies outside [0, 1]: beyond 1 a filter reflects instead of "
            "removing (--allow-reflection permits up to 2)."
        )
