"""One unlearning run: data, method, training, saving, and measures before and after."""

import json
import shlex
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from brittle.base.disk import shown, space_line
from brittle.base.errors import UserError
from brittle.base.knobs import values
from brittle.base.layout import method_label, model_files
from brittle.base.record import Run, command_line, record_path, why_run
from brittle.data.items import SPLITS, read_items, subset
from brittle.methods.base import Method
from brittle.metrics.mcq import accuracies, right_answers
from brittle.models import find
from brittle.models.architectures import context_length
from brittle.models.load import load_model, load_tokenizer
from brittle.models.logprobs import mean_nll
from brittle.training import cost, distributed, fitting, keep
from brittle.training.checkpoint import Checkpoints
from brittle.training.kl_budget import KLBudget
from brittle.training.steps import AfterStep
from brittle.unlearning import effect, saving
from brittle.unlearning.card import model_card
from brittle.unlearning.collapse import CollapseCheck, neutral_texts
from brittle.unlearning.job import Job
from brittle.unlearning.sets import describe_sets, known_texts, read_sets
from brittle.unlearning.spent import with_teacher


def describe_replaced(folder, command):
    """A line on the model in `folder` where another command or other data made it, else None."""
    if not folder.is_dir():
        return None
    output = folder / "training_history.csv"
    try:
        old = json.loads(record_path(output).read_text(encoding="utf-8"))["command"]
        shown = " ".join(shlex.join(old).split())
    except (OSError, ValueError, KeyError, TypeError):
        how = "has no record of how it was made"
    else:
        if without_resume(old) != without_resume(command):
            how = f"was made by: {shown}"
        elif why := why_run(output, old):
            how = f"was made by the same command, but {why}"
        else:
            return None
    return f"note: {folder} is replaced at the end; it {how}. --name TAG keeps both."


def without_resume(command):
    return [word for word in command if word != "--resume"]


def notes_before(job):
    """What to know before the training, each a line."""
    texts, notes = job.texts, []
    replaced = describe_replaced(job.folder, command_line())
    if replaced:
        notes.append(replaced)
    if hasattr(job.rule, "refusals") and any(isinstance(row, str) for row in texts.forget):
        notes.append(
            f"note: {texts.forget_path} does not say where its answers begin: a refusal replaces "
            "what follows the last '?' or ':', else the second half. Give prompt and answer."
        )
    if set(texts.forget) <= set(texts.retain):
        notes.append(
            "note: every forget text is also a retain text, so what is forgotten is also kept "
            f"({texts.forget_path}, {texts.retain_path})."
        )
    return notes


def summary(result):
    """The lines at the end of a run.

    Accuracies, or where there were no questions the NLL on the texts kept out of training.
    """
    if result.after:
        return [
            f"{split}: {result.before[split]:.3f} -> {accuracy:.3f}"
            for split, accuracy in result.after.items()
        ]
    lines = [
        f"held-out {name} NLL a token: {before:.3f} -> {after:.3f}"
        for name, (before, after) in result.held_nll.items()
        if before is not None and after is not None
    ]
    missing = "" if lines else "; no text was kept out of training, so no NLL"
    return [*lines, f"no mcq_*.jsonl beside the texts, so no accuracies{missing}"]


class Measured(NamedTuple):
    """A model's {split: accuracy} and {set: held-out NLL a token, or None}.

    forget_rights: 1 for each forget question that it answered rightly, else 0.
    """

    accuracy: dict
    nll: dict
    forget_rights: list


class RunResult(NamedTuple):
    """What a run measured before and after, and notes for the reader."""

    before: dict
    after: dict
    held_nll: dict  # {set: (before, after)}
    notes: list


