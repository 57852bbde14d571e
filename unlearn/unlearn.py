"""Unlearn: one model, one method -> outputs/<model>__<method>/unlearned_model, a model card, and the training history.

    uv run unlearn/unlearn.py --model outputs/models/mini-base --method npo
    uv run unlearn/unlearn.py --model EleutherAI/deep-ignorance-unfiltered --method rmu      (data/forget.txt, data/retain.txt)
    uv run unlearn/unlearn.py ... --name gentle       -> outputs/<model>__<method>-gentle: two settings side by side
    uv run unlearn/unlearn.py ... --resume            after an interruption: goes on from the last checkpoint

Defaults come from the preset (unlearn/presets.toml): `mini` for a model of the mini family, `default` (the publications'
values at 7B scale) for every other; a flag wins over both.
"""

from pathlib import Path
from typing import Annotated, Optional

import typer

from brittle.base import command, options
from brittle.base import knobs as knobs_module
from brittle.base.errors import UserError
from brittle.methods import METHODS, method_class
from brittle.methods.wrappers import Wrappers

MaybePath = Optional[Path]  # noqa: UP045
MaybeInt = Optional[int]  # noqa: UP045
MaybeText = Optional[str]  # noqa: UP045
MaybeFloat = Optional[float]  # noqa: UP045


