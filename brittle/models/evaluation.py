"""The opening that evaluations share: find the model, put the guard around it, record what is read.

subject = Subject(model, data, device=device, wrapper=wrapper)
with evaluation(outdir, subject, [data / "private.jsonl"]) as opened:
    model, tokenizer = opened.load()
    opened.run.csv("leakage.csv", COLUMNS, rows)
"""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from brittle.base.layout import model_name
from brittle.base.record import Run
from brittle.data.examples import DEFAULT, Reading
from brittle.models import guarded, guards
from brittle.models.find import model_folder


@dataclass(frozen=True)
class Subject:
    """The model to evaluate, as the command line names it, and the guard to put around it.

    `wrapper` names the guard (`guards.GUARDS`). It reads its rules from the folder `data`, or from
    the file `wrapper_rules`. `seed` draws what the guard draws, and is the seed of the record.
    `reading` says whether a chat model is asked through its template.
    """

    model: str
    data: Path
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    revision: str | None = None
    trust_remote_code: bool = False
    wrapper: str | None = None
    wrapper_rules: Path | None = None
    reading: Reading = DEFAULT


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that has begun: the run that takes its results, and the models it may load.

    folders: {"model": folder, and each other model by its name}.
    name: the evaluated model's name, as in tables.
    """

    run: Run
    subject: Subject
    folders: dict
    guard: guards.Guard | None
    name: str

    @property
    def title(self):
        """The model's name, short enough for the title of a figure."""
        from brittle.base import figures

        return figures.short(self.name)

    def load(self, name="model"):
        """(model, tokenizer). The guard stands around the evaluated model, around no other."""
        subject, guard = self.subject, self.guard if name == "model" else None
        folder, code = self.folders[name], subject.trust_remote_code
        return guarded.load(folder, subject.device, subject.dtype, code, guard)


@contextmanager
def evaluation(outdir, subject, inputs, settings=None, **others):
    """Begin an evaluation of `subject` into `outdir`, and yield an `Evaluation`.

    inputs: the files that are read, besides the guard's. settings: what the record says of the run,
    besides the guard. others: further models by the name they have in the record; None is no model.
    Raises UserError where a model or a file is not there.
    """
    code = subject.trust_remote_code
    folders = {"model": model_folder(subject.model, subject.revision, code=code)}
    folders |= {name: model_folder(other) for name, other in others.items() if other}
    guard = guards.make(subject.wrapper, subject.data, subject.wrapper_rules, subject.seed)
    files, about = list(inputs), {**(settings or {}), **subject.reading.about()}
    if guard:
        files += guards.files(subject.wrapper, subject.data, subject.wrapper_rules)
        about |= guard.about
    models = {name: str(folder) for name, folder in folders.items()}
    with Run(outdir, files, models, subject.seed, about) as run:
        yield Evaluation(run, subject, folders, guard, model_name(subject.model))
