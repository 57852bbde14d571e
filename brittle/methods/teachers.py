"""The model that a student learns from: which folder is meant, and whether it fits."""

from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.layout import model_name, unlearned_dir
from brittle.models.find import model_folder

FILTERED = "filtered"


def find_teacher(teacher, job):
    """The folder that --teacher names.

    It is a folder or an id, a method (its model of the job's model, in the job's root), or
    `filtered`: the model of --filtered, else the twin that lies beside the job's model. Raises
    UserError where there is none.
    """
    from brittle.methods import METHODS

    if Path(teacher).expanduser().is_dir():
        return model_folder(teacher)
    if teacher == FILTERED:
        return model_folder(job.wrappers.filtered or twin_beside(job.model))
    if teacher in METHODS:
        folder = unlearned_dir(job.root, job.model, teacher)
        if not (folder / "config.json").is_file():
            raise UserError(
                f"--teacher {teacher}: {folder} is not there. Make it with: uv run "
                f"unlearn/unlearn.py --model {job.model} --method {teacher}"
            )
        return folder
    return model_folder(teacher)


def twin_beside(model):
    """The folder of Filtered beside a Base whose name ends with `base`. Raises UserError."""
    name = model_name(model)
    twin = Path(model).with_name(name.removesuffix("base") + FILTERED)
    if not name.endswith("base") or not twin.is_dir():
        raise UserError(
            f"--teacher {FILTERED}: no such model beside {model}. Name it with --filtered."
        )
    return str(twin)


def check_fits(teacher, model, *, whole):
    """Raise UserError where the teacher does not predict the tokens of the model.

    teacher, model: folders. whole: the student also starts from the teacher's weights.
    """
    from brittle.models.architectures import size
    from brittle.models.find import check_pair, read_config
    from brittle.models.load import load_tokenizer

    own, other = (load_tokenizer(folder).get_vocab() for folder in (model, teacher))
    sizes = [size(read_config(folder), "vocab_size") for folder in (model, teacher)]
    if own != other or sizes[0] != sizes[1]:
        raise UserError(
            f"--teacher {teacher} has another tokenizer than {model}: a student learns the "
            "probabilities of its own tokens. Give a teacher of the same family."
        )
    if whole:
        check_pair(model, teacher)