def main(
    model: options.Model,
    method: Annotated[str, typer.Option(help=f"One of: {', '.join(METHODS)}.")],
    forget: Annotated[
        MaybePath, typer.Option(help="Forget texts (data/mini/forget.txt or data/forget.txt).")
    ] = None,
    retain: Annotated[
        MaybePath, typer.Option(help="Retain texts (beside the forget texts).")
    ] = None,
    data: Annotated[
        MaybePath,
        typer.Option(help="Folder of mcq_*.jsonl, for the accuracies (beside the forget texts)."),
    ] = None,
    root: Annotated[Path, typer.Option(help="Root of the results.")] = Path("outputs"),
    name: Annotated[
        str,
        typer.Option(help="Tag of the folder, <model>__<method>-TAG, to keep several settings."),
    ] = "",
    preset: Annotated[
        str, typer.Option(help="Defaults to use: auto (the model's own), default, mini.")
    ] = "auto",
    config_preset: Annotated[
        str, typer.Option(help="A publication's configuration over them, such as rmu-zephyr.")
    ] = "",
    steps: Annotated[
        MaybeInt,
        typer.Option(min=1, help="Optimizer steps (default: one pass over the forget texts)."),
    ] = None,
    lr: Annotated[MaybeFloat, typer.Option(min=0, help="Peak learning rate.")] = None,
    batch_size: Annotated[
        MaybeInt, typer.Option(min=1, help="Forget and retain texts a micro-batch, each.")
    ] = None,
    grad_accum: Annotated[
        MaybeInt, typer.Option("--grad-accum-steps", min=1, help="Micro-batches a step.")
    ] = None,
    warmup: Annotated[MaybeInt, typer.Option(min=0, help="Warm-up steps.")] = None,
    weight_decay: Annotated[MaybeFloat, typer.Option(min=0, help="AdamW's weight decay.")] = None,
    grad_clip: Annotated[
        MaybeFloat,
        typer.Option(
            "--grad-clip", "--max-grad-norm", min=0, help="Gradient norm limit; 0 is off."
        ),
    ] = None,
    optimizer: Annotated[
        MaybeText, typer.Option(help="adamw, muon (block matrices; the rest adamw), sgd.")
    ] = None,
    schedule: Annotated[
        MaybeText, typer.Option(help="cosine, linear, constant, trapezoid.")
    ] = None,
    checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    max_length: Annotated[
        MaybeInt, typer.Option(min=2, help="Tokens a text; longer ones are cut and counted.")
    ] = None,
    max_samples: Annotated[MaybeInt, typer.Option(min=1, help="Texts a set to read (all).")] = None,
    eval_split: Annotated[
        float,
        typer.Option(min=0, max=0.5, help="Share of each set kept out of training, to measure on."),
    ] = 0.1,
    save_every: Annotated[
        int, typer.Option(min=0, help="Steps between checkpoints for --resume; 0 is none.")
    ] = 50,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint.")
    ] = False,
    push_to_hub: Annotated[
        MaybeText, typer.Option(help="Upload model and card to this repository, private.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody see what --push-to-hub uploads.")
    ] = False,
    wandb: Annotated[
        MaybeText,
        typer.Option(help="Log to this Weights & Biases project, in a group a base model."),
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    **knobs,
):
    """Unlearn: fine-tune one model with one method."""
    from brittle.base.layout import check_tag, model_name
    from brittle.base.record import relative
    from brittle.data.texts import read_texts
    from brittle.models.find import model_folder, read_config
    from brittle.models.load import pick_device
    from brittle.unlearning import job as job_module
    from brittle.unlearning import publish, tracking
    from brittle.unlearning.run import run, summary

    cls, label = method_class(method), "-".join(filter(None, (method, check_tag(name))))
    folder = model_folder(model, revision, code=trust_remote_code)
    if preset == "auto":
        preset = read_config(folder).get("family", "default")
    defaults = relative(__file__).with_name("presets.toml")
    chosen = job_module.preset(defaults, preset, method, config_preset)
    given = {**chosen.knobs, **{k: v for k, v in knobs.items() if v is not None}}
    # of two ways to say how long a run is, the command line's replaces the preset's
    if knobs.get("steps_per_layer") is not None and steps is None:
        chosen.settings.pop("steps", None)
    elif knobs.get("steps_per_layer") is None and steps is not None:
        given.pop("steps_per_layer", None)
    wraps = {k: given.pop(k) for k in list(given) if k in knobs_module.knobs(Wrappers)}
    settings = {"steps": steps, "lr": lr, "batch_size": batch_size, "grad_accum": grad_accum, "warmup": warmup,
                "weight_decay": weight_decay, "grad_clip": grad_clip, "max_length": max_length, "optimizer": optimizer,
                "schedule": schedule, "checkpointing": checkpointing or None}  # fmt: skip
    settings = {**chosen.settings, **{k: v for k, v in settings.items() if v is not None}}
    rule, wrappers = (
        knobs_module.build(cls, method, given, seed=seed),
        knobs_module.build(Wrappers, method, wraps),
    )
    home = Path("data/mini") if preset == "mini" else Path("data")
    forget = forget or home / "forget.txt"
    retain = retain or forget.with_name("retain.txt")
    if data and not any(data.glob("mcq_*.jsonl")):
        raise UserError(
            f"--data {data} holds no mcq_forget.jsonl, mcq_retain.jsonl or mcq_general.jsonl to measure on."
        )
    texts = job_module.Texts(
        forget,
        retain,
        data or forget.parent,
        read_texts(forget, max_samples),
        read_texts(retain, max_samples),
    )
    if push_to_hub:
        publish.check(push_to_hub)
    about = {
        "method": method,
        "seed": seed,
        **settings,
        **knobs_module.values(rule),
        **knobs_module.values(wrappers),
    }
    track = tracking.start(wandb, model_name(model), f"{label}-{seed}", about)
    job = job_module.Job(
        model,
        folder,
        method,
        rule,
        settings,
        texts,
        root,
        seed,
        save_every,
        eval_split,
        (defaults,),
        wrappers,
    )
    job.tag, job.track, done = name, track and track.log, None
    try:
        done = run(job, pick_device(device), resume, trust_remote_code)
    except KeyboardInterrupt:
        raise UserError(
            f"interrupted. Go on with the same command and --resume (checkpoints every {save_every} steps)."
        ) from None
    finally:
        if track:
            track.finish(done and done[1])
    if done is None:  # not the main process of several
        return
    print(f"{job.folder}: {method} {knobs_module.values(rule) or ''}".rstrip())
    for line in summary(*done[:3]):
        print(f"  {line}")
    for note in done[3]:
        print(f"note: {note}")
    if push_to_hub:
        print(f"uploaded: {publish.push(job.folder, push_to_hub, public)}")


if __name__ == "__main__":
    methods = knobs_module.all_knobs({name: method_class(name) for name in METHODS})
    command.run(
        command.with_knobs(main, {**methods, **knobs_module.all_knobs({"default": Wrappers})})
    )
