"""Evaluation during training, and the rule by which a checkpoint is kept.

    first forget <= filtered                       the first evaluation that satisfies it;
                                                   training stops there
    first forget <= 0.30 and retain >= base - 0.05
    lowest forget where retain >= 0.95             the best of those that satisfy it, at the end
                                                   (also: highest)

Splits are forget, retain and general. Values are numbers, or the accuracy of the model before
(base) or of --filtered, plus or minus a number.
"""

import json
import re
import shutil
from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.files import replace_folder
from brittle.training.steps import StepHook

CONDITION = re.compile(r"(forget|retain|general)\s*(<=|>=)\s*(base|filtered)?\s*([+-]?\s*[\d.]+)?")


class Rule:
    """A parsed rule.

    `levels` are the accuracies that it may name: {"base": {split: accuracy}, "filtered": {...}}.
    """

    def __init__(self, text):
        self.text = text
        match = re.fullmatch(
            r"(?:(first)|(lowest|highest)\s+(forget|retain|general)(?:\s+where)?)(?:\s+(.+))?",
            text.strip(),
        )
        parts = re.split(r"\s+and\s+", match[4]) if match and match[4] else []
        found = [CONDITION.fullmatch(part.strip()) for part in parts]
        if (
            not match
            or None in found
            or any(not (c[3] or c[4]) for c in found)
            or (match[1] and not found)
        ):
            raise UserError(
                f"--rule {text!r} is not understood. Such as: 'first forget <= filtered', 'lowest forget where retain >= 0.95'."
            )
        self.first, self.direction, self.split = bool(match[1]), match[2], match[3]
        self.conditions = [(c[1], c[2], c[3], float((c[4] or "0").replace(" ", ""))) for c in found]

    def names(self):
        """The models whose levels are needed."""
        return {level for _, _, level, _ in self.conditions if level}

    def splits(self):
        return {split for split, _, _, _ in self.conditions} | (
            {self.split} if self.split else set()
        )

    def holds(self, accuracy, levels):
        for split, sign, level, number in self.conditions:
            bound = number + (levels[level][split] if level else 0.0)
            if not (accuracy[split] <= bound if sign == "<=" else accuracy[split] >= bound):
                return False
        return True

    def value(self, accuracy):
        """What the best checkpoint has most of."""
        return (-1 if self.direction == "lowest" else 1) * accuracy[self.split]


class Keeper(StepHook):
    """Measures every `every` steps; with a rule it keeps the weights that the rule says."""

    def __init__(self, measure, every, model, rule=None, levels=None, folder=None):
        self.measure, self.every, self.model, self.rule, self.levels = (
            measure,
            every,
            model,
            rule,
            levels or {},
        )
        self.folder = (
            Path(folder) if folder else None
        )  # of the best weights so far, which survive an interruption
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
        """Put the kept weights into the model. Returns a sentence on what was kept, None without a rule."""
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
    for split in rule.splits():
        if split not in items:
            raise UserError(
                f"--rule {rule.text!r}: there is no mcq_{split}.jsonl in the data folder (--data)."
            )
