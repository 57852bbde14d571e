"""Unlearn: one model, one method. Writes the model, its card, and the training history.

    uv run unlearn/unlearn.py --model outputs/models/mini-base --method npo
    uv run unlearn/unlearn.py --model EleutherAI/deep-ignorance-unfiltered --method rmu
    uv run unlearn/unlearn.py --model M --method path/to/mine.py:Mine     a class of your own
    uv run unlearn/unlearn.py --model M --method finetuned --like UNLEARNED     a control
    uv run unlearn/unlearn.py ... --name gentle       two settings of one method side by side
    uv run unlearn/unlearn.py ... --resume            go on from the last checkpoint

The model goes to outputs/<model>__<method>/unlearned_model, with --name TAG to
outputs/<model>__<method>-TAG. The texts are data/forget.txt and data/retain.txt, for a mini model
those of data/mini.

Defaults come from unlearn/presets.toml (--preset): `mini` for a model of the mini family, `default`
(the publications' values at 7B scale) for every other. A flag wins over both.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, groups, options
from brittle.base.errors import UserError
from brittle.base.knobs import all_knobs, show, values
from brittle.base.layout import is_method_file, method_label
from brittle.data.examples import TRAINING, TrainingReading
from brittle.methods import CONTROLS, METHODS, method_class
from brittle.methods.wrappers import Wrappers

MaybePath = Path | None
MaybeInt = int | None
MaybeText = str | None
MaybeFloat = float | None


@options.spread
def main(
    model: options.Model,
    method: Annotated[
        str, typer.Option(help=f"One of: {', '.join(METHODS)}; or path/to/mine.py:Mine.")
    ],
    forget: Annotated[
        MaybePath, typer.Option(help="Forget texts (data/mini/forget.txt or data/forget.txt).")
    ] = None,
    retain: Annotated[
        MaybePath, typer.Option(help="Retain texts (beside the forget texts).")
    ] = None,
    data: Annotated[
        MaybePath,
        typer.Option(
            help="Data folder: forget and retain texts, and mcq_*.jsonl for the accuracies."
        ),
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
    config: Annotated[
        MaybePath,
        typer.Option(help="TOML file with a table of the method, as unlearn/search.py writes."),
    ] = None,
    steps: Annotated[
        MaybeInt,
        typer.Option(min=1, help="Optimizer steps (default: one pass over the forget texts)."),
    ] = None,
    lr: Annotated[MaybeFloat, typer.Option(min=0, help="Peak learning rate.")] = None,
    lr_scan: Annotated[
        bool,
        typer.Option("--lr-scan", help="First try lr / 4, lr and 4 lr on a quarter of the steps."),
    ] = False,
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
    max_samples: Annotated[
        MaybeInt, typer.Option(min=1, help="Texts a set to train on, drawn by --seed (all).")
    ] = None,
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
    reading: TrainingReading = TRAINING,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    **knobs,
):
    """Unlearn: fine-tune one model with one method."""
    from brittle.base.layout import check_tag, model_name
    from brittle.base.record import relative
    from brittle.data.items import draw_texts
    from brittle.models.find import model_folder, read_config
    from brittle.models.load import pick_device
    from brittle.unlearning import publish, tracking
    from brittle.unlearning.job import Defaults, Job, TextSets, assemble, read_defaults, read_own

    method_class(method)
    tag = check_tag(name)
    folder = model_folder(model, revision, code=trust_remote_code)
    if preset == "auto":
        preset = read_config(folder).get("family", "default")
    default_file = relative(__file__).with_name("presets.toml")
    defaults = read_defaults(default_file, preset, method, config_preset)
    defaults = defaults.fitted(read_config(folder))
    if config:
        defaults = Defaults(*merge_defaults(defaults, *read_own(config, method)))
    asked = {
        "steps": steps,
        "lr": lr,
        "batch_size": batch_size,
        "grad_accum": grad_accum,
        "warmup": warmup,
        "weight_decay": weight_decay,
        "grad_clip": grad_clip,
        "max_length": max_length,
        "optimizer": optimizer,
        "schedule": schedule,
        "checkpointing": checkpointing or None,
    }
    settings, chosen = merge_defaults(defaults, asked, knobs)
    rule, wrappers = assemble(method, chosen, folder, seed)
    home = Path("data/mini") if preset == "mini" else Path("data")
    if data and any((data / name).is_file() for name in ("forget.txt", "forget.jsonl")):
        home = data
    forget = forget or set_file(home, "forget")
    retain = retain or set_file(forget.parent, "retain")
    if data and forget.parent != data and not any(data.glob("mcq_*.jsonl")):
        raise UserError(
            f"--data {data} holds no mcq_forget.jsonl, mcq_retain.jsonl or mcq_general.jsonl "
            "to measure on."
        )
    forget_texts = draw_texts(forget, max_samples, seed)
    texts = TextSets(
        forget_path=forget,
        retain_path=retain,
        data=data or forget.parent,
        forget=forget_texts.rows,
        retain=draw_texts(retain, max_samples, seed).rows,
        forget_entities=forget_texts.entities,
    )
    if push_to_hub:
        publish.check_repo(push_to_hub)
    about = {
        "method": method,
        "seed": seed,
        **settings,
        **values(rule),
        **values(wrappers),
    }
    label = method_label(method)
    label = f"{label}-{tag}" if tag else label
    tracker = tracking.start(wandb, model_name(model), f"{label}-{seed}", about)
    job = Job(
        model=model,
        model_folder=folder,
        method=method,
        rule=rule,
        settings=settings,
        texts=texts,
        root=root,
        seed=seed,
        save_every=save_every,
        eval_split=eval_split,
        default_files=(default_file, *([config] if config else [])),
        wrappers=wrappers,
        reading=reading,
        track=tracker.log if tracker else None,
        tag=name,
    )
    result = None
    try:
        from brittle.unlearning.run import run, summary

        scan_rate(job, pick_device(device), lr_scan=lr_scan, resume=resume, code=trust_remote_code)
        result = run(job, pick_device(device), resume=resume, trust_remote_code=trust_remote_code)
    except KeyboardInterrupt:
        raise UserError(
            "interrupted. Go on with the same command and --resume "
            f"(checkpoints every {save_every} steps)."
        ) from None
    finally:
        if tracker:
            tracker.finish(result.after if result else None)
    if result is None:  # not the main process of several
        return
    print(f"{job.folder}: {method} {values(rule) or ''}".rstrip())
    for line in summary(result):
        print(f"  {line}")
    for note in result.notes:
        print(f"note: {note}")
    if push_to_hub:
        print(f"uploaded: {publish.push(job.folder, push_to_hub, public=public)}")


def set_file(folder, name):
    """The texts of a set in a folder: its .jsonl where there is no .txt."""
    lines, objects = folder / f"{name}.txt", folder / f"{name}.jsonl"
    return objects if objects.is_file() and not lines.is_file() else lines


def scan_rate(job, device, *, lr_scan, resume, code):
    """With `lr_scan`, give the job the rate that a scan chooses, and print what each rate did."""
    if not lr_scan:
        return
    from brittle.unlearning.rates import scan

    if resume:
        raise UserError("--lr-scan chooses the rate before a run: leave it out, and give its --lr.")
    rate, lines = scan(job, device, trust_remote_code=code)
    for line in lines:
        print(line, flush=True)
    print(f"lr {rate:g} is taken", flush=True)
    job.settings["lr"] = rate


def merge_defaults(defaults, settings, knobs):
    """({setting: value}, {knob: value}): the defaults, under what the command line gives.

    None is what it does not give.
    """
    merged_settings, merged_knobs = dict(defaults.settings), dict(defaults.knobs)
    merged_settings |= {name: value for name, value in settings.items() if value is not None}
    merged_knobs |= {name: value for name, value in knobs.items() if value is not None}
    # of two ways to say how long a run is, the command line's replaces the default
    steps, per_layer = settings.get("steps"), knobs.get("steps_per_layer")
    if per_layer is not None and steps is None:
        merged_settings.pop("steps", None)
    elif per_layer is None and steps is not None:
        merged_knobs.pop("steps_per_layer", None)
    return merged_settings, merged_knobs


HELP_GROUPS = {
    groups.DATA: ("forget", "retain", "data", "max_length", "max_samples", "eval_split"),
    "Training": (
        "steps",
        "lr",
        "lr_scan",
        "batch_size",
        "grad_accum",
        "warmup",
        "weight_decay",
        "grad_clip",
        "optimizer",
        "schedule",
        "checkpointing",
    ),
    "Evaluations on the way": ("eval_every", "keep", "rule", "filtered"),
    groups.SAVING: (
        "root",
        "name",
        "save_every",
        "resume",
        "save_dtype",
        "save_adapter",
        "push_to_hub",
        "public",
        "wandb",
    ),
}


def named_method(arguments):
    """The method that a command line names; None where it names none that there is."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    named = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--method"]
    known = METHODS | CONTROLS
    is_known = bool(named) and (named[-1] in known or is_method_file(named[-1]))
    return named[-1] if is_known else None


