"""A method fitted to a model: what trains, its reference, its start, and the training."""

from dataclasses import dataclass, field, fields, replace
from types import SimpleNamespace
from typing import Any

from brittle.base.errors import UserError
from brittle.data.batches import Stream
from brittle.training import distributed
from brittle.training.checkpoint import Checkpoints
from brittle.training.cost import Cost, recomputing
from brittle.training.loop import train
from brittle.training.mini import LengthStream
from brittle.training.settings import Settings
from brittle.training.steps import StepHook


def make_streams(sets, tokenizer, size, micro_batches, seed, device, *, by_length=False):
    """.forget and .retain: endless streams over the training texts of `sets`; and .tokenizer.

    sets: {forget, retain: (Examples to train on, held out)}. Each stream has a seed of its own.
    by_length: batches of texts of like length.
    """
    kind = LengthStream if by_length else Stream
    streams = SimpleNamespace(tokenizer=tokenizer)
    for k, (name, (examples, _)) in enumerate(sets.items()):
        pad_id = tokenizer.pad_token_id
        setattr(streams, name, kind(examples, pad_id, size, micro_batches, seed + 1 + k, device))
    return streams


def make_settings(rule, values, streams, **more):
    """Settings of training: `values` {name: value} and `more`, as long as the method plans."""
    per_step = streams.forget.batch_size * streams.forget.micro_batches
    one_pass = max(1, len(streams.forget.examples) // per_step)
    known = {f.name for f in fields(Settings)}
    chosen = {name: value for name, value in values.items() if name in known}
    steps, stretches = rule.plan(chosen.pop("steps", None), one_pass)
    return Settings(**{**chosen, "steps": steps, "stretches": stretches, **more})


class MethodHook(StepHook):
    """Lets a method change what trains before a step, and add its measures to the history."""

    def __init__(self, rule, accelerator, cost):
        self.rule = rule
        self.accelerator = accelerator
        self.cost = cost  # of what a new stretch measures

    def begin_step(self, progress):
        if not self.rule.phased:
            return False
        with self.cost, self.accelerator.autocast():
            return self.rule.phase(progress)

    def after_step(self, step, row):
        row.update(self.rule.measures())
        return False


@dataclass
class Fit:
    """`model` trained in place by the method `rule`, as `run` does it."""

    model: Any
    rule: Any  # methods.base.Method
    wrappers: Any  # methods.wrappers.Wrappers
    streams: Any  # of make_streams
    settings: Settings
    accelerator: Any
    hooks: tuple = ()  # StepHooks beside the method's and the wrappers' own
    checkpoints: Checkpoints | None = None
    label: str | None = "train"  # of the progress bar; None for silence
    cost: Cost = field(default_factory=Cost)  # of what comes before steps

    def run(self):
        """Train. Returns (history, the PEFT model around the model or None)."""
        wrapped = self.prepare()
        with self.cost, self.accelerator.autocast():
            own = self.wrappers.hooks(self.model, self.streams)
        self.all_hooks = [*own, MethodHook(self.rule, self.accelerator, self.cost), *self.hooks]
        planned = self.rule.budget(self.streams)
        if planned and self.label and self.accelerator.is_main_process:
            print(f"{self.label}: {planned}", flush=True)
        self.pairs_of_step = (None, [])
        return self.rule.fit(self.train), wrapped

    def prepare(self):
        """Choose what trains, shard over processes, start the method.

        Returns the PEFT model around the model, or None.
        """
        model, rule = self.model, self.rule
        wrapped = self.wrappers.choose(model, rule, self.settings.seed)
        if self.accelerator.num_processes > 1 and not rule.replicates:
            distributed.shard(model, self.accelerator)
        reference = self.wrappers.reference(model, wrapped, rule)
        if self.settings.checkpointing:
            options = {"use_reentrant": False, "context_fn": recomputing}
            model.gradient_checkpointing_enable(options)
            model.enable_input_require_grads()
        model.train()
        with self.cost, self.accelerator.autocast():
            rule.start(model, reference, self.streams)
        return wrapped

    def train(self, lr_scale=1.0, offset=None):
        """The training, as a method calls it.

        With an `offset` it is that one of several trainings, each with a rate and an order of texts
        of its own, without checkpoints.
        """
        checkpoints = self.checkpoints
        if checkpoints and checkpoints.resume and offset is not None:
            raise UserError(
                f"{self.label} trains several times and keeps no checkpoints. "
                "Start the run without --resume."
            )
        if offset is not None or self.accelerator.num_processes > 1:
            checkpoints = None
        if checkpoints:
            checkpoints = replace(checkpoints, state=self.rule.state)
        first = (offset or 0) * self.settings.steps

        def terms(step, micro, progress):
            return self.rule.losses(*self.pair(first + step, micro), progress)

        return train(
            self.model,
            terms,
            replace(self.settings, lr=self.settings.lr * lr_scale),
            self.accelerator,
            hooks=self.all_hooks,
            checkpoints=checkpoints,
            combine=self.rule.combine,
            label=self.label,
        )

    def flops(self, history):
        """Operations of the method's start and of the steps of `history`, over all processes.

        The history of a resumed run holds the steps before the interruption too.
        """
        return self.cost.flops + sum(row["flops"] for row in history)

    def pair(self, step, micro):
        """(forget batch, retain batch) of this process in a step's micro-batch."""
        at, pairs = self.pairs_of_step
        if at != step:
            forget, retain = self.streams.forget.batches(step), self.streams.retain.batches(step)
            pairs = list(zip(forget, retain, strict=True))
            self.pairs_of_step = (step, pairs)
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        return pairs[micro * world + rank]
