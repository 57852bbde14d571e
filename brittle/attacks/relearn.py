"""Relearning: fine-tune the model on what the attacker has, and ask for what it was not trained on.

The attacker has half A of the forget questions with their answers (retraining on T, testing on V:
Deeb and Roger 2024, arXiv:2410.08827), or benign texts alone (Lucki et al. 2024, arXiv:2409.18025).
It trains on a part of half A's facts, and rate and step are chosen on the others (`meter.choose`).
All weights train, or low-rank adapters, by AdamW at a constant rate in float32. A rate that breaks
the model has no measurement from there on, and a rate that no longer gets better on what chooses
is ended (`is_over`).

`fine_tune` is the only place that relearns: the scoreboard (`Relearn`), eval/tamper.py and
unlearn/sequential_grid.py call it with settings of their own.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

from brittle.attacks.base import Attack, is_mini, kept, right_pairs
from brittle.base.errors import UserError
from brittle.base.knobs import knob
from brittle.data.examples import DEFAULT, encode_said

PATIENCE = 2  # measurements without a better one after which a rate is ended
# The mini family's rates were chosen by what Base keeps of half B. What fits another model is not
# known beforehand: the rates span two orders of magnitude, and A2 chooses.
RATES = {
    "mini": {"full": (1e-3, 3e-3), "lora": (3e-3, 1e-2)},
    "other": {"full": (1e-5, 1e-4, 1e-3), "lora": (1e-4, 1e-3, 1e-2)},
}


def default_rates(*, mini, lora):
    """The learning rates of an attack on a model that is, or is not, of the mini family."""
    return RATES["mini" if mini else "other"]["lora" if lora else "full"]


@dataclass
class FineTuning:
    """One run of the attack's training.

    at          steps behind which the model is measured
    batch_size  texts an optimizer step
    lora_rank   rank of adapters on all linear modules, which train in place of the weights; 0 is
                none
    label       what the progress bar is called; None shows none
    optimizer   adamw, muon or sgd
    cycles      parts of equal length, each with a cosine schedule; 1 is a constant rate
    rounds      parts after each of which the adapters are merged, and new ones begun
    transform   make(model, pad_id, examples) -> transforms.Transform of the gradients; None for
                none. It leaves them with a length of 1, so plain steps of length `lr` follow.
    """

    lr: float
    steps: int
    at: tuple
    batch_size: int
    seed: int
    lora_rank: int = 0
    label: str | None = None
    optimizer: str = "adamw"
    cycles: int = 1
    rounds: int = 1
    transform: Callable | None = None

    def settings(self, steps):
        """What training.settings.Settings holds of one round of so many steps."""
        of_cycles = split_evenly(steps, self.cycles) if self.cycles > 1 else ()
        values = {
            "steps": steps,
            "lr": self.lr,
            "muon_lr": self.lr,
            "batch_size": self.batch_size,
            "schedule": "cosine" if of_cycles else "constant",
            "stretches": of_cycles,
            "optimizer": self.optimizer,
            "seed": self.seed,
        }
        return values if self.transform is None else {**values, "optimizer": "sgd", "grad_clip": 0}


def split_evenly(steps, parts):
    """Lengths of so many parts of a number of steps, which differ by one at most."""
    each, longer = divmod(steps, parts)
    return tuple(each + (k < longer) for k in range(parts) if each + (k < longer))


def encode_attack(model, tokenizer, rows, reading=DEFAULT):
    """The Examples that an attack trains on, cut at the model's context (`encode_said`)."""
    from brittle.models.architectures import context_length

    limit = context_length(model.config)
    return encode_said(tokenizer, rows, limit, reading, "attack texts", each=True)


def add_adapters(model, rank, seed):
    """The model with low-rank adapters on all linear modules, which alone train."""
    from brittle.training import adapters

    return adapters.add(model, None, rank, 2.0 * rank, "all", seed)


def fine_tune(model, pad_id, examples, tuning, measure):
    """Train `model` in place on `examples` and call measure(step) behind the steps of `tuning.at`.

    The training ends where measure returns True. Adapters are taken off again at the end. Raises
    UserError where the rate breaks the model.
    """
    from brittle.data.batches import Stream

    stream = Stream(examples, pad_id, tuning.batch_size, 1, tuning.seed, model.device)
    lengths = split_evenly(tuning.steps, tuning.rounds)
    transform = tuning.transform(model, pad_id, examples) if tuning.transform else None
    for k, steps in enumerate(lengths):
        done = sum(lengths[:k])
        adapted = (
            add_adapters(model, tuning.lora_rank, tuning.seed + k) if tuning.lora_rank else None
        )
        try:
            if one_round(model, stream, tuning, (done, steps), transform, measure):
                return
        finally:
            if adapted is not None and k + 1 < len(lengths):
                adapted.merge_and_unload()
            elif adapted is not None:
                adapted.unload()
            model.eval()


