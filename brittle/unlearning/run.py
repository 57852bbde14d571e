"""One unlearning run: data, method, training, saving with a model card, and the accuracies before and after."""

import json
import shlex
import sys
from pathlib import Path

from brittle.base.knobs import values
from brittle.base.record import Run, command_line, record_path, why_run
from brittle.metrics.mcq import accuracies


def replaced(folder, command):
    """A line on the model in `folder` where it was made by another command, or from other data; None where there is none."""
    if not folder.is_dir():
        return None
    output = folder / "training_history.csv"
    try:
        old = json.loads(record_path(output).read_text(encoding="utf-8"))["command"]
        made = " ".join(shlex.join(old).split())
    except (OSError, ValueError, KeyError, TypeError):
        how = "has no record of how it was made"
    else:
        other = [part for part in old if part != "--resume"] != [
            part for part in command if part != "--resume"
        ]
        why = why_run(output, old)
        if not other and not why:
            return None
        how = f"was made by: {made}" if other else f"was made by the same command, but {why}"
    return f"note: {folder} is replaced at the end; it {how}. --name TAG keeps both."


def notes_before(job):
    """What to know before the training, each a line."""
    texts = job.texts
    same = "every forget text is also a retain text, so what is forgotten is also kept"
    shared = (
        f"note: {same} ({texts.forget_path}, {texts.retain_path})."
        if set(texts.forget) <= set(texts.retain)
        else None
    )
    return [line for line in (replaced(job.folder, command_line()), shared) if line]


def summary(before, after, held):
    """The lines at the end of a run: accuracies, or where there were no questions the NLL on the texts kept out of training."""
    if after:
        return [f"{split}: {before[split]:.3f} -> {after[split]:.3f}" for split in after]
    lines = [
        f"held-out {name} NLL a token: {a:.3f} -> {b:.3f}"
        for name, (a, b) in held.items()
        if None not in (a, b)
    ]
    none = "" if lines else "; no text was kept out of training, so no NLL"
    return [*lines, f"no mcq_*.jsonl beside the texts, so no accuracies{none}"]


def run(job, device, resume=False, trust_remote_code=False):
    """Train and save. Returns ({split: accuracy} before, after, {set: NLL before and after}, [notes]). Nothing is saved from
    a run that breaks."""
    import shutil

    from brittle.data.items import SPLITS, read_items
    from brittle.training import distributed
    from brittle.training.loop import make_accelerator

    job.wrappers.check(job.method, job.rule)
    questions = {split: job.texts.data / f"mcq_{split}.jsonl" for split in SPLITS}
    questions = {split: path for split, path in questions.items() if path.is_file()}
    inputs = [job.texts.forget_path, job.texts.retain_path, *questions.values(), *job.defaults]
    inputs += [job.wrappers.chat] if job.wrappers.chat else []
    accelerator = make_accelerator(device)
    if accelerator.num_processes > 1:
        distributed.check(job, resume)
    read = {split: read_items(path) for split, path in questions.items()}
    if not accelerator.is_main_process:  # only the main process writes
        return _run(job, accelerator, device, resume, trust_remote_code, None, read)
    for line in notes_before(job):
        print(line, file=sys.stderr)
    # opened before the training: a folder that cannot be written is found now, and the inputs' hashes are of what is read
    with Run(job.folder, inputs, {"model": str(job.model_folder)}, job.seed, whole=True) as out:
        done = _run(job, accelerator, device, resume, trust_remote_code, out, read)
    for folder in (job.checkpoint, job.best):
        shutil.rmtree(folder, ignore_errors=True)
    return done


def make_keeper(job, model, tokenizer, items, before, load):
    """Evaluation on the way and the rule by which weights are kept; None where neither is asked for."""
    from brittle.data.items import subset
    from brittle.training import keep

    if not job.wrappers.eval_every:
        return None
    some = {split: subset(rows, 200, job.seed) for split, rows in items.items()}
    rule, levels = None, {"base": before}
    if job.wrappers.keep == "best":
        rule = keep.Rule(job.wrappers.rule)
        if job.wrappers.filtered:
            levels["filtered"] = accuracies(load(job.wrappers.filtered), tokenizer, some)
        keep.check(rule, levels, items)
    return keep.Keeper(
        lambda: accuracies(model, tokenizer, some),
        job.wrappers.eval_every,
        model,
        rule,
        levels,
        job.best,
    )


