"""All answers of a sweep in one table: a row a prompt, a column a model, and the prompt's file.

    <outdir>/table/<name of the prompts file>.csv           prompt, file, answer, a column a model
    <outdir>/table/<name of the prompts file>_models.csv    model, model_path, answers, compared,
                                                            matches

The tables of single prompts stay what the sweep adds to; these two are made anew from them. An
output matches where it holds the answer that the prompts file gives, as whole words, without regard
to case, accents, blanks and punctuation (brittle/metrics/leaks.py).
"""

from pathlib import Path
from typing import NamedTuple

from brittle.base.record import Run
from brittle.inference.loaded import path_of
from brittle.inference.tables import locked, prompt_file, read_table
from brittle.metrics.leaks import match

FOLDER = "table"
COLUMNS = ["prompt", "file", "answer"]
MODEL_COLUMNS = ["model", "model_path", "answers", "compared", "matches"]


class Answerer(NamedTuple):
    """A model as the tables name it."""

    model: str
    model_path: str


def matches(output, answer):
    """Does an output hold the answer, as it is spelled or but for case and punctuation?"""
    return match(answer, output) in ("exact", "normalised")


def read_outputs(outdir, prompts):
    """{prompt: {Answerer: output}} of the prompts that have a table."""
    outputs = {}
    for prompt in prompts:
        rows, _ = read_table(outdir / prompt_file(prompt))
        if rows:
            outputs[prompt] = {
                Answerer(row["model"], row["model_path"]): row["output"] for row in rows
            }
    return outputs


def column_names(answerers):
    """{Answerer: name of its column}: the model's name, with its path where two have one name."""
    names = [answerer.model for answerer in answerers]
    return {
        answerer: f"{answerer.model} ({answerer.model_path})"
        if names.count(answerer.model) > 1 or answerer.model in COLUMNS
        else answerer.model
        for answerer in answerers
    }


def counts(outputs, expected, answerer):
    """A row of MODEL_COLUMNS."""
    answered = {prompt: of[answerer] for prompt, of in outputs.items() if answerer in of}
    compared = [prompt for prompt in answered if prompt in expected]
    right = sum(matches(answered[prompt], expected[prompt]) for prompt in compared)
    return {
        "model": answerer.model,
        "model_path": answerer.model_path,
        "answers": len(answered),
        "compared": len(compared),
        "matches": right if compared else None,
    }


def write(asked, shared):
    """Write both tables of a `Sweep`. Returns lines that say what there is.

    asked: the [(model, Setup)] of the sweep. Their columns come first, then those of other models
    that answered the same prompts earlier.
    """
    if not shared.outdir.is_dir():
        return []
    with locked(shared.outdir):
        outputs = read_outputs(shared.outdir, shared.prompts)
        if not outputs:
            return []
        of_sweep = [Answerer(setup.label(model), path_of(model)) for model, setup in asked]
        there = list(dict.fromkeys(answerer for of in outputs.values() for answerer in of))
        first = [answerer for answerer in dict.fromkeys(of_sweep) if answerer in there]
        answerers = [*first, *(answerer for answerer in there if answerer not in first)]
        names = column_names(answerers)
        table = [row(prompt, of, shared.expected, names) for prompt, of in outputs.items()]
        models = [counts(outputs, shared.expected, answerer) for answerer in answerers]
        name = Path(shared.inputs[0]).stem if shared.inputs else "prompt"
        files = [shared.outdir / prompt_file(prompt) for prompt in outputs]
        folder, seed = shared.outdir / FOLDER, shared.sampling.seed
        with Run(folder, [*shared.inputs, *files], seed=seed, quiet=True) as run:
            run.csv(f"{name}_models.csv", MODEL_COLUMNS, models)
            run.csv(f"{name}.csv", [*COLUMNS, *names.values()], table)
    lines = [
        f"{names[answerer]}: {count['matches']} of {count['compared']} answers match"
        for answerer, count in zip(answerers, models, strict=True)
        if answerer in first and count["compared"]
    ]
    return [*lines, f"side by side: {shared.outdir / FOLDER / name}.csv"]


def row(prompt, outputs, expected, names):
    """A row of the table: {Answerer: output} under the names of the columns."""
    cells = {name: outputs.get(answerer) for answerer, name in names.items()}
    start = {"prompt": prompt, "file": prompt_file(prompt), "answer": expected.get(prompt)}
    return start | cells