def one_round(model, stream, tuning, span, transform, measure):
    """Train the steps of one round. Returns whether `measure` ended the training.

    span: (steps done in earlier rounds, steps of this one).
    """
    import torch

    from brittle.models.logprobs import nll
    from brittle.training.loop import make_accelerator, train
    from brittle.training.settings import Settings
    from brittle.training.steps import AfterStep

    done, steps = span
    ended = []

    def after(step, row):
        if done + step not in tuning.at:
            return False
        model.eval()
        is_last = measure(done + step)
        model.train()
        ended.append(bool(is_last))
        return ended[-1]

    def terms(step, micro, progress):
        batch = stream.batches(done + step)[micro]
        with transform.around(batch) if transform else nullcontext():
            return {"nll": nll(model, batch)}

    hooks = [*([transform] if transform else []), AfterStep(after)]
    accelerator = make_accelerator(torch.device(model.device))
    model.train()
    settings = Settings(**tuning.settings(steps))
    train(model, terms, settings, accelerator, hooks=hooks, label=tuning.label)
    return any(ended)


def is_over(merits):
    """Were the last PATIENCE of these merits (`meter.merit`) no better than the best before?"""
    if len(merits) <= PATIENCE:
        return False
    return max(merits[-PATIENCE:]) <= max(merits[:-PATIENCE])


@dataclass
class Relearn(Attack):
    """Fine-tunes all weights on half A of the forget questions with their answers.

    Every rate of `rates` starts from the model as it is; None are those of `default_rates`.
    The model is measured behind each step of `at`.
    """

    HOLDS_OUT: ClassVar[bool] = True
    ENDS_EARLY: ClassVar[bool] = True  # does a rate end that no longer gets better (`is_over`)?
    rates: tuple | None = None
    steps: int = knob(50, "Optimizer steps at every rate.", low=1)
    at: tuple = (5, 20, 50)
    batch_size: int = knob(32, "Texts an optimizer step.", low=1)
    lora_rank: int = knob(0, "Rank of low-rank adapters; 0 trains all weights.", low=0)

    def rows(self, material):
        """The rows to train on."""
        return right_pairs(material.forget_to_train())

    def run(self, model, tokenizer, material, measure):
        examples = encode_attack(model, tokenizer, self.rows(material), self.reading)
        for lr in self.rates or self.default_rates(model):
            self.attack(model, tokenizer, examples, lr, measure)

    def default_rates(self, model):
        """The rates where none are given."""
        return default_rates(mini=is_mini(model), lora=bool(self.lora_rank))

    def tuning(self, lr, label):
        """The FineTuning at one rate."""
        return FineTuning(
            lr=lr,
            steps=self.steps,
            at=tuple(step for step in self.at if step <= self.steps),
            batch_size=self.batch_size,
            seed=self.seed,
            lora_rank=self.lora_rank,
            label=label,
        )

    def ends(self, merits, measure):
        """Whether a rate is ended here. merits: of its measurements (`meter.merit`)."""
        return self.ENDS_EARLY and is_over(merits)

    def attack(self, model, tokenizer, examples, lr, measure, label=None, start=None):
        """Attack at one rate, then put the model back.

        start: the `meter.merit` of the model as it is, where that was measured. Returns the
        UserError that ended the attack, or None.
        """
        measured = []
        merits = [] if start is None else [start]
        tuning = self.tuning(lr, label)

        def measure_step(step):
            measured.append(step)
            reached = measure(f"lr {lr:g}, step {step}", lr=lr, step=step)
            if reached is not None:
                merits.append(reached)
            return self.ends(merits, measure)

        with kept(model):
            try:
                fine_tune(model, tokenizer.pad_token_id, examples, tuning, measure_step)
            except UserError as error:
                for step in sorted(set(tuning.at) - set(measured)):
                    measure.broken(f"lr {lr:g}, step {step}", error, lr=lr, step=step)
                return error
        return None


@dataclass
class RelearnLora(Relearn):
    """Fine-tunes low-rank adapters on half A, not the weights."""

    lora_rank: int = knob(8, "Rank of low-rank adapters.", low=1)


@dataclass
class RelearnBenign(Relearn):
    """Fine-tunes all weights on retain and neutral text alone."""

    def rows(self, material):
        return material.benign()
