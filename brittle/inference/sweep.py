"""A sweep: every prompt to every model, one CSV a prompt, one model in memory at a time."""

import gc
import hashlib
import itertools
import json
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.base.layout import is_local, model_files
from brittle.base.record import Run
from brittle.inference import overview, show
from brittle.inference.loaded import Loaded, Reader, labels, path_of
from brittle.inference.prompts import lengths
from brittle.inference.tables import COLUMNS, locked, merged, prompt_file, read_table
from brittle.models.find import model_folder
from brittle.models.generate import Sampling


def fingerprint(folder):
    """One digest of the files that determine a model's behaviour."""
    from brittle.base.files import sha256

    return hashlib.sha256("".join(sha256(f) for f in model_files(folder)).encode()).hexdigest()


def check(asked, prompts, outdir, force, where):
    """Raise UserError, before any model answers, for a missing model folder or a too long prompt.

    A model of the hub, and one that brings code, is looked at when its turn comes.
    """
    local = [(model, setup) for model, setup in asked if is_local(model)]
    for model, setup in local:
        model_folder(model, setup.revision)
    for model, setup in local:
        if setup.trust_remote_code:
            continue
        new = [p for p in prompts if force or not has_answer(model, setup, p, outdir)]
        if new:
            lengths(Reader(model, setup), new, where)


def has_answer(model, setup, prompt, outdir):
    """Whether the prompt's table has a row of that model."""
    rows, _ = read_table(outdir / prompt_file(prompt))
    there = {(row["model"], row["model_path"]) for row in rows}
    return (setup.label(model), path_of(model)) in there


class Sweep(NamedTuple):
    """What all models of a sweep share."""

    prompts: list[str]
    sampling: Sampling
    outdir: Path
    force: bool = False  # ask again what a table has already
    batch_size: int = 64
    inputs: tuple = ()  # files that the prompts come from
    where: dict = {}  # {prompt: "file line n"}  # noqa: RUF012
    expected: dict = {}  # {prompt: its answer, where the file says one}  # noqa: RUF012


def sweep(asked, shared):
    """Ask every model of `asked` [(model, Setup)] every prompt. Returns how many answers were made.

    Results are put in place batch by batch. At the end the table of all models' answers is written;
    where it lies and how many answers match is printed. What `check` reports stops everything
    before any model answers. A model that cannot be asked for another reason is named, and the
    others go on; then UserError is raised.
    """
    count, failed = 0, []
    check(asked, shared.prompts, shared.outdir, shared.force, shared.where)
    for (model, setup), name in zip(asked, labels(asked), strict=True):
        try:
            count += ask(model, setup, name, shared)
        except UserError as error:
            failed.append((model, error))
        gc.collect()
    for line in overview.write(asked, shared):
        print(line)
    if failed and len(asked) == 1:
        raise failed[0][1]
    if failed:
        first, *others = [f"{model}: {error}" for model, error in failed]
        more = f" ({len(others)} more failed: {'; '.join(others)})" if others else ""
        raise UserError(f"{first}{more}")
    return count


def ask(model, setup, name, shared):
    """Ask one model, called `name`, all prompts that it has no answer to.

    Returns how many prompts it answered.
    """
    key = setup.label(model, path_of(model))
    old_key = setup.label(model)  # earlier records went by the name
    how = {**asdict(shared.sampling), **asdict(setup), "device": None}
    how["weights"] = fingerprint(model_folder(model, setup.revision))
    new, answered, history = [], [], {}
    for prompt in shared.prompts:
        there = has_answer(model, setup, prompt, shared.outdir)
        (answered if there and not shared.force else new).append(prompt)
        history[prompt] = read_table(shared.outdir / prompt_file(prompt))[1]
    earlier = [history[prompt].get(key, history[prompt].get(old_key, how)) for prompt in answered]
    changed = sum(
        any(settings.get(setting) != value for setting, value in how.items())
        for settings in earlier
    )
    if changed:
        stale = f"{changed} answers of {name} were made by other weights or settings"
        print(f"note: {stale}; --force asks again.", file=sys.stderr)
    if not new:
        print(f"{name}: all {len(shared.prompts)} answers are there.")
        return 0
    loaded = Loaded(model, setup)
    length = lengths(loaded, new, shared.where)  # a too long one is named before any is answered
    # Prompts with one history go together: the tables of a batch share the record that says how
    # their answers were made.
    order = sorted(new, key=lambda p: (json.dumps(history[p], sort_keys=True), length[p]))
    done = 0
    inputs = [*shared.inputs, *setup.files()]
    for _, group in itertools.groupby(order, key=lambda p: history[p]):
        for batch in batched(list(group), shared.batch_size):
            answer(loaded, name, batch, shared.sampling, shared.outdir, inputs, {key: how})
            done += len(batch)
            if len(order) > 1:
                print(f"{name}: {done} of {len(order)} prompts", flush=True)
    return done


def batched(items, size):
    return (items[i : i + size] for i in range(0, len(items), size))


def answer(loaded, name, prompts, sampling, outdir, inputs, how):
    """Answer `prompts` in one batch and put the answers into their tables.

    The answer to a single prompt is shown as it comes.
    """
    with (
        ExitStack() as until_renamed,
        Run(outdir, inputs, {name: str(loaded.folder)}, sampling.seed, quiet=True) as run,
    ):
        if len(prompts) == 1:
            print(f"{name}:")
            outputs = [show.typed(loaded, loaded.stream(prompts[0], sampling))]
        else:
            outputs = loaded.answer(prompts, sampling, len(prompts))
        until_renamed.enter_context(locked(outdir))
        answers = {}
        for prompt, output in zip(prompts, outputs, strict=True):
            rows, earlier = read_table(outdir / prompt_file(prompt))
            row = dict(zip(COLUMNS, (prompt, loaded.name, loaded.path, output), strict=True))
            run.csv(prompt_file(prompt), COLUMNS, merged(rows, row))
            answers.update(earlier)
        run.settings = {"answers": {**answers, **how}}
