"""A method fitted to a model: what trains, its reference, its start, and the training by the one loop."""

from dataclasses import fields, replace
from types import SimpleNamespace

from brittle.base.errors import UserError
from brittle.data.batches import Stream
from brittle.training import distributed
from brittle.training.loop import train
from brittle.training.settings import Settings


def make_streams(sets, tokenizer, size, micro_batches, seed, device):
    """.forget and .retain: endless streams over the training texts of `sets` (see sets.read_sets); and .tokenizer."""
    return SimpleNamespace(tokenizer=tokenizer, **{
        name: Stream(ids, tokenizer.pad_token_id, size, micro_batches, seed + 1 + k, device)
        for k, (name, (ids, _)) in enumerate(sets.items())
    })  # fmt: skip


def make_settings(rule, given, streams, **more):
    """Settings of training: those `given` ({name: value}), and as long as the method plans."""
    per_step = streams.forget.batch_size * streams.forget.micro_batches
    one_pass = max(1, len(streams.forget.ids) // per_step)
    known = {f.name for f in fields(Settings)}
    chosen = {k: v for k, v in given.items() if k in known}
    steps, stretches = rule.plan(chosen.pop("steps", None), one_pass)
    return Settings(**{**chosen, "steps": steps, "stretches": stretches, **more})


def fit(model, rule, wrappers, streams, settings, accelerator, *, seed=0, label="train", checkpoint=None, resume=False,
        keeper=None, about=None, track=None):  # fmt: skip
    """Train `model` by the method `rule`; `track(row)` sees each step. Returns (history, the PEFT model around it or None)."""
    world, rank = accelerator.num_processes, accelerator.process_index
    wrapped = wrappers.choose(model, rule, seed)
    if keeper:
        keeper.names = [n for n, p in model.named_parameters() if p.requires_grad]
    if world > 1 and not rule.replicates:
        distributed.shard(model, accelerator)
    reference = wrappers.reference(model, wrapped, rule)
    if settings.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    with accelerator.autocast():
        rule.start(model, reference, streams)
        mask = wrappers.mask(model, streams)
    planned = rule.budget(streams)
    if planned and label and accelerator.is_main_process:
        print(f"{label}: {planned}", flush=True)
    cache = {}  # both streams' batches of the current step

    def after_step(step, row):
        row.update(rule.measures())
        done = keeper and keeper.after_step(step, row)
        if track and accelerator.is_main_process:
            track(row)
        return done

    def phase(progress):
        with accelerator.autocast():
            return rule.phase(progress)

    def loop(lr_scale=1.0, offset=None):
        """The training; or the `offset`-th of several, each with a rate and an order of texts of its own, without checkpoints."""
        if resume and offset is not None:
            raise UserError(
                f"{label} trains several times and keeps no checkpoints. Start the run without --resume."
            )

        def terms(step, micro, progress):
            at = step + (offset or 0) * settings.steps
            if cache.get("step") != at:
                cache.update(
                    step=at,
                    pairs=list(
                        zip(streams.forget.batches(at), streams.retain.batches(at), strict=True)
                    ),
                )
            return rule.losses(*cache["pairs"][micro * world + rank], progress)

        return train(
            model, terms, replace(settings, lr=settings.lr * lr_scale), accelerator,
            checkpoint if offset is None and world == 1 else None, resume, after_step=after_step, label=label, about=about,
            combine=rule.combine, mask=mask, state=rule.state, phase=phase if rule.phased else None,
        )  # fmt: skip

    return rule.fit(loop), wrapped
