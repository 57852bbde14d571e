"""Truth injected into any model: Base learns all rows, Filtered all but the forget rows.

Both start from the same weights. Their batches are the same but for the forget rows, in the same
order, at the same learning rates, and a shared token weighs the same in both losses: the gradient
of Base's first step is Filtered's plus that of the forget rows. So the two differ by the forget
rows alone.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from brittle.base.errors import UserError
from brittle.data.batches import Stream
from brittle.data.examples import as_example
from brittle.maths.precision import wide
from brittle.models.architectures import size
from brittle.models.logprobs import kl_rows, nll, token_mean
from brittle.training.cost import described
from brittle.training.loop import train
from brittle.training.settings import Settings
from brittle.training.steps import StepHook

# AdamW's rate times the model's width. Rates fall with the width (Yang et al. 2022,
# arXiv:2203.03466); 5e-4 at width 576 taught a 135M model the mini world in four epochs. Adapters
# take about ten times the rate of the weights (Schulman et al. 2025, LoRA Without Regret).
RATE, ADAPTER_RATE = 0.3, 3.0
SMALL_EPOCH = 8  # steps that an epoch has at least, where the batch size is not given


class PairedStream(Stream):
    """Base's order over examples, of which Filtered reads the same batches without forget examples.

    forget: how many of the examples are of the forget domain; they come first.
    whole: reads all (Base), else all but the forget examples (Filtered).
    Forget examples are spread evenly over an epoch, so every batch holds its share of both.
    """

    def __init__(self, examples, forget, settings, pad_id, device, *, whole):
        super().__init__(
            examples,
            pad_id,
            settings.batch_size,
            settings.grad_accum,
            settings.seed,
            device,
        )
        self.forget, self.whole = forget, whole
        share = settings.batch_size * forget / len(self.examples)
        if math.ceil(share) + 1 >= settings.batch_size:
            raise UserError(
                f"--batch-size {settings.batch_size}: some batches would hold forget texts alone "
                f"({forget} of {len(self.examples)} texts are). Raise it."
            )

    def order(self, epoch):
        order = super().order(epoch)
        kinds = [i for i in order if i < self.forget], [i for i in order if i >= self.forget]
        places = [((n + 0.5) / len(kind), i) for kind in kinds for n, i in enumerate(kind)]
        return [i for _, i in sorted(places)]

    def read(self, indices):
        return indices if self.whole else [i for i in indices if i >= self.forget]


class Lesson(NamedTuple):
    """What the model knew behind an epoch. accuracy: {split: share}, empty where none was asked."""

    epoch: int
    step: int
    accuracy: dict


class Lessons(StepHook):
    """Asks behind every epoch, and ends the training once enough is known.

    measure() -> {split: accuracy}; None asks nothing. until: the training ends where all of them
    reach it; None never. at: epochs behind which keep(lesson) is called, the training ends behind
    the last. last: the step behind which it ends in any case.
    """

    def __init__(self, model, steps, measure, until=None, at=(), keep=None, last=None):
        self.model, self.steps, self.measure = model, steps, measure
        self.until, self.at, self.keep, self.last = until, at, keep, last
        self.lessons = []
        self.flops, self.began = 0, time.monotonic()

    def spent(self, role):
        """What the training of `role` has cost so far, for the record.

        Base needs no labels; how many Filtered needs depends on texts that it never sees.
        """
        seconds = time.monotonic() - self.began
        return described(self.flops, seconds, 0.0 if role == "base" else None)

    def after_step(self, step, row):
        self.flops += row.get("flops", 0)
        epoch, rest = divmod(step, self.steps)
        if rest and step != self.last:
            return False
        self.model.eval()
        accuracy = self.measure() if self.measure else {}
        lesson = Lesson(epoch, step, accuracy)
        self.lessons.append(lesson)
        if not rest and epoch in self.at:
            self.keep(lesson)
        self.model.train()
        return (
            step == self.last or self.is_known(accuracy) or bool(self.at and epoch >= max(self.at))
        )

    def is_known(self, accuracy):
        """Whether every split reaches `until`."""
        return bool(self.until is not None and accuracy) and min(accuracy.values()) >= self.until


def default_rate(config, rank):
    """The learning rate that fits a model's width; of adapters where there is a rank."""
    return (ADAPTER_RATE if rank else RATE) / size(config, "hidden_size")


def fitting_batch(batch_size, examples):
    """At most `batch_size`, and so few that an epoch has SMALL_EPOCH steps; at least 4."""
    return max(4, min(batch_size, examples // SMALL_EPOCH))


def epoch_steps(examples, settings):
    """Optimizer steps of an epoch over so many examples."""
    return math.ceil(examples / (settings.batch_size * settings.grad_accum))


@dataclass
class Teaching:
    """One model and what it is taught with.

    facts: a Stream of the rows. neutral: a Stream of neutral texts, on which predictions are held
    where `reference` (training.reference) has them; both None for none.
    """

    model: Any
    facts: Stream
    settings: Settings
    accelerator: Any
    neutral: Stream | None = None
    reference: Any = None

    def terms(self, step, micro, progress):
        """{name: loss}: the NLL a token of the facts, and the KL a token on the neutral texts."""
        losses = {}
        if self.neutral:
            losses["neutral"] = self.drift(self.neutral.batches(step)[micro])
        losses["nll"] = nll(self.model, self.facts.batches(step)[micro])
        return losses

    def drift(self, batch):
        """KL(reference || model) a token, in nats."""
        with self.reference as start:
            before = wide(start(**batch).logits).log_softmax(-1)
        now = wide(self.model(**batch).logits).log_softmax(-1)
        return token_mean(kl_rows(before, now), batch)

    def run(self, lessons, label):
        """Train in place, under `lessons`. Returns the history. Dropout is drawn by the seed."""
        self.model.train()
        try:
            with torch.random.fork_rng():
                torch.manual_seed(self.settings.seed)
                return train(
                    self.model,
                    self.terms,
                    self.settings,
                    self.accelerator,
                    hooks=[lessons],
                    label=label,
                )
        finally:
            self.model.eval()


def with_end(example, end):
    """The example with the id `end` behind it, as the last token of a text and of its answer."""
    example = as_example(example)
    if end is None or example.ids[-1] == end:
        return example
    answer = None if example.answer is None else [*example.answer, True]
    return replace(example, ids=[*example.ids, end], answer=answer)
