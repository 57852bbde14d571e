"""The filter's folder with its candidates, and the data that fitting and tuning share."""

import json
from dataclasses import dataclass
from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.layout import FILTER
from brittle.base.tables import read_rows
from brittle.models.architectures import check_logits

CANDIDATES = "candidates.safetensors"


def folder_of(root, model):
    """`<root>/<model>__filter/filter`, beside the baked model."""
    from brittle.base.layout import unlearned_dir

    return unlearned_dir(root, model, FILTER).with_name("filter")


def table_files(root, model):
    """What `table_row` reads."""
    home = folder_of(root, model).parent
    return [home / name for name in ("verify/verify.csv", "filter/spectrum.run.json", "filter/strength.run.json",
                                     "unlearned_model/bake.run.json")]  # fmt: skip


def table_row(root, model):
    """The row of the methods table: the baked filter's accuracies (hooks/verify_filter.py), and what fit, tune and bake took;
    None where it was not made."""
    accuracies, *records = table_files(root, model)
    if not all(path.is_file() for path in (accuracies, *records)):
        return None
    baked = read_rows(accuracies)[0]
    seconds = sum(json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in records)
    shares = {
        f"{s}_accuracy": baked[f"{s}_accuracy"] for s in ("forget", "retain", "general")
    }
    return {"method": FILTER, **shares, "steps": 0, "seconds": round(seconds, 3)}


def save_candidates(run, candidates):
    """Write all Filters {(site, gated): Filter} through a results.Run; the first one is the folder's filter, switched off."""
    from safetensors.torch import save_file

    from brittle.models.filter import FILES, TENSORS

    tensors, about = {}, {}
    for (site, gated), made in candidates.items():
        key = f"{site}|{'gated' if gated else 'plain'}"
        about[key] = made.about
        tensors |= {
            f"{key}|{n}": getattr(made, n).contiguous()
            for n in TENSORS
            if getattr(made, n) is not None
        }
    save_file(
        tensors, run.path(CANDIDATES), metadata={"candidates": json.dumps(about, default=float)}
    )
    for name in FILES:
        run.path(name, provisional=True)  # until hooks/tune_strength.py has chosen
    next(iter(candidates.values())).at(0.0).save(run.stage)


def load_candidates(folder):
    """{(site, gated): Filter} of a folder that hooks/fit_filter.py wrote."""
    from safetensors import SafetensorError, safe_open

    from brittle.models import filter

    path = Path(folder) / CANDIDATES
    if not path.is_file():
        one = filter.load(folder)
        return {(one.site, one.gate is not None): one.at(1.0)}
    made = {}
    try:
        with safe_open(path, framework="pt") as file:
            for key, about in json.loads(file.metadata()["candidates"]).items():
                tensors = {
                    n: file.get_tensor(f"{key}|{n}")
                    for n in filter.TENSORS
                    if f"{key}|{n}" in file.keys()
                }
                site, _, kind = key.partition("|")
                made[site, kind == "gated"] = filter.Filter(site, about=about, **tensors)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). Make it again with hooks/fit_filter.py."
        ) from None
    return made


@dataclass
class Data:
    """A model, and its texts as examples in two parts: `fit` and `tune` {forget, retain, general?, unseen?}."""

    model: object
    tokenizer: object
    fit: dict
    tune: dict

    @classmethod
    def read(cls, folder, paths, max_samples, max_length=None, device="auto", dtype="auto"):
        from brittle.filters.states import parted, read_examples
        from brittle.models.blocks import length_limit
        from brittle.models.load import load_model, load_tokenizer

        model, tokenizer = load_model(folder, device, dtype), load_tokenizer(folder)
        check_logits(model.config)
        limit = length_limit(max_length, model.config)
        every = {
            n: read_examples(tokenizer, p, max_samples, limit, f"{n} texts")
            for n, p in paths.items()
        }
        parts = {n: parted(e) for n, e in every.items()}
        tune = {n: e if n == "unseen" else parts[n][1] for n, e in every.items()}
        return cls(model, tokenizer, {n: p[0] for n, p in parts.items()}, tune)

    @property
    def pad_id(self):
        return self.tokenizer.pad_token_id

    def sites(self):
        from brittle.filters.states import candidate_sites

        return candidate_sites(self.model)

    def ratios(self, batch_size):
        """{site: largest forget-to-retain energy ratio}, of every candidate site."""
        from brittle.filters.fit import moments_of, ratios

        return ratios(moments_of(self.model, self.fit, self.pad_id, self.sites(), batch_size))


def check_strength(strength, allow_reflection=False):
    """A strength lies in [0, 1]; beyond 1 directions are reflected, not removed."""
    if not 0 <= strength <= (2 if allow_reflection else 1):
        raise UserError(
            f"strength {strength:g} lies outside [0, 1]: beyond 1 a filter reflects instead of removing "
            "(--allow-reflection permits up to 2)."
        )
    return float(strength)
