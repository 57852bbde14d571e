"""The model card that an unlearned model carries: how it was made, from what, and what changed."""

from pathlib import Path

from brittle.base.layout import looks_like_folder, method_label

CARD = """---
{base}library_name: transformers
tags: [unlearning, {method}]
---
# {name} after `{method}`

Made from `{name}` by `{method}` ({file}).
Lower forget accuracy alone does not say that knowledge is gone: attack it (eval/tamper.py) before relying on it.

| measure | before | after |
|---|---|---|
{measures}
{notes}
| knob | value |
|---|---|
{knobs}

| training | value |
|---|---|
{training}

| data | sha256 |
|---|---|
{data}
"""  # noqa: E501  (the card's own text)


def public_name(path):
    """A path in a card that may be published: relative, or its last part; never a home folder."""
    path = Path(path)
    return str(path) if not path.is_absolute() else path.name


def show_number(value):
    return "not measured" if value is None else f"{value:.3f}"


def table_rows(values):
    """Markdown rows of {name: value}."""
    return "\n".join(f"| {name} | {value} |" for name, value in values.items())


def measure_rows(result):
    """Markdown rows of the accuracies and held-out NLLs, before and after."""
    rows = [
        f"| {split} accuracy | {show_number(result.before[split])} | {show_number(accuracy)} |"
        for split, accuracy in result.after.items()
    ]
    rows += [
        f"| held-out {split} NLL a token | {show_number(before)} | {show_number(after)} |"
        for split, (before, after) in result.held_nll.items()
    ]
    return "\n".join(rows)


def model_card(job, training, about, result):
    """Markdown with Hugging Face front matter.

    It says the method, its knobs, the settings of training ({name: value}), the hashes of the data
    (`about`, see run.py), and the measures of `result` before and after.
    """
    # the hub takes a card only where base_model is a model of its own
    is_local = looks_like_folder(job.model) or Path(job.model).is_dir()
    knobs = {f"`--{name.replace('_', '-')}`": value for name, value in about["knobs"].items()}
    made_of = [*job.method_files, f"{type(job.rule).__module__.replace('.', '/')}.py"][0]
    return CARD.format(
        base="" if is_local else f"base_model: {job.model}\n",
        method=method_label(job.method),
        name=public_name(job.model),
        file=public_name(made_of),
        measures=measure_rows(result),
        notes="".join(f"\nNote: {note}\n" for note in result.notes),
        knobs=table_rows(knobs),
        training=table_rows({**training, **about.get("reading", {})}),
        data=table_rows({name: f"`{digest}`" for name, digest in about["data"].items()}),
    )