def _run(job, accelerator, device, resume, trust_remote_code, out, items):
    from brittle.base.layout import model_files
    from brittle.models import find
    from brittle.models.architectures import context_length
    from brittle.models.load import load_model, load_tokenizer
    from brittle.models.logprobs import mean_nll
    from brittle.training import distributed, fitting
    from brittle.unlearning import card, saving
    from brittle.unlearning.collapse import Guard, neutral_texts
    from brittle.unlearning.sets import read_sets

    world = accelerator.num_processes
    device = accelerator.device if world > 1 else device
    # float32 master weights whatever the checkpoint's dtype: at lr 1e-5 most bfloat16 weights would never move
    model = load_model(job.model_folder, device, "float32", trust_remote_code)
    tokenizer = load_tokenizer(job.model_folder, trust_remote_code)
    sets = read_sets(
        job, tokenizer, min(job.settings.get("max_length", 512), context_length(model.config))
    )
    size, accum = job.settings.get("batch_size", 4), job.settings.get("grad_accum", 1)
    streams = fitting.make_streams(sets, tokenizer, size, accum * world, job.seed, device)
    settings = fitting.make_settings(
        job.rule, job.settings, streams, seed=job.seed, save_every=job.save_every
    )
    job.rule.trains(model)  # blocks that the model has not are refused before anything is measured
    before = accuracies(model, tokenizer, items)
    held = {name: mean_nll(model, ids, tokenizer.pad_token_id) for name, (_, ids) in sets.items()}
    guard = Guard(model, tokenizer, neutral_texts(job.texts), items)
    keeper = make_keeper(job, model, tokenizer, items, before, lambda name: load_model(
        find.model_folder(name), device, "float32", trust_remote_code))  # fmt: skip

    def hashes(paths):
        return {Path(p).name: out.read[str(p)]["sha256"] for p in paths} if out else {}

    about = {
        "method": job.method, "knobs": values(job.rule), "wrappers": values(job.wrappers),
        "model": hashes(model_files(job.model_folder)),
        "data": hashes([job.texts.forget_path, job.texts.retain_path, *([job.wrappers.chat] if job.wrappers.chat else [])]),
        "eval_split": job.eval_split, "examples": [len(sets[n][0]) for n in ("forget", "retain")],
    }  # fmt: skip
    history, wrapped = fitting.fit(
        model, job.rule, job.wrappers, streams, settings, accelerator, seed=job.seed, label=job.method,
        checkpoint=job.checkpoint, resume=resume, keeper=keeper, about=about, track=job.track,
    )  # fmt: skip
    notes = [keeper.finish()] if keeper else []
    model.eval()
    after = accuracies(model, tokenizer, items)
    held = {
        name: (held[name], mean_nll(model, ids, tokenizer.pad_token_id))
        for name, (_, ids) in sets.items()
    }
    signs, measures = guard.check(model, held["forget"][1])
    notes += [f"collapsed, not unlearned: {'; '.join(signs)}."] if signs else []
    if distributed.is_sharded(model):
        model = distributed.gathered(model, job.model_folder, trust_remote_code, accelerator)
    if not out:
        return None
    dtype = saving.dtype_of(find.read_config(job.model_folder), job.wrappers.save_dtype)
    notes.append(
        saving.save(
            out,
            job.model_folder,
            model,
            wrapped,
            tokenizer,
            dtype,
            job.wrappers.save_adapter == "yes",
        )
    )
    notes = [note for note in notes if note]
    columns = list(dict.fromkeys(key for row in history for key in row))
    out.settings = {
        "knobs": about["knobs"], "wrappers": about["wrappers"], "accuracy": {"before": before, "after": after},
        "held_out_nll": held, "collapse": {"signs": signs, **measures}, "notes": notes,
        **{k: v for k, v in vars(settings).items() if k != "save_every"},
    }  # fmt: skip
    text_of_card = card.model_card(job, settings, about, before, after, held, notes)
    out.path("README.md").write_text(text_of_card, encoding="utf-8")
    out.csv("training_history.csv", columns, [{**dict.fromkeys(columns), **row} for row in history])
    return before, after, held, notes
