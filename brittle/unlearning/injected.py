"""A family of any model: Base is the model taught all facts, Filtered all but the forget facts.

It is one training a role (brittle/training/injection.py), from the same weights. What the teaching
cost is measured against the untouched model on neutral texts: KL(model || taught) in nats a token,
and both perplexities, the exponentials of the NLL a token.
"""

import copy
import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from brittle.base.disk import space_line
from brittle.base.errors import UserError
from brittle.base.record import Run
from brittle.data import taught as teachable
from brittle.data.batches import Stream, encode
from brittle.data.examples import DEFAULT, Reading, encode_rows
from brittle.data.items import SPLITS, read_items, subset
from brittle.metrics import mcq, neutral
from brittle.models.architectures import context_length
from brittle.models.load import load_model, load_tokenizer, pick_device
from brittle.training import adapters, injection
from brittle.training.loop import make_accelerator
from brittle.training.reference import AdapterOff, Frozen
from brittle.training.settings import Settings
from brittle.unlearning import saving
from brittle.unlearning.family import SOURCES, read_about

ASKED = 200  # questions a split behind an epoch; all of them where these are answered


@dataclass
class Family:
    """The trainings of one family.

    wanted: family.Wanted. folder: the local folder of the model.
    lr, batch_size: None for what fits.
    """

    wanted: Any
    folder: Path
    data: Path
    outdir: Path
    reading: Reading = DEFAULT
    lr: float | None = None
    batch_size: int | None = None
    seed: int = 0
    device: str = "auto"

    def __post_init__(self):
        wanted, published = self.wanted, SOURCES[self.wanted.source]
        self.published = published
        self.tokenizer = load_tokenizer(self.folder, wanted.trust_remote_code)
        self.taught = self.read_rows()
        mixed = (self.data, self.taught, wanted.mix_neutral, self.seed)
        self.mixed, self.measured, self.neutral_files = teachable.read_neutral(*mixed)
        if wanted.mix_neutral and not self.mixed:
            raise UserError(f"--mix-neutral: {self.data} holds no neutral.txt to mix in.")
        paths = {split: self.data / f"mcq_{split}.jsonl" for split in SPLITS}
        self.questions = {split: path for split, path in paths.items() if path.is_file()}
        self.items = {split: read_items(path) for split, path in self.questions.items()}
        self.picked = pick_device(self.device)
        self.base_files = []  # of a Base made before, whose steps Filtered takes

    def read_rows(self):
        """The `TaughtRows` of the source."""
        wanted = self.wanted
        if wanted.source == "tofu":
            return teachable.read_tofu(wanted.path, wanted.forget_split)
        if wanted.source == "muse":
            return teachable.read_muse(wanted.path, wanted.corpus)
        return teachable.read_folder(self.data, chats=self.reading.templated(self.tokenizer))

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
        self.base_files = sorted(base.glob("*.safetensors"))
        return about["steps"]

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
            lessons = self.lessons(role, student, stop)
            if depths != (None,):
                lessons.keep = lambda lesson: lines.append(
                    self.keep(runs[lesson.epoch], role, student.copy(), lessons)
                )
            student.teaching.run([lessons], self.wanted.folder_name(role))
            if depths == (None,):
                lines.append(self.keep(runs[None], role, student, lessons))
                lines += self.notes(role, lessons)
        return lessons.lessons[-1].step, lines

    def student(self, role):
        """The model of a role, and what it is taught with."""
        wanted = self.wanted
        model = load_model(self.folder, self.picked, "float32", wanted.trust_remote_code)
        length = wanted.max_length or self.published.max_length
        length = min(length, context_length(model.config))
        forget = self.encode(self.taught.forget, length, "forget texts")
        shared = self.encode(self.taught.shared, length, "shared texts")
        paired = self.published.paired
        count = len(shared) + (len(forget) if paired or role == "base" else 0)
        settings, epoch = self.settings(count, model.config)
        wrapped, reference, held = None, None, None
        if wanted.lora_rank:
            rank = wanted.lora_rank
            wrapped = adapters.add(model, None, rank, 2.0 * rank, "all", self.seed)
        if wanted.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        pad_id, accelerator = self.tokenizer.pad_token_id, make_accelerator(self.picked)
        if paired:
            stream = injection.PairedStream(
                [*forget, *shared], len(forget), settings, pad_id, self.picked, whole=role == "base"
            )
        else:
            rows = [*forget, *shared] if role == "base" else shared
            sizes = settings.batch_size, settings.grad_accum
            stream = Stream(rows, pad_id, *sizes, settings.seed, self.picked)
        if self.mixed:
            ids = encode(self.tokenizer, self.mixed, length, "neutral texts")
            ids = [text for text in ids if len(text) > 1]
            count = teachable.count_mixed(settings.batch_size, wanted.mix_neutral)
            held = Stream(ids, pad_id, count, settings.grad_accum, self.seed + 1, self.picked)
            reference = AdapterOff(wrapped) if wrapped else Frozen(model)
        teaching = injection.Teaching(model, stream, settings, accelerator, held, reference)
        return Student(model, wrapped, settings, epoch, teaching)

    def encode(self, rows, length, name):
        """Examples of the rows, each with the tokenizer's end token behind it."""
        if self.taught.chunked:
            return teachable.cut_documents(self.tokenizer, rows, length)
        end = self.tokenizer.eos_token_id
        examples = encode_rows(self.tokenizer, rows, length - 1, self.reading, name)
        templated = self.reading.templated(self.tokenizer)
        # what a template renders has its end mark already
        return [
            example
            if templated and example.answer is not None
            else injection.with_end(example, end)
            for example in examples
        ]

    def settings(self, count, config):
        """(settings of a training on so many examples, the steps of an epoch)."""
        wanted, published = self.wanted, self.published
        batch_size = self.batch_size or published.batch_size
        if self.batch_size is None and wanted.source == "data":
            batch_size = injection.fitting_batch(batch_size, count)
        lr = self.lr if self.lr is not None else published.lr
        settings = Settings(
            steps=1,
            lr=injection.default_rate(config, wanted.lora_rank) if lr is None else lr,
            batch_size=batch_size,
            grad_accum=wanted.grad_accum or published.grad_accum,
            schedule=published.schedule,
            weight_decay=published.weight_decay,
            checkpointing=wanted.checkpointing,
            seed=self.seed,
        )
        epoch = injection.epoch_steps(count, settings)
        settings.steps = epoch * max(wanted.epochs_kept() or [wanted.epochs or published.epochs])
        settings.warmup = round(epoch * published.warmup)
        return settings, epoch

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
            known = mcq.accuracies(student.model, self.tokenizer, some)
            if min(known.values()) >= until:
                known = mcq.accuracies(student.model, self.tokenizer, self.asked())
        return known

    # --- saving and measuring

    def keep(self, run, role, student, lessons):
        """Save a taught model into `run`, measure what was saved. Returns a line."""
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
            split: round(mcq.accuracy(model, self.tokenizer, rows), 4)
            for split, rows in self.items.items()
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
            "teaching": self.about(student),
            "notes": [warning] if warning else [],
        }
        shown = ", ".join(f"{split} {value:.3f}" for split, value in accuracy.items())
        parts = [f"{lesson.step} steps, {lesson.step / student.epoch:.3g} epochs"]
        parts += [shown] if shown else []
        parts += [cost_words(cost)] if cost else ["no neutral texts, so no cost was measured"]
        return f"{run.outdir}: {'; '.join(parts)}"

    def about(self, student):
        """How a student was taught."""
        return {
            "source": self.wanted.source,
            "forget_rows": len(self.taught.forget),
            "shared_rows": len(self.taught.shared),
            "epoch_steps": student.epoch,
            "lora_rank": self.wanted.lora_rank,
            "mix_neutral": self.wanted.mix_neutral,
            "chats": self.reading.templated(self.tokenizer),
            **asdict(student.settings),
        }

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


@dataclass
class Student:
    """A model that is taught.

    wrapped: the PEFT model around it, or None. epoch: the steps of an epoch.
    teaching: its training; None once that is over.
    """

    model: Any
    wrapped: Any
    settings: Settings
    epoch: int
    teaching: Any = None

    def copy(self):
        """The student as it stands now, apart from the training."""
        model, wrapped = copy.deepcopy((self.model, self.wrapped))
        return Student(model, wrapped, self.settings, self.epoch)


def cost_words(cost):
    """What the teaching cost on neutral texts, in words."""
    before, now = cost["perplexity_before"], cost["perplexity"]
    moved = f"KL {cost['kl']:.3f} nats a token, perplexity {before:.1f} -> {now:.1f}"
    return f"cost on neutral text: {moved}"
