"""One unlearning run: data, method, training, saving with a model card, and the accuracies before and after."""

import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import SimpleNamespace

from brittle import results
from brittle.errors import UserError
from brittle.methods.base import Method, values
from brittle.wrappers import Wrappers

SETTINGS = ("steps", "lr", "batch_size", "grad_accum", "warmup", "weight_decay", "grad_clip", "max_length", "optimizer",
            "muon_lr", "schedule", "checkpointing")  # fmt: skip
HELD_OUT_BATCH = 64


@dataclass
class Texts:
    """Paths and contents of the forget and retain sets; `data` is the folder with mcq_*.jsonl, used where they are there."""

    forget_path: Path
    retain_path: Path
    data: Path
    forget: list[str]
    retain: list[str]


@dataclass
class Job:
    """Everything that determines the result of a run."""

    model: str
    model_folder: Path
    method: str
    rule: Method
    settings: dict
    texts: Texts
    root: Path
    seed: int = 0
    save_every: int = 50
    eval_split: float = 0.1
    defaults: tuple = ()  # files that the settings and knobs came from
    wrappers: Wrappers = field(default_factory=Wrappers)

    @property
    def folder(self):
        return results.unlearned_dir(self.root, self.model, self.method)

    @property
    def checkpoint(self):
        return self.folder.parent / "checkpoint"

    @property
    def best(self):
        return self.folder.parent / "best"


def preset(path, name, method, config=""):
    """Defaults of preset `name` for `method`, under those of the published configuration `config` where one is named:
    .settings of training and .knobs. Raises UserError for an unknown one."""
    table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    configs = table.pop("config")
    if name not in table:
        raise UserError(f"--preset {name}: choose auto, {', '.join(table)}.")
    merged = {k: v for k, v in table[name].items() if not isinstance(v, dict)} | table[name].get(method, {})
    if config:
        if config not in configs:
            raise UserError(f"--config-preset {config}: choose {', '.join(configs)}.")
        chosen = {k: v for k, v in configs[config].items() if k != "source"}
        if chosen.pop("method") != method:
            raise UserError(f"--config-preset {config} is for --method {configs[config]['method']}.")
        merged |= chosen
    return SimpleNamespace(
        settings={k: v for k, v in merged.items() if k in SETTINGS}, knobs={k: v for k, v in merged.items() if k not in SETTINGS}
    )


def split_off(ids, share, seed):
    """(training, held out): a seeded `share` of the examples is never trained on; at least one stays to train."""
    import torch

    count = min(int(len(ids) * share), len(ids) - 1)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed)).tolist()
    held = set(order[:count])
    return [x for i, x in enumerate(ids) if i not in held], [ids[i] for i in sorted(held)]


def mean_nll(model, ids, pad_id):
    """Mean NLL a token over `ids`, or None where there are none."""
    import torch

    from brittle.losses import nll
    from brittle.text import batches

    total = count = 0
    with torch.no_grad():
        for _, batch in batches(ids, pad_id, HELD_OUT_BATCH, model.device):
            total, count = total + nll(model, batch).item() * batch.n_targets, count + batch.n_targets
    return total / count if count else None


def accuracies(model, tokenizer, items):
    """{split: accuracy} of multiple-choice items {split: items}."""
    from brittle import mcq

    return {split: mcq.accuracy(model, tokenizer, rows) for split, rows in items.items()}


def run(job, device, resume=False, trust_remote_code=False):
    """Train and save. Returns ({split: accuracy} before, after, [notes]). Nothing is saved from a run that breaks."""
    import shutil

    from brittle import distributed, mcq
    from brittle.train import make_accelerator

    job.wrappers.check(job.method, job.rule)
    questions = {split: job.texts.data / f"mcq_{split}.jsonl" for split in mcq.SPLITS}
    questions = {split: path for split, path in questions.items() if path.is_file()}
    inputs = [job.texts.forget_path, job.texts.retain_path, *questions.values(), *job.defaults]
    accelerator = make_accelerator(device)
    if accelerator.num_processes > 1:
        distributed.check(job, resume)
    read = {split: mcq.read_items(path) for split, path in questions.items()}
    if not accelerator.is_main_process:  # only the main process writes
        return _run(job, accelerator, device, resume, trust_remote_code, None, read)
    # opened before the training: a folder that cannot be written is found now, and the inputs' hashes are of what is read
    with results.Run(job.folder, inputs, {"model": str(job.model_folder)}, job.seed, whole=True) as out:
        done = _run(job, accelerator, device, resume, trust_remote_code, out, read)
    for folder in (job.checkpoint, job.best):
        shutil.rmtree(folder, ignore_errors=True)
    return done


def read_sets(job, tokenizer, length):
    """{forget, retain: (token ids to train on, held out)}."""
    from brittle import text

    sets = {}
    for name, texts in (("forget", job.texts.forget), ("retain", job.texts.retain)):
        ids = [i for i in text.encode(tokenizer, texts, length, f"{name} texts") if len(i) > 1]
        sets[name] = split_off(ids, job.eval_split, job.seed)
    return sets


