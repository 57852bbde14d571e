"""Distillation: fresh weights learn the model's predictions on retain and neutral text alone, and
are asked in its place, as made and after relearning on half A.

A student that never read a forget text answers what the model's outputs told it of the domain
(docs/distillation.md). Its labels are whole distributions over the vocabulary. Where half A is
relearned, A2 chooses the step, and the student as made is one of the variants.
"""

from dataclasses import dataclass
from typing import ClassVar

from brittle.attacks.base import frozen, is_mini
from brittle.attacks.relearn import Relearn, default_rates, encode_attack
from brittle.base.knobs import knob

MUON_RATE, RATE = 0.015, 3e-3  # of the mini family's pretraining


class OfStudent:
    """`measure` of a student in place of the model that the meter holds."""

    def __init__(self, measure, student):
        self.measure, self.student = measure, student

    def __call__(self, variant, **columns):
        return self.measure(f"student, {variant}", model=self.student, **columns)

    def broken(self, variant, error, **columns):
        self.measure.broken(f"student, {variant}", error, **columns)


@dataclass
class DistilledStudent(Relearn):
    """The student is trained once; every rate of the relearning starts from it."""

    HOLDS_OUT: ClassVar[bool] = True
    learn_steps: int = knob(200, "Optimizer steps of the student.", low=1)
    learn_batch: int = knob(64, "Texts a step of the student.", low=1)

    def run(self, model, tokenizer, material, measure):
        texts = encode_attack(model, tokenizer, material.benign(), self.reading)
        student = self.distill(model, tokenizer.pad_token_id, texts)
        of_student = OfStudent(measure, student)
        start = of_student("as made")
        examples = encode_attack(model, tokenizer, self.rows(material), self.reading)
        for lr in self.rates or default_rates(mini=is_mini(model), lora=False):
            self.attack(student, tokenizer, examples, lr, of_student, start=start)

    def distill(self, model, pad_id, texts):
        """A model of fresh weights that was trained on the model's predictions of `texts`."""
        import torch

        from brittle.methods.labels import Labels, divergence
        from brittle.models.initial import fresh
        from brittle.models.logprobs import target_mean
        from brittle.training.injection import default_rate
        from brittle.training.loop import make_accelerator, train
        from brittle.training.mini import LengthStream, make_settings
        from brittle.training.settings import Settings

        student = fresh(model, self.seed).to(model.device)
        shared = {"steps": self.learn_steps, "batch_size": self.learn_batch, "seed": self.seed}
        if is_mini(model):
            settings = make_settings(lr=RATE, muon_lr=MUON_RATE, **shared)
        else:
            # as another model is taught facts
            rate = default_rate(model.config, 0)
            settings = Settings(lr=rate, warmup=min(20, self.learn_steps), **shared)
        stream = LengthStream(texts, pad_id, self.learn_batch, 1, self.seed, model.device)

        def terms(step, micro, progress):
            batch = stream.batches(step)[micro]
            with torch.no_grad():
                log_q = Labels().of(model(**batch).logits, batch.index)
            return {"kl": target_mean(divergence(student(**batch).logits, log_q), batch)}

        student.train()
        with frozen(model):
            accelerator = make_accelerator(torch.device(model.device))
            train(student, terms, settings, accelerator, label=None)
        return student.eval()
