"""A scan of three learning rates before a run: a quarter of the rate, the rate, four times as much.

Each trains for a quarter of the run's steps from the same start, by brittle/unlearning/bench.py, so
half B is not asked. Of the rates without a sign of collapse the one counts that forgot most: the
lowest forget accuracy, then the highest forget NLL. Where all collapse it is the lowest rate.
"""

import copy
from dataclasses import replace
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.data.items import read_items
from brittle.training.loop import make_accelerator
from brittle.unlearning.bench import TrialBench, of_half_a
from brittle.unlearning.run import question_files
from brittle.unlearning.search import Broken, Refused

FACTORS = (0.25, 1.0, 4.0)


class Scanned(NamedTuple):
    """What one rate did; no measures where the training broke off."""

    lr: float
    measures: object | None


def choose(scanned):
    """The rate that counts, of [Scanned]; see the head of this file."""
    sound = [one for one in scanned if one.measures and not one.measures.signs]
    if not sound:
        return min(one.lr for one in scanned)
    best = min(sound, key=lambda s: (s.measures.accuracy["forget"], -s.measures.forget_nll))
    return best.lr


def scan(job, device, *, trust_remote_code=False):
    """The chosen rate for `job`, and a line for each that was tried. Raises UserError."""
    files = question_files(job.texts.data)
    if "forget" not in files:
        raise UserError(
            f"--lr-scan compares rates by mcq_forget.jsonl, and {job.texts.data} has none."
        )
    accelerator = make_accelerator(device)
    if accelerator.num_processes > 1:
        raise UserError("--lr-scan works in one process only. Leave accelerate launch out.")
    items = {split: read_items(path) for split, path in files.items()}
    items["forget"] = of_half_a(items["forget"])

    def make_job(method, values):
        # a method is started once: each rate has one of its own
        parts = {"rule": copy.deepcopy(job.rule), "wrappers": copy.copy(job.wrappers)}
        parts["wrappers"].eval_every, parts["wrappers"].keep = 0, "last"
        return replace(job, settings={**job.settings, **values}, save_every=0, track=None, **parts)

    bench = TrialBench(
        job=make_job(job.method, {}),
        accelerator=accelerator,
        device=device,
        items=items,
        resume=False,
        trust_remote_code=trust_remote_code,
        make_job=make_job,
    )
    bench.open()
    steps = job.settings.get("steps") or bench.one_pass(job.method)
    scanned, lines = [], []
    for factor in FACTORS:
        values = {"lr": float(f"{factor * job.settings['lr']:.3g}"), "steps": max(1, steps // 4)}
        try:
            measures = bench.trial(job.method, values, lambda quarter, now: None)
        except Refused as error:
            raise UserError(str(error)) from None
        except Broken:
            measures = None
        scanned.append(Scanned(values["lr"], measures))
        lines.append(f"--lr-scan {values['lr']:g}, {values['steps']} steps: {in_words(measures)}")
    return choose(scanned), lines


def in_words(measures):
    """What a rate did."""
    if measures is None:
        return "the training broke off"
    signs = f"; {'; '.join(measures.signs)}" if measures.signs else ""
    return (
        f"forget {measures.accuracy['forget']:.3f}, NLL {measures.forget_nll:.3f}, "
        f"neutral KL {measures.neutral_kl:.3f}{signs}"
    )