def make_keeper(job, model, tokenizer, items, before, load):
    """Evaluation on the way and the rule by which weights are kept; None where neither is asked for."""
    from brittle import keep, mcq

    if not job.wrappers.eval_every:
        return None
    some = {split: mcq.subset(rows, 200, job.seed) for split, rows in items.items()}
    rule, levels = None, {"base": before}
    if job.wrappers.keep == "best":
        rule = keep.Rule(job.wrappers.rule)
        if job.wrappers.filtered:
            levels["filtered"] = accuracies(load(job.wrappers.filtered), tokenizer, some)
        keep.check(rule, levels, items)
    return keep.Keeper(lambda: accuracies(model, tokenizer, some), job.wrappers.eval_every, model, rule, levels, job.best)


def _run(job, accelerator, device, resume, trust_remote_code, out, items):
    from brittle import card, distributed, models, saving, text
    from brittle.guard import Guard, neutral_texts
    from brittle.train import Settings, train

    world, rank = accelerator.num_processes, accelerator.process_index
    device = accelerator.device if world > 1 else device
    # float32 master weights whatever the checkpoint's dtype: at lr 1e-5 most bfloat16 weights would never move
    model = models.load_model(job.model_folder, device, "float32", trust_remote_code)
    tokenizer = models.load_tokenizer(job.model_folder, trust_remote_code)
    sets = read_sets(job, tokenizer, min(job.settings.get("max_length", 512), models.context_length(model.config)))
    size, accum = job.settings.get("batch_size", 4), job.settings.get("grad_accum", 1)
    one_pass = max(1, len(sets["forget"][0]) // (size * accum * world))
    known = {f.name for f in fields(Settings)}
    chosen = {k: v for k, v in job.settings.items() if k in known}
    settings = Settings(**{"steps": one_pass, **chosen, "seed": job.seed, "save_every": job.save_every})
    streams = SimpleNamespace(tokenizer=tokenizer, **{
        name: text.Stream(train_ids, tokenizer.pad_token_id, size, accum * world, job.seed + 1 + k, device)
        for k, (name, (train_ids, _)) in enumerate(sets.items())
    })  # fmt: skip
    before = accuracies(model, tokenizer, items)
    held = {name: mean_nll(model, ids, tokenizer.pad_token_id) for name, (_, ids) in sets.items()}
    guard = Guard(model, tokenizer, neutral_texts(job.texts), items)
    keeper = make_keeper(job, model, tokenizer, items, before, lambda name: models.load_model(
        models.model_folder(name), device, "float32", trust_remote_code))  # fmt: skip
    wrapped = job.wrappers.choose(model, job.rule, job.seed)
    if world > 1:
        distributed.shard(model, accelerator)
    reference = job.wrappers.reference(model, wrapped, job.rule)
    if settings.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    with accelerator.autocast():
        job.rule.start(model, reference, streams)
        mask = job.wrappers.mask(model, streams)

    def hashes(paths):
        return {Path(p).name: out.read[str(p)]["sha256"] for p in paths} if out else {}

    about = {
        "method": job.method, "knobs": values(job.rule), "wrappers": values(job.wrappers),
        "model": hashes(models.model_files(job.model_folder)),
        "data": hashes([job.texts.forget_path, job.texts.retain_path]), "eval_split": job.eval_split,
        "examples": [len(sets[n][0]) for n in ("forget", "retain")],
    }  # fmt: skip
    cache = {}  # both streams' batches of the current step

    def loop(lr_scale=1.0, offset=None):
        """The training; or the `offset`-th of several, each with a rate and an order of texts of its own, without checkpoints."""
        if resume and offset is not None:
            raise UserError(f"{job.method} trains several times and keeps no checkpoints. Start the run without --resume.")

        def terms(step, micro, progress):
            at = step + (offset or 0) * settings.steps
            if cache.get("step") != at:
                cache.update(step=at, pairs=list(zip(streams.forget.batches(at), streams.retain.batches(at), strict=True)))
            return job.rule.losses(*cache["pairs"][micro * world + rank], progress)

        return train(
            model, terms, replace(settings, lr=settings.lr * lr_scale), accelerator,
            job.checkpoint if offset is None and world == 1 else None, resume, after_step=keeper and keeper.after_step,
            label=job.method, about=about, combine=job.rule.combine, mask=mask, state=job.rule.state,
        )  # fmt: skip

    history = job.rule.fit(loop)
    notes = [keeper.finish()] if keeper else []
    model.eval()
    after = accuracies(model, tokenizer, items)
    held = {name: (held[name], mean_nll(model, ids, tokenizer.pad_token_id)) for name, (_, ids) in sets.items()}
    signs, measures = guard.check(model, held["forget"][1])
    notes += [f"collapsed, not unlearned: {'; '.join(signs)}."] if signs else []
    if world > 1:
        model = distributed.gathered(model, job.model_folder, trust_remote_code, accelerator)
    if not out:
        return None
    dtype = saving.dtype_of(models.read_config(job.model_folder), job.wrappers.save_dtype)
    notes.append(saving.save(out, job.model_folder, model, wrapped, tokenizer, dtype, job.wrappers.save_adapter == "yes"))
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
    return before, after, notes
