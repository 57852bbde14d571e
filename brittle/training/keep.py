"""Evaluation during training, and the rule by which a checkpoint is kept.

    first forget <= filtered                       the first evaluation that satisfies it;
                                                   training stops there
    first forget <= 0.30 and retain >= base - 0.05
    lowest forget where retain >= 0.95             the best of those that satisfy it, at the end
                                                   (also: highest)

Splits are forget, retain and general. Values are numbers, or an accuracy on the same split, plus or
minus a number: of the model before (base), of --filtered (filtered), of --teacher (teacher), or of
guessing (chance). A factor may stand before it: 0.95*base.
"""

import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.base.files import replace_folder
from brittle.training.steps import StepHook

RULE = re.compile(
    r"(?:(first)|(lowest|highest)\s+(forget|retain|general)(?:\s+where)?)(?:\s+(.+))?"
)
NUMBER = r"(?:\d+\.?\d*|\.\d+)"
CONDITION = re.compile(
    r"(?P<split>forget|retain|general)\s*(?P<sign><=|>=)\s*"
    rf"(?:(?:(?P<factor>{NUMBER})\s*\*\s*)?(?P<level>base|filtered|teacher|chance))?\s*"
    rf"(?P<number>[+-]?\s*{NUMBER})?"
)


class Rule:
    """A parsed rule.

    `levels` are the accuracies that it may name: {"base": {split: accuracy}, "filtered": {...}}.
    """

    def __init__(self, text):
        self.text = text
        match = RULE.fullmatch(text.strip())
        texts = re.split(r"\s+and\s+", match[4]) if match and match[4] else []
        conditions = [read_condition(condition.strip()) for condition in texts]
        if not match or None in conditions or (match[1] and not conditions):
            raise UserError(
                f"--rule {text!r} is not understood. Such as: 'first forget <= filtered', "
                "'lowest forget where retain >= 0.95'."
            )
        self.first, self.direction, self.split = bool(match[1]), match[2], match[3]
        self.conditions = conditions

    def names(self):
        """The models whose levels are needed."""
        return {condition.level for condition in self.conditions if condition.level}

    def splits(self):
        """The splits whose accuracies are needed."""
        splits = {condition.split for condition in self.conditions}
        return splits | ({self.split} if self.split else set())

    def holds(self, accuracy, levels):
        """Does {split: accuracy} satisfy every condition?"""
        return all(condition.holds(accuracy, levels) for condition in self.conditions)

    def value(self, accuracy):
        """What the best checkpoint has most of."""
        sign = -1 if self.direction == "lowest" else 1
        return sign * accuracy[self.split]


class Condition(NamedTuple):
    """An accuracy on one side, a level plus a number on the other."""

    split: str
    sign: str  # <= or >=
    level: str | None  # base, filtered, teacher, chance; None: the number alone
    number: float
    factor: float = 1.0  # on the level

    def bound(self, levels):
        """The number on the other side."""
        level = self.factor * levels[self.level][self.split] if self.level else 0.0
        return level + self.number

    def excess(self, accuracy, levels):
        """How far {split: accuracy} lies beyond the bound; 0 or less where it holds."""
        beyond = accuracy[self.split] - self.bound(levels)
        return beyond if self.sign == "<=" else -beyond

    def holds(self, accuracy, levels):
        return self.excess(accuracy, levels) <= 0


def read_condition(text):
    """The Condition of a text, None where it is none."""
    match = CONDITION.fullmatch(text)
    if not match or not (match["level"] or match["number"]):
        return None
    number = float("".join((match["number"] or "0").split()))
    factor = float(match["factor"] or 1)
    return Condition(match["split"], match["sign"], match["level"], number, factor)


class Keeper(StepHook):
    """Measures every `every` steps; with a rule it keeps the weights that the rule says."""

    def __init__(self, measure, every, model, rule=None, levels=None, folder=None):
        self.measure = measure
        self.every = every
        self.model = model
        self.rule = rule
        self.levels = levels or {}
        # of the best weights so far, which survive an interruption
        self.folder = Path(folder) if folder else None
        self.kept = None  # (step, accuracies) of what is kept
        self.names = None  # of what trains in any step, where that is not what trains now

    def start(self, names):
        self.names = names

    def after_step(self, step, row):
        if step % self.every:
            return False
        self.model.eval()
        accuracy = self.measure()
        self.model.train()
        row.update({f"{split}_accuracy": value for split, value in accuracy.items()})
        if not self.rule or not self.rule.holds(accuracy, self.levels):
            return False
        if self.rule.first:
            self.kept = (step, accuracy)
            return True
        best = self._read()
        if (
            not best
            or best["step"] >= step
            or self.rule.value(accuracy) > self.rule.value(best["accuracy"])
        ):
            self._write(step, accuracy)
        return False

    def _read(self):
        file = self.folder / "row.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def _write(self, step, accuracy):
        from safetensors.torch import save_file

        from brittle.training.checkpoint import named

        stage = self.folder.with_name(f".{self.folder.name}.part")
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        tensors = {
            n: p.detach().contiguous().clone() for n, p in named(self.model, self.names).items()
        }
        save_file(tensors, stage / "best.safetensors")
        (stage / "row.json").write_text(
            json.dumps({"step": step, "accuracy": accuracy}), encoding="utf-8"
        )
        replace_folder(stage, self.folder)

    def finish(self):
        """Put the kept weights into the model. Returns a sentence on it, None without a rule."""
        if not self.rule:
            return None
        best = None if self.rule.first else self._read()
        if best:
            import torch
            from safetensors.torch import load_file

            from brittle.training.checkpoint import named

            tensors = load_file(self.folder / "best.safetensors")
            with torch.no_grad():
                for name, p in named(self.model, self.names).items():
                    p.copy_(tensors[name])
            self.kept = (best["step"], best["accuracy"])
        if not self.kept:
            return f"no evaluation satisfied '{self.rule.text}': the last step is kept."
        shown = ", ".join(f"{k} {v:.3f}" for k, v in self.kept[1].items())
        return f"step {self.kept[0]} is kept by '{self.rule.text}' ({shown})."


def check_rule(rule, levels, items):
    """Every accuracy that the rule names must be measured."""
    if "filtered" in rule.names() and "filtered" not in levels:
        raise UserError(f"--rule {rule.text!r} names the filtered model: give it with --filtered.")
    if "teacher" in rule.names() and "teacher" not in levels:
        raise UserError(f"--rule {rule.text!r} names the teacher: give it with --teacher.")
    for split in rule.splits():
        if split not in items:
            raise UserError(
                f"--rule {rule.text!r}: there is no mcq_{split}.jsonl in the data folder (--data)."
            )
