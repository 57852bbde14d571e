"""The model card that an unlearned model carries: how it was made, from what, and what changed."""

from pathlib import Path

from brittle.base.layout import looks_like_folder


def _name(path):
    """A path in a card that may be published: relative where it can be, else the last part, never a home folder."""
    path = Path(path)
    return str(path) if not path.is_absolute() else path.name


def _number(value):
    return "not measured" if value is None else f"{value:.3f}"


def model_card(job, settings, about, before, after, held, notes=()):
    """Markdown with Hugging Face front matter: method, knobs, training, data hashes, accuracies and NLLs before and after."""
    knobs = "\n".join(f"| `--{k.replace('_', '-')}` | {v} |" for k, v in about["knobs"].items())
    training = "\n".join(f"| {k} | {v} |" for k, v in vars(settings).items() if k != "save_every")
    data = "\n".join(f"| {name} | `{digest}` |" for name, digest in about["data"].items())
    rows = [
        f"| {split} accuracy | {_number(before[split])} | {_number(after[split])} |"
        for split in after
    ]
    rows += [
        f"| held-out {split} NLL a token | {_number(a)} | {_number(b)} |"
        for split, (a, b) in held.items()
    ]
    # the hub takes a card only where base_model is a model of its own
    base = (
        ""
        if looks_like_folder(job.model) or Path(job.model).is_dir()
        else f"base_model: {job.model}\n"
    )
    return f"""---
{base}library_name: transformers
tags: [unlearning, {job.method}]
---
# {_name(job.model)} after `{job.method}`

Made from `{_name(job.model)}` by `{job.method}` ({type(job.rule).__module__.replace(".", "/")}.py).
Lower forget accuracy alone does not say that knowledge is gone: attack it (eval/tamper.py) before relying on it.

| measure | before | after |
|---|---|---|
{chr(10).join(rows)}
{"".join(f"{chr(10)}Note: {note}{chr(10)}" for note in notes)}
| knob | value |
|---|---|
{knobs}

| training | value |
|---|---|
{training}

| data | sha256 |
|---|---|
{data}
"""