def run(job, device, *, resume=False, trust_remote_code=False):
    """Train and save. Returns a RunResult; None on a process that is not the main one of several.

    Nothing is saved from a run that breaks. Raises UserError for what does not go together.
    """
    from brittle.training.loop import make_accelerator

    job.wrappers.check(job.method, job.rule)
    accelerator = make_accelerator(device)
    if accelerator.num_processes > 1:
        device = accelerator.device
        check_processes(job, resume)
    questions = question_files(job.texts.data)
    items = {split: read_items(path) for split, path in questions.items()}
    session = Training(job, accelerator, device, items, resume, trust_remote_code)
    if not accelerator.is_main_process:  # only the main process writes
        session.run(None)
        return None
    for line in notes_before(job):
        print(line, file=sys.stderr)
    print(space_note(job), flush=True)
    inputs = [*job.data_files(), *questions.values(), *job.default_files]
    inputs += [*job.method_files, *job.text_files]
    models = {"model": str(job.model_folder), **job.rule.beside}
    # opened before the training: a folder that cannot be written is found now, and the inputs'
    # hashes are of what is read
    with Run(job.folder, inputs, models, job.seed, whole=True) as out:
        result = session.run(out)
    for folder in (job.checkpoint, job.best):
        shutil.rmtree(folder, ignore_errors=True)
    return result


def space_note(job):
    """A line on what will be written. Raises UserError where the disk cannot hold it."""
    size, checkpoint = saving.size_to_save(job.model_folder, job.wrappers.save_dtype)
    line = space_line("the unlearned model", size, job.folder)
    if job.save_every:
        line += f"; a checkpoint on the way up to {shown(checkpoint)} (--save-every 0: none)"
    return f"{line}."


def check_processes(job, resume):
    """Raise UserError for what does not run in several processes."""
    job.wrappers.check_processes(job.method, job.rule)
    if resume:
        raise UserError("--resume works in one process only. Leave accelerate launch out.")


def question_files(data):
    """{split: path} of the multiple-choice questions in the folder `data`, where they are there."""
    files = {split: data / f"mcq_{split}.jsonl" for split in SPLITS}
    return {split: path for split, path in files.items() if path.is_file()}


