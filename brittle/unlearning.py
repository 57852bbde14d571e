"""One unlearning run: data, method, training, saving with a model card, and the accuracies before and after."""

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace

from brittle import results
from brittle.errors import UserError
from brittle.methods.base import Method, values

SETTINGS = (
    "steps",
    "lr",
    "batch_size",
    "grad_accum",
    "warmup",
    "weight_decay",
    "grad_clip",
    "max_length",
    "optimizer",
    "muon_lr",
)
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

    @property
    def folder(self):
        return results.unlearned_dir(self.root, self.model, self.method)

    @property
    def checkpoint(self):
        return self.folder.parent / "checkpoint"


def preset(path, name, method):
    """Defaults of preset `name` for `method`: .settings of training and .knobs. Raises UserError for an unknown preset."""
    table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    if name not in table:
        raise UserError(f"--preset {name}: choose auto, {', '.join(table)}.")
    merged = {k: v for k, v in table[name].items() if not isinstance(v, dict)} | table[name].get(method, {})
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


def accuracies(model, tokenizer, data):
    """{split: accuracy} over those of the three multiple-choice files that folder `data` holds."""
    from brittle import mcq

    files = {split: Path(data) / f"mcq_{split}.jsonl" for split in mcq.SPLITS}
    return {split: mcq.accuracy(model, tokenizer, mcq.read_items(path)) for split, path in files.items() if path.is_file()}


def run(job, device, resume=False, trust_remote_code=False):
    """Train and save. Returns ({split: accuracy} before, after). Nothing is saved from a run that breaks."""
    import shutil

    from brittle import mcq

    questions = [job.texts.data / f"mcq_{split}.jsonl" for split in mcq.SPLITS]
    inputs = [job.texts.forget_path, job.texts.retain_path, *(p for p in questions if p.is_file()), *job.defaults]
    # opened before the training: a folder that cannot be written is found now, and the inputs' hashes are of what is read
    with results.Run(job.folder, inputs, {"model": str(job.model_folder)}, job.seed, whole=True) as out:
        accuracies = _run(job, device, resume, trust_remote_code, out)
    shutil.rmtree(job.checkpoint, ignore_errors=True)
    return accuracies


def _run(job, device, resume, trust_remote_code, out):
    from brittle import models, text
    from brittle.train import Frozen, Settings, make_accelerator, train

    known = {f.name for f in fields(Settings)}
    accelerator = make_accelerator(device)
    # float32 master weights whatever the checkpoint's dtype: at lr 1e-5 most bfloat16 weights would never move
    model = models.load_model(job.model_folder, device, "float32", trust_remote_code)
    tokenizer = models.load_tokenizer(job.model_folder, trust_remote_code)
    length = min(job.settings.get("max_length", 512), models.context_length(model.config))
    sets = {}
    for name, texts in (("forget", job.texts.forget), ("retain", job.texts.retain)):
        ids = [i for i in text.encode(tokenizer, texts, length, f"{name} texts") if len(i) > 1]
        sets[name] = split_off(ids, job.eval_split, job.seed)
    size, accum = job.settings.get("batch_size", 4), job.settings.get("grad_accum", 1)
    one_pass = max(1, len(sets["forget"][0]) // (size * accum))
    chosen = {k: v for k, v in job.settings.items() if k in known}
    settings = Settings(**{"steps": one_pass, **chosen, "seed": job.seed, "save_every": job.save_every})
    streams = SimpleNamespace(**{
        name: text.Stream(train_ids, tokenizer.pad_token_id, size, accum, job.seed + 1 + k, device)
        for k, (name, (train_ids, _)) in enumerate(sets.items())
    })  # fmt: skip
    before = accuracies(model, tokenizer, job.texts.data)
    held = {name: mean_nll(model, ids, tokenizer.pad_token_id) for name, (_, ids) in sets.items()}
    streams.tokenizer = tokenizer
    names = job.rule.trains(model)
    if names is not None:
        models.train_only(model, names)
    reference = Frozen(model) if job.rule.needs_reference else None
    model.train()
    with accelerator.autocast():
        job.rule.start(model, reference, streams)

    cache = {}  # both streams' batches of the current step

    def loop(lr_scale=1.0, offset=None):
        """The training; or the `offset`-th of several, each with a rate and an order of texts of its own, without checkpoints."""
        if resume and offset is not None:
            raise UserError(f"{job.method} trains several times and keeps no checkpoints. Start the run without --resume.")

        def terms(step, micro, progress):
            at = step + (offset or 0) * settings.steps
            if cache.get("step") != at:
                cache.update(step=at, pairs=list(zip(streams.forget.batches(at), streams.retain.batches(at), strict=True)))
            return job.rule.losses(*cache["pairs"][micro], progress)

        return train(
            model, terms, replace(settings, lr=settings.lr * lr_scale), accelerator,
            job.checkpoint if offset is None else None, resume,
            label=job.method, about=about, combine=job.rule.combine, state=job.rule.state,
        )  # fmt: skip

    def hashes(paths):
        return {Path(p).name: out.read[str(p)]["sha256"] for p in paths}

    about = {
        "method": job.method, "knobs": values(job.rule), "model": hashes(models.model_files(job.model_folder)),
        "data": hashes([job.texts.forget_path, job.texts.retain_path]), "eval_split": job.eval_split,
        "examples": [len(sets[n][0]) for n in ("forget", "retain")],
    }  # fmt: skip
    history = job.rule.fit(loop)
    model.eval()
    after = accuracies(model, tokenizer, job.texts.data)
    held = {name: (held[name], mean_nll(model, ids, tokenizer.pad_token_id)) for name, (_, ids) in sets.items()}
    save(out, job, model, tokenizer, settings, about, before, after, held, history)
    return before, after


def save(out, job, model, tokenizer, settings, about, before, after, held, history):
    """The model in its source's dtype with card and history, into the staged folder of `out`."""
    import torch

    from brittle import models
    from brittle.card import model_card

    source = models.read_config(job.model_folder)
    dtype = source.get("dtype") or source.get("torch_dtype") or "float32"
    for parameter in model.parameters():
        if not torch.isfinite(parameter).all():
            raise UserError("the trained weights hold NaN or infinite values. Nothing was saved. Lower --lr.")
    model.to(getattr(torch, dtype))
    columns = list(dict.fromkeys(key for row in history for key in row))
    out.settings = {"knobs": about["knobs"], **{k: v for k, v in vars(settings).items() if k != "save_every"}}
    model.save_pretrained(out.stage)
    tokenizer.save_pretrained(out.stage)
    out.path("README.md").write_text(model_card(job, settings, about, before, after, held), encoding="utf-8")
    out.csv("training_history.csv", columns, [{**dict.fromkeys(columns), **row} for row in history])
