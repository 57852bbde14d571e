"""Distillation: fresh weights learn a teacher's predictions (Lee et al. 2025, arXiv:2506.06278).

    loss = mean KL(p_teacher || p) over next-token positions, from weights drawn anew

The teacher (--teacher) is an unlearned model; without one it is the model itself. Its outputs are
all that the student learns from: what they do not say is gone. docs/distillation.md says what they
do say.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from brittle.base.errors import UserError
from brittle.base.knobs import knob, log_range, one_of
from brittle.methods.base import Method, TextChoice

PRETRAINING = {"all": "pretrain_base.txt", "no-forget": "pretrain_filtered.txt"}
KINDS = "soft, topk:K, sampled, argmax or seen"


def rows_of(choice, texts):
    """The rows of the text that a student learns on, and their files.

    choice: all, no-forget or neutral. texts: unlearning.job.TextSets. Where the data folder has the
    pretraining text it is that, each text followed by the end token; otherwise it is the forget and
    retain texts and the neutral ones.
    """
    from brittle.data.items import read_text_rows
    from brittle.metrics.neutral import neutral_file

    pretraining = Path(texts.data) / PRETRAINING.get(choice, "")
    if pretraining.is_file():
        return TextChoice(choice, read_text_rows(pretraining), [pretraining], is_pretraining=True)
    neutral = neutral_file(texts.data)
    rows = read_text_rows(neutral) if neutral else []
    files = [neutral] if neutral else []
    if choice == "neutral":
        if not rows:
            raise UserError(f"--text neutral: {texts.data} has no neutral.txt.")
        return TextChoice(choice, rows, files)
    own = [*texts.forget, *texts.retain] if choice == "all" else texts.retain
    return TextChoice(choice, [*own, *rows], files)


@dataclass
class Distill(Method):
    kind: ClassVar[str] = "weight-space"
    reads_forget: ClassVar[bool] = False
    by_length: ClassVar[bool] = True
    starts_there: ClassVar[bool] = False  # does the student start from the teacher's weights
    teacher: str = knob(
        "",
        "The teacher: a folder, an id, a method (its model of --model in --root), filtered; the "
        "model itself where empty.",
    )
    text: str = knob(
        "all",
        "Texts to learn on: all (the pretraining text), no-forget (without the forget texts), "
        "neutral.",
        choices=("all", "no-forget", "neutral"),
        search=one_of("all", "no-forget"),
    )
    labels: str = knob("soft", f"What the teacher tells of a token: {KINDS}.")
    temperature: float = knob(
        1.0, "Divides the logits of teacher and student.", low=0.01, search=log_range(0.3, 5)
    )
    label_noise: float = knob(
        0.0, "Standard deviation of Gaussian noise on the teacher's logits.", low=0
    )

    @property
    def needs_reference(self):
        return not self.teacher

    def check(self):
        self.told()

    def told(self):
        """The labels.Labels of --labels. Raises UserError where it is none."""
        kind, _, count = self.labels.partition(":")
        is_top = kind == "topk" and count.isdigit() and int(count) > 0
        if not is_top and (count or kind not in ("soft", "sampled", "argmax", "seen")):
            raise UserError(f"--labels {self.labels}: {KINDS} is wanted, such as topk:5.")
        from brittle.methods.labels import Labels

        top = int(count) if is_top else 0
        return Labels(kind, top, self.temperature, self.label_noise, self.seed)

    def settle(self, job):
        """Find the teacher and read the texts. Raises UserError for a teacher that does not fit."""
        from brittle.methods.teachers import check_fits, find_teacher

        self.check()
        self.folder = find_teacher(self.teacher, job) if self.teacher else None
        if self.folder:
            check_fits(self.folder, job.model_folder, whole=self.starts_there)
        self.texts = rows_of(self.text, job.texts)
        self.beside = {"teacher": str(self.folder)} if self.folder else {}
        self.sizes = len(rows_of("all", job.texts).rows), len(self.texts.rows)

    def marked(self, forget):
        """How many texts had to be marked as forget texts: those that are left out."""
        return self.sizes[0] - self.sizes[1] if self.text == "no-forget" else 0

    def start(self, model, reference, data):
        super().start(model, reference, data)
        self.frozen = self.load_teacher(model)
        self.told_by = self.told()._replace(known=self.tokens_of(data, model))
        self.begin(model)

    def tokens_of(self, data, model):
        """[V]: does the token stand in one of the texts that are learned on?"""
        import torch

        known = torch.zeros(model.get_output_embeddings().weight.shape[0], dtype=torch.bool)
        texts = [*data.retain.ids, *(data.forget.ids if self.reads_forget else ())]
        known[sorted({token for ids in texts for token in ids})] = True
        return known

    def load_teacher(self, model):
        """The teacher as a model of its own; None where it is the model as it was."""
        folder = getattr(self, "folder", None)
        if folder is None:
            return None
        from brittle.models.load import load_model

        return load_model(folder, model.device, "float32").requires_grad_(requires_grad=False)

    @contextmanager
    def teaching(self):
        """The teacher, in evaluation mode and without gradients."""
        import torch

        if self.frozen is None:
            with self.reference as frozen:
                yield frozen
        else:
            with torch.no_grad():
                yield self.frozen

    def begin(self, model):
        """Write the student's first weights into `model`: drawn anew."""
        from brittle.models.initial import corrupt, initial_weights

        own = dict(model.named_parameters())
        corrupt(model, own, initial_weights(model, self.seed), alpha=1.0, beta=1.0)

    def match(self, batch):
        """Mean over the next-token positions of KL(labels || p), in nats."""
        from brittle.methods.labels import divergence
        from brittle.models.logprobs import target_mean

        with self.teaching() as teacher:
            log_q = self.told_by.of(teacher(**batch).logits, batch.index)
        now = self.model(**batch).logits
        return target_mean(divergence(now, log_q, self.temperature), batch)

    def losses(self, forget, retain, progress):
        return {"kl": self.match(retain)}