def presets_of(method):
    """What the presets set for a method, for its --help."""
    from brittle.unlearning.job import read_defaults

    file = Path(__file__).with_name("presets.toml")
    listed = []
    for preset in ("default", "mini"):
        defaults = read_defaults(file, preset, method)
        values = ", ".join(
            f"{name} {show(value)}"
            for name, value in {**defaults.settings, **defaults.knobs}.items()
        )
        listed.append(f"--preset {preset} of {method}: {values}.")
    return " ".join(listed)


def parser(arguments):
    """(`main` with the flags that `arguments` need, what its --help ends with).

    The --help of one method lists the knobs of that method alone.
    """
    method = named_method(arguments)
    if method and ("--help" in arguments or method not in METHODS):
        title, listed = f"Knobs of {method_label(method)}", [method]
        epilog = presets_of(method)
    else:
        title, listed = "Knobs of the methods", METHODS
        epilog = "Knobs of one method alone: --method NAME --help."
    own = all_knobs({name: method_class(name) for name in listed})
    wrappers = all_knobs({"wrappers": Wrappers})
    with_own = command.with_knobs(main, own, title)
    return command.with_knobs(with_own, wrappers, "Wrappers, with any method"), epilog


def read_flags(arguments):
    """(`main` with its flags, the end of its --help, the mistake in a method's file or None)."""
    try:
        return *parser(arguments), None
    except UserError as error:
        return main, None, error


if __name__ == "__main__":
    flags, ending, mistake = read_flags(sys.argv[1:])
    command.run(flags, HELP_GROUPS, ending, mistake)
