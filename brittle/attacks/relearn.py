"""Relearning: fine-tune the model on what the attacker has, and ask for what it was not trained on.

On half A of the forget questions with their answers, all weights or low-rank adapters (retraining on T, testing on V:
Deeb and Roger 2024, arXiv:2410.08827), or on benign texts alone (Lucki et al. 2024, arXiv:2409.18025). AdamW at a constant
rate, float32 weights. A rate that breaks the model has no measurement from there on.
"""

from dataclasses import dataclass

from brittle.attacks.base import Attack, is_mini, kept, right_answers
from brittle.base.errors import UserError

RATES = {
    "mini": {"full": (1e-3, 3e-3), "lora": (3e-3, 1e-2)},
    "large": {"full": (1e-5, 3e-5), "lora": (1e-4, 3e-4)},
}


def fine_tune(
    model, tokenizer, texts, lr, steps, at, batch_size, seed, measure, lora_rank=0, label=None
):
    """Train `model` in place and call measure(step) at the steps of `at`. Raises UserError where the rate breaks it.

    With `lora_rank` adapters on all linear modules train; they are taken off again at the end.
    """
    import warnings

    import torch

    from brittle.data.batches import Stream, encode
    from brittle.models.architectures import context_length
    from brittle.models.logprobs import nll
    from brittle.training import adapters
    from brittle.training.loop import make_accelerator, train
    from brittle.training.settings import Settings
    from brittle.training.steps import AfterStep

    ids = encode(tokenizer, texts, context_length(model.config), "attack texts")
    stream = Stream(ids, tokenizer.pad_token_id, batch_size, 1, seed, model.device)
    settings = Settings(steps=steps, lr=lr, batch_size=batch_size, schedule="constant", seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # PEFT asks transformers for a name that will go
        wrapped = (
            adapters.add(model, None, lora_rank, 2.0 * lora_rank, "all", seed)
            if lora_rank
            else None
        )

    def after(step, row):
        if step in at:
            model.eval()
            measure(step)
            model.train()

    def terms(step, micro, progress):
        return {"nll": nll(model, stream.batches(step)[micro])}

    model.train()
    try:
        train(
            model,
            terms,
            settings,
            make_accelerator(torch.device(model.device)),
            hooks=[AfterStep(after)],
            label=label,
        )
    finally:
        if wrapped is not None:
            wrapped.unload()
        model.eval()


@dataclass
class Relearn(Attack):
    """Fine-tunes all weights on half A of the forget questions with their answers.

    `rates` None: those of RATES for the model's size.
    """

    rates: tuple | None = None
    steps: int = 50
    at: tuple = (5, 20, 50)
    batch_size: int = 32
    lora_rank: int = 0

    def texts(self, material):
        return right_answers(material.forget())

    def run(self, model, tokenizer, material, measure):
        texts = self.texts(material)
        kind = "lora" if self.lora_rank else "full"
        for lr in self.rates or RATES["mini" if is_mini(model) else "large"][kind]:
            with kept(model):
                done = []

                def at_step(step, lr=lr, done=done):
                    done.append(step)
                    measure(f"lr {lr:g}, step {step}", lr=lr, step=step)

                seen = {step for step in self.at if step <= self.steps}
                try:
                    fine_tune(
                        model,
                        tokenizer,
                        texts,
                        lr,
                        self.steps,
                        seen,
                        self.batch_size,
                        self.seed,
                        at_step,
                        self.lora_rank,
                    )
                except UserError as error:
                    for step in sorted(seen - set(done)):
                        measure.broken(f"lr {lr:g}, step {step}", error, lr=lr, step=step)


@dataclass
class RelearnLora(Relearn):
    """Fine-tunes low-rank adapters on half A, not the weights."""

    lora_rank: int = 8


@dataclass
class RelearnBenign(Relearn):
    """Fine-tunes all weights on retain and neutral text alone."""

    def texts(self, material):
        return material.benign()
