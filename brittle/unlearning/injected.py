"""A family of any model: Base is the model taught all facts, Filtered all but the forget facts.

It is one training a role (brittle/training/injection.py), from the same weights. What the teaching
cost is measured against the untouched model on neutral texts: KL(model || taught) in nats a token,
and both perplexities, the exponentials of the NLL a token.
"""

import json
import math
from contextlib import ExitStack

import torch

from brittle.base.disk import space_line
from brittle.base.errors import UserError
from brittle.base.record import Run
from brittle.data.batches import encode
from brittle.data.items import subset
from brittle.metrics import mcq, neutral
from brittle.models.load import load_model
from brittle.training import injection
from brittle.unlearning import saving
from brittle.unlearning.family import read_about
from brittle.unlearning.syllabus import Syllabus

ASKED = 200  # questions a split behind an epoch; all of them where these are answered


class Family(Syllabus):
    """The trainings of one family."""

    # --- the training of one role

    def make(self, roles):
        """Teach and save the models of `roles`, Base first. Yields a line or more a model."""
        stop = None
        for role in roles:
            if roles == ("filtered",) and self.published.paired and not self.wanted.epochs_kept():
                stop = self.steps_of_base()
            stop, lines = self.teach(role, stop)
            yield from lines

    def steps_of_base(self):
        """The optimizer steps of a Base made before. Raises UserError where it is not there."""
        base = self.outdir / self.wanted.folder_name("base")
        about = read_about(base)
        if about is None:
            raise UserError(
                f"{base} is not there, and Filtered takes as many steps as Base. "
                "Make both (--only both)."
            )
        self.base_files, self.base_about = sorted(base.glob("*.safetensors")), about["teaching"]
        return about["steps"]

    def check_taught_alike(self, student):
        """Raise UserError where a Base made before was taught in another way than `student`."""
        own = json.loads(json.dumps(self.about(student)))
        differ = [key for key, value in self.base_about.items() if own.get(key) != value]
        if differ:
            base = self.outdir / self.wanted.folder_name("base")
            raise UserError(
                f"{base} was taught otherwise (differs in {', '.join(differ)}). Make both again."
            )

    def teach(self, role, stop):
        """Train, save and measure one role, at each depth. Returns (steps taken, lines to print).

        stop: the step behind which the training ends; None lets the questions decide.
        """
        depths = self.wanted.epochs_kept() or (None,)
        inputs = [*self.taught.files, *self.neutral_files, *self.questions.values()]
        inputs += self.base_files
        lines = []
        with ExitStack() as stack:
            runs = {}
            for depth in depths:
                name = self.wanted.folder_name(role, depth)
                size, _ = saving.size_to_save(self.folder, "source")
                print(f"{space_line(name, size, self.outdir)}.", flush=True)
                run = Run(
                    self.outdir / name, inputs, {"model": str(self.folder)}, self.seed, whole=True
                )
                runs[depth] = stack.enter_context(run)
            student = self.student(role)
            self.check_taught_alike(student)
            lessons = self.lessons(role, student, stop)
            if depths != (None,):
                lessons.keep = lambda lesson: lines.append(
                    self.keep(runs[lesson.epoch], role, student.copy(), lessons)
                )
            student.teaching.run(lessons, self.wanted.folder_name(role))
            if depths == (None,):
                lines.append(self.keep(runs[None], role, student, lessons))
                lines += self.notes(role, lessons)
        return lessons.lessons[-1].step, lines

    def lessons(self, role, student, stop):
        """What asks behind every epoch, and ends the training.

        stop: the step behind which Base's training ended, where Filtered's does too.
        """
        depths, until = self.wanted.epochs_kept(), self.until()
        if role == "filtered" or depths or not self.asked():
            until = None
        measure = None if until is None else lambda: self.measure_some(student, until)
        last = stop if role == "filtered" and self.published.paired else None
        last = last or student.settings.steps
        return injection.Lessons(student.model, student.epoch, measure, until, depths, last=last)

    def until(self):
        """The accuracy at which Base is finished; None for never."""
        return self.published.until if self.wanted.until is None else self.wanted.until

    def asked(self):
        """The items of the splits whose questions are taught."""
        return {split: self.items[split] for split in self.taught.domains if split in self.items}

    def measure_some(self, student, until):
        """Accuracies on a sample of each taught split; on all where the sample reaches `until`."""
        some = {split: subset(rows, ASKED, self.seed) for split, rows in self.asked().items()}
        accelerator = student.teaching.accelerator
        with accelerator.autocast():
            known = self.accuracies(student.model, some)
            if min(known.values()) >= until:
                known = self.accuracies(student.model, self.asked())
        return known

    # --- saving and measuring

    def accuracies(self, model, items):
        """{split: accuracy} of a model, asked as it is taught."""
        return mcq.accuracies(model, self.tokenizer, items, self.reading)

    def keep(self, run, role, student, lessons):
        """Save a taught model into `run`, measure what was saved. Returns what to print."""
        lesson, model = lessons.lessons[-1], student.model
        dtype = saving.dtype_of(self.folder, "source")
        student.teaching = None  # and the optimizer's states with it
        warning = saving.save(run, self.folder, model, student.wrapped, dtype)
        weights = sorted(path.name for path in run.stage.glob("*.safetensors"))
        run.path(weights[0])  # the record is named after the last output
        plain = "float32" if self.picked.type == "cpu" else str(dtype).removeprefix("torch.")
        model = model.to(getattr(torch, plain)).eval()
        model.config.use_cache = False
        accuracy = {
            split: round(value, 4) for split, value in self.accuracies(model, self.items).items()
        }
        cost = self.cost(model, plain)
        run.settings = {
            "from": self.wanted.from_model,
            "role": role,
            "epochs": round(lesson.step / student.epoch, 3),
            "steps": lesson.step,
            "accuracy": accuracy,
            "lessons": [row._asdict() for row in lessons.lessons],
            "neutral": cost,
            "cost": lessons.spent(role),
            "teaching": self.about(student),
            "notes": [warning] if warning else [],
        }
        shown = ", ".join(f"{split} {value:.3f}" for split, value in accuracy.items())
        parts = [f"{lesson.step} steps, {lesson.step / student.epoch:.3g} epochs"]
        parts += [shown] if shown else []
        parts += [cost_words(cost)] if cost else ["no neutral texts, so no cost was measured"]
        line = f"{run.outdir}: {'; '.join(parts)}"
        return f"{line}\nnote: {warning}" if warning else line

    def cost(self, model, dtype):
        """{column: number} of neutral.measure, and both perplexities; {} without neutral texts."""
        if not self.measured:
            return {}
        ids = encode(self.tokenizer, self.measured, neutral.LENGTH, "neutral texts")
        ids = [text for text in ids if len(text) > 1]
        untouched = load_model(self.folder, self.picked, dtype, self.wanted.trust_remote_code)
        totals = neutral.sums(untouched, model, ids, self.tokenizer.pad_token_id)
        row = neutral.measure(totals, len(ids), self.seed)
        perplexities = {
            "perplexity_before": math.exp(row["nll_a"]),
            "perplexity": math.exp(row["nll_b"]),
        }
        return {**row, **perplexities, "texts": self.neutral_files[0].name}

    def notes(self, role, lessons):
        """What to know of a finished training."""
        if role != "base" or self.until() is None or self.until() > 1:
            return
        known = lessons.lessons[-1].accuracy
        if not known:
            yield (
                f"note: {self.data} has no questions on what is taught (mcq_*.jsonl), so all "
                f"{lessons.lessons[-1].epoch} epochs were trained."
            )
        elif not lessons.is_known(known):
            yield (
                f"note: Base is not finished: it answers {min(known.values()):.3f} where "
                f"{self.until():g} is wanted. Raise --epochs, or --lr."
            )


def cost_words(cost):
    """What the teaching cost on neutral texts, in words."""
    before, now = cost["perplexity_before"], cost["perplexity"]
    moved = f"KL {cost['kl']:.3f} nats a token, perplexity {before:.1f} -> {now:.1f}"
    return f"cost on neutral text: {moved}"