@dataclass
class Training:
    """The steps of one run in this process, in the order of `run`.

    Each step uses what those before it made.
    """

    job: Job
    accelerator: Any
    device: Any
    items: dict  # {split: multiple-choice items}
    resume: bool
    trust_remote_code: bool

    def run(self, out):
        """Train, measure and save into the Run `out`.

        None is passed on processes that are not the main one: they save nothing.
        """
        self.load()
        self.read_texts()
        self.start_streams()
        before = self.measure()
        self.prepare_checks(before)
        about = self.describe(out)
        history, wrapped = self.train(about)
        notes = [end.finish() for end in (self.keeper, self.budget) if end]
        self.model.eval()
        after = self.measure()
        signs, measures = self.collapse.check(self.model, after.nll["forget"])
        if signs:
            notes.append(effect.collapsed_note(signs, self.settings, self.job.rule))
        elif self.job.rule.unlearns and (words := self.unmoved(before, after)):
            notes.append(effect.nothing_note(words, self.settings))
        self.gather()
        if out is None:
            return None
        notes.append(self.save_model(out, wrapped))
        nll = {name: (before.nll[name], after.nll[name]) for name in self.sets}
        notes = [note for note in notes if note]
        result = RunResult(before.accuracy, after.accuracy, nll, notes)
        self.write_records(out, about, result, {"signs": signs, **measures}, history)
        return result

    def load(self):
        self.model = self.load_model(self.job.model_folder)
        self.tokenizer = load_tokenizer(self.job.model_folder, self.trust_remote_code)

    def load_model(self, folder):
        """float32 master weights: at lr 1e-5 most bfloat16 weights would never move."""
        return load_model(folder, self.device, "float32", self.trust_remote_code)

    def read_texts(self):
        """The texts as examples."""
        job = self.job
        length = min(job.settings.get("max_length", 512), context_length(self.model.config))
        self.sets = read_sets(job, self.tokenizer, length)
        described = describe_sets(self.sets, job.reading, self.tokenizer)
        if described and self.accelerator.is_main_process:
            print(described, flush=True)

    def start_streams(self):
        """Streams over the texts that were read, and settings as long as the method plans."""
        job = self.job
        size = job.settings.get("batch_size", 4)
        micro_batches = job.settings.get("grad_accum", 1) * self.accelerator.num_processes
        self.streams = fitting.make_streams(
            self.sets,
            self.tokenizer,
            size,
            micro_batches,
            job.seed,
            self.device,
            by_length=job.rule.by_length,
        )
        self.settings = fitting.make_settings(
            job.rule, job.settings, self.streams, seed=job.seed, save_every=job.save_every
        )
        # blocks that the model has not are refused before anything is measured
        job.rule.trains(self.model)

    def accuracies(self, model, items):
        """{split: accuracy} of a model, asked as the job says."""
        return accuracies(model, self.tokenizer, items, self.job.reading)

    def measure(self):
        """Accuracies on the questions, and the NLL a token on the texts kept out of training."""
        rights = right_answers(self.model, self.tokenizer, None, self.items, self.job.reading)
        accuracy = {split: sum(right) / len(right) for split, right in rights.items()}
        nll = {
            name: mean_nll(self.model, held, self.tokenizer.pad_token_id)
            for name, (_, held) in self.sets.items()
        }
        return Measured(accuracy, nll, rights.get("forget", []))

    def prepare_checks(self, before):
        """What the trained model is compared with: for collapse, for an effect, for --keep best."""
        neutral = neutral_texts(self.job.texts)
        nll = before.nll["forget"]
        self.collapse = CollapseCheck(
            self.model,
            self.tokenizer,
            neutral.rows,
            self.items,
            neutral.words,
            nll,
            self.job.reading,
        )
        held_out, pad = self.sets["forget"][1], self.tokenizer.pad_token_id
        nlls = [mean_nll(self.model, [text], pad) for text in held_out]
        entities = [example.entity or number for number, example in enumerate(held_out)]
        forget_items = self.items.get("forget", [])
        self.noise = effect.noise_of(before.forget_rights, forget_items, nlls, entities)
        self.keeper = self.make_keeper(before.accuracy)
        self.before = before

    def unmoved(self, before, after):
        """What of the forget set moved by less than its noise; see `effect.unmoved`."""
        accuracy = (before.accuracy.get("forget"), after.accuracy.get("forget"))
        return effect.unmoved(accuracy, (before.nll["forget"], after.nll["forget"]), self.noise)

    def make_quarter_check(self):
        """What says on the way that nothing moves; None where the method makes its weights only
        after the training.
        """
        if type(self.job.rule).fit is not Method.fit:
            return None
        before, questions = self.before, self.items.get("forget", [])
        some = subset(questions, effect.QUESTIONS, self.job.seed)
        right_of = {id(item): r for item, r in zip(questions, before.forget_rights, strict=True)}
        rights = [right_of[id(item)] for item in some]
        noise = self.noise._replace(accuracy=effect.noise_of(rights, some, [], []).accuracy)
        held, pad = self.sets["forget"][1], self.tokenizer.pad_token_id

        def measure():
            accuracy = None
            if some:
                asked = self.accuracies(self.model, {"forget": some})["forget"]
                accuracy = (sum(rights) / len(rights), asked)
            nll = (before.nll["forget"], mean_nll(self.model, held, pad))
            return effect.unmoved(accuracy, nll, noise)

        def say(words, step):
            if self.accelerator.is_main_process:
                note = effect.still_note(words, step, self.settings, self.job.rule)
                print(f"note: {note}", file=sys.stderr, flush=True)

        return effect.QuarterCheck(self.settings.steps, self.model, measure, say)

    def make_keeper(self, accuracy):
        """What evaluates on the way and keeps weights by --rule; None without --eval-every."""
        wrappers = self.job.wrappers
        if not wrappers.eval_every:
            return None
        some = {split: subset(rows, 200, self.job.seed) for split, rows in self.items.items()}
        rule, levels = None, {"base": accuracy}
        if wrappers.keep == "best":
            rule = keep.Rule(wrappers.rule)
            if wrappers.filtered:
                filtered = self.load_model(find.model_folder(wrappers.filtered))
                levels["filtered"] = self.accuracies(filtered, some)
            if "teacher" in rule.names() and "teacher" in self.job.rule.beside:
                teacher = self.load_model(self.job.rule.beside["teacher"])
                levels["teacher"] = self.accuracies(teacher, some)
            keep.check_rule(rule, levels, self.items)

        def evaluate():
            return self.accuracies(self.model, some)

        return keep.Keeper(evaluate, wrappers.eval_every, self.model, rule, levels, self.job.best)

    def describe(self, out):
        """What determines the run: a checkpoint of other values is not this run's."""
        job = self.job

        def hashes(paths):
            if out is None:
                return {}
            return {Path(path).name: out.read[str(path)]["sha256"] for path in paths}

        return {
            "method": job.method,
            "method_file": hashes(job.method_files),
            "knobs": values(job.rule),
            "wrappers": values(job.wrappers),
            "reading": asdict(job.reading),
            "model": hashes(model_files(job.model_folder)),
            "data": hashes(job.data_files()),
            "eval_split": job.eval_split,
            "examples": [len(self.sets[name][0]) for name in ("forget", "retain")],
        }

    def hooks(self):
        """What acts around the steps beside the method's and the wrappers' own."""
        job = self.job
        hooks = [hook for hook in (self.make_quarter_check(), self.keeper) if hook]
        if job.track and self.accelerator.is_main_process:
            hooks.append(AfterStep(lambda step, row: job.track(row)))
        return hooks

    def train(self, about):
        """(history, the PEFT model around the model or None)."""
        job = self.job
        self.budget = budget = self.make_kl_budget()
        makes_at_the_end = type(job.rule).fit is not Method.fit
        fit = fitting.Fit(
            self.model,
            job.rule,
            job.wrappers,
            self.streams,
            self.settings,
            self.accelerator,
            hooks=[*([budget] if budget and not makes_at_the_end else []), *self.hooks()],
            checkpoints=Checkpoints(job.checkpoint, self.resume, about),
            label=method_label(job.method),
        )
        if budget and makes_at_the_end:
            budget.keep_start()
        started = time.monotonic()
        history, wrapped = fit.run()
        if budget and makes_at_the_end:
            budget.shorten(one_step=job.rule.one_step, step=job.rule.last_step)
        seconds = time.monotonic() - started
        share = job.rule.marked(len(job.texts.forget)) / known_texts(job.texts)
        taught_by = job.rule.beside if job.rule.unlearns else {}  # a control reads a length alone
        self.cost = with_teacher(
            cost.described(fit.flops(history), seconds, share), job.model_folder, taught_by
        )
        return history, wrapped

    def make_kl_budget(self):
        """What ends the training at `--kl-budget`; None without it."""
        budget = self.job.wrappers.kl_budget
        if not budget:
            return None
        return KLBudget(self.model, lambda: self.collapse.kl(self.model), budget)

    def gather(self):
        """The whole model again, where it is sharded: on the main process, None on the others."""
        if distributed.is_sharded(self.model):
            self.model = distributed.gathered(
                self.model, self.job.model_folder, self.trust_remote_code, self.accelerator
            )

    def save_model(self, out, wrapped):
        """Save the weights. Returns a warning, or None."""
        wrappers, folder = self.job.wrappers, self.job.model_folder
        dtype = saving.dtype_of(folder, wrappers.save_dtype)
        adapter = wrappers.save_adapter == "yes"
        return saving.save(out, folder, self.model, wrapped, dtype, adapter=adapter)

    def write_records(self, out, about, result, collapse, history):
        """The model card, the training history, and the settings in the run's record."""
        training = {k: v for k, v in vars(self.settings).items() if k != "save_every"}
        out.settings = {
            "knobs": about["knobs"],
            **({"method_file": about["method_file"]} if about["method_file"] else {}),
            "wrappers": about["wrappers"],
            "reading": about["reading"],
            "accuracy": {"before": result.before, "after": result.after},
            "held_out_nll": result.held_nll,
            "collapse": collapse,
            "cost": self.cost,
            "notes": result.notes,
            **training,
        }
        text = model_card(self.job, training, about, result)
        out.path("README.md").write_text(text, encoding="utf-8")
        columns = list(dict.fromkeys(key for row in history for key in row))
        rows = [{**dict.fromkeys(columns), **row} for row in history]
        out.csv("training_history.csv", columns, rows)
