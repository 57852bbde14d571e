"""What the models of an injected family are taught, and with which settings.

`Syllabus.student(role)` gives the untouched model with the rows, batches and settings of its role.
brittle/unlearning/injected.py trains it.
"""

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from brittle.base.errors import UserError
from brittle.data import taught as teachable
from brittle.data.batches import Stream, encode
from brittle.data.examples import DEFAULT, Reading, encode_rows
from brittle.data.items import SPLITS, read_items
from brittle.models.architectures import context_length
from brittle.models.load import load_model, load_tokenizer, pick_device
from brittle.training import adapters, injection
from brittle.training.loop import make_accelerator
from brittle.training.reference import AdapterOff, Frozen
from brittle.training.settings import Settings
from brittle.unlearning.family import SOURCES


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


@dataclass
class Syllabus:
    """What a family is taught.

    wanted: family.Wanted. folder: the local folder of the model. data: the data folder.
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
        self.taught = self.read_taught()
        mixed = (self.data, self.taught, wanted.mix_neutral, self.seed)
        self.mixed, self.measured, self.neutral_files = teachable.read_neutral(*mixed)
        if wanted.mix_neutral and not self.mixed:
            raise UserError(f"--mix-neutral: {self.data} holds no neutral.txt to mix in.")
        paths = {split: self.data / f"mcq_{split}.jsonl" for split in SPLITS}
        self.questions = {split: path for split, path in paths.items() if path.is_file()}
        self.items = {split: read_items(path) for split, path in self.questions.items()}
        self.picked = pick_device(self.device)
        # of a Base made before, whose steps Filtered takes: its weights, and how it was taught
        self.base_files, self.base_about = [], {}

    def read_taught(self):
        """The `TaughtRows` of the source."""
        wanted = self.wanted
        if wanted.source == "tofu":
            return teachable.read_tofu(wanted.path, wanted.forget_split)
        if wanted.source == "muse":
            return teachable.read_muse(wanted.path, wanted.corpus)
        return teachable.read_folder(self.data, chats=self.reading.templated(self.tokenizer))

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
