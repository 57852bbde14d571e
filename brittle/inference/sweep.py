"""A sweep: every prompt to every model, one CSV a prompt, one model in memory at a time."""

import csv
import fcntl
import gc
import hashlib
import itertools
import json
import os
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import asdict

from brittle.base.errors import UserError
from brittle.base.layout import is_local, model_files
from brittle.base.record import Run, record_path
from brittle.inference import show
from brittle.inference.loaded import Loaded, Reader, labels, path_of
from brittle.inference.prompts import lengths
from brittle.models.find import model_folder

COLUMNS = ["prompt", "model", "model_path", "output"]


def prompt_file(prompt):
    """The CSV's name: the sha256 of the prompt. The same prompt is always the same file, and none leaves the folder."""
    return hashlib.sha256(prompt.encode("utf-8")).hexdigest() + ".csv"


def read_table(path):
    """(rows, {path of a model, with its adapter, filter and bits: how its answer was made}) of a prompt's CSV and its record;
    none where it is not there."""
    if not path.is_file():
        return [], {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            csv.field_size_limit(1 << 30)
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
        if reader.fieldnames != COLUMNS or any(None in row or None in row.values() for row in rows):
            raise ValueError
    except (ValueError, csv.Error):
        raise UserError(
            f"{path} is not a table of {', '.join(COLUMNS)}. Move it away, or choose another --outdir."
        ) from None
    try:
        return rows, json.loads(record_path(path).read_text(encoding="utf-8"))["settings"][
            "answers"
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return rows, {}


def merged(rows, row):
    """`rows` with `row` in the place of its model's earlier one, or behind them."""
    key = (row["model"], row["model_path"])
    same = [i for i, r in enumerate(rows) if (r["model"], r["model_path"]) == key]
    return [row if i in same else r for i, r in enumerate(rows) if i not in same[1:]] + (
        [] if same else [row]
    )


@contextmanager
def locked(folder):
    """Hold the folder's lock: two sweeps that add to the same tables do so one after the other."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def fingerprint(folder):
    """One digest of the files that determine a model's behaviour."""
    from brittle.base.files import sha256

    return hashlib.sha256("".join(sha256(f) for f in model_files(folder)).encode()).hexdigest()


def check(asked, prompts, outdir, force, where):
    """Raise UserError, before any model answers, for a model folder that is not there, and for a prompt that is too long for
    one. A model of the hub, and one that brings code, is looked at when its turn comes."""
    local = [(model, setup) for model, setup in asked if is_local(model)]
    for model, setup in local:
        model_folder(model, setup.revision)
    for model, setup in local:
        if not setup.trust_remote_code and (
            new := [p for p in prompts if force or not answered(model, setup, p, outdir)]
        ):
            lengths(Reader(model, setup), new, where)


def answered(model, setup, prompt, outdir):
    """Whether the prompt's table has a row of that model."""
    found = {
        (row["model"], row["model_path"]) for row in read_table(outdir / prompt_file(prompt))[0]
    }
    return (setup.label(model), path_of(model)) in found


def sweep(asked, prompts, sampling, outdir, force=False, batch_size=64, inputs=(), where=()):
    """Ask every model of `asked` [(model, Setup)] every prompt. Returns how many answers were made.

    Results are put in place batch by batch. What a table has is not asked again, but for `force`. `where` says of a prompt
    which line of which file it is. What `check` finds stops everything before any model answers; a model that cannot be asked
    for another reason is named, and the others go on; then UserError.
    """
    count, failed, where = 0, [], dict(where)
    names = labels(asked)
    check(asked, prompts, outdir, force, where)
    for (model, setup), name in zip(asked, names, strict=True):
        try:
            count += ask(
                model, setup, name, prompts, sampling, outdir, force, batch_size, inputs, where
            )
        except UserError as error:
            failed.append(f"{model}: {error}")
        gc.collect()
    if failed:
        more = f" ({len(failed) - 1} more failed: {'; '.join(failed[1:])})" if failed[1:] else ""
        raise UserError(
            f"{failed[0]}{more}" if len(asked) > 1 else failed[0].removeprefix(f"{asked[0][0]}: ")
        )
    return count


def ask(model, setup, name, prompts, sampling, outdir, force, batch_size, inputs, where):
    """Ask one model, called `name` here, all prompts that it has no answer to. Returns how many it answered."""
    key, old = (
        setup.label(model, path_of(model)),
        setup.label(model),
    )  # earlier records went by the name
    how = {**asdict(sampling), **asdict(setup), "device": None}
    how["weights"] = fingerprint(model_folder(model, setup.revision))
    new, kept, history = [], [], {}
    for prompt in prompts:
        there = answered(model, setup, prompt, outdir)
        (kept if there and not force else new).append(prompt)
        history[prompt] = read_table(outdir / prompt_file(prompt))[1]
    changed = sum(history[prompt].get(key, history[prompt].get(old, how)) != how for prompt in kept)
    if changed:
        print(
            f"note: {changed} answers of {name} were made by other weights or settings; --force asks again.",
            file=sys.stderr,
        )
    if not new:
        print(f"{name}: all {len(prompts)} answers are there.")
        return 0
    loaded = Loaded(model, setup)
    length = lengths(loaded, new, where)  # one that is too long is said before any is answered
    # those with one history go together: a batch's tables share the record that says how their answers were made
    order = sorted(new, key=lambda p: (json.dumps(history[p], sort_keys=True), length[p]))
    done = 0
    for _, group in itertools.groupby(order, key=lambda p: history[p]):
        for part in batched(list(group), batch_size):
            answer(loaded, name, part, sampling, outdir, [*inputs, *setup.files()], {key: how})
            done += len(part)
            if len(order) > 1:
                print(f"{name}: {done} of {len(order)} prompts", flush=True)
    return done


def batched(items, size):
    return (items[i : i + size] for i in range(0, len(items), size))


def answer(loaded, name, prompts, sampling, outdir, inputs, how):
    """Answer `prompts` in one batch and put the answers into their tables. A single one is shown as it comes."""
    with (
        ExitStack() as until_renamed,
        Run(outdir, inputs, {name: str(loaded.folder)}, sampling.seed) as run,
    ):
        if len(prompts) == 1:
            print(f"{name}:")
            outputs = [show.typed(loaded, loaded.stream(prompts[0], sampling))]
        else:
            outputs = loaded.answer(prompts, sampling, len(prompts))
        until_renamed.enter_context(locked(outdir))
        answers = {}
        for prompt, output in zip(prompts, outputs, strict=True):
            rows, made = read_table(outdir / prompt_file(prompt))
            row = dict(zip(COLUMNS, (prompt, loaded.name, loaded.path, output), strict=True))
            run.csv(prompt_file(prompt), COLUMNS, merged(rows, row))
            answers.update(made)
        run.settings = {"answers": {**answers, **how}}
