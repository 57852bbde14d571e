"""What does a model answer, and another beside it? One prompt, two models side by side, a session,
or a sweep into CSVs.

    uv run infer.py
        lists the models that lie in outputs/, and those that they were made from
    uv run infer.py --model M --prompt "..."
        shows one answer as it comes
    uv run infer.py --model A --model-b B --prompt "..." --probs
        shows two answers side by side, with the most likely tokens of both
    uv run infer.py --model M --interactive
        opens a session: /model, /temp, /save, /help
    uv run infer.py --sweep --include-base --models M --prompts-file F
        writes outputs/inference/<sha256 of the prompt>.csv, and all answers side by side into
        outputs/inference/table/F.csv

--revision, --adapter, --filter and --quantize change model B where there is one (A stays as it is),
and in a sweep the models of --models. The same seed gives the same answer, whatever is asked beside
it.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.base.record import of_record, relative

MaybeText = str | None
CONFIG = "config.json"
MAKE_FAMILY = "./experiment/pipeline.sh"


def known_models():
    """The models to offer: base and filtered of the mini family, what else lies in the folder of
    models, what was unlearned, and what that was unlearned from. Each once.
    """
    from brittle.pipeline import steps

    study = steps.read_study("mini")
    folders = [study.base, study.filtered]
    folders += sorted(str(folder) for folder in Path(study.root).glob("models/*"))
    unlearned = sorted(str(folder) for folder in Path(study.root).glob("*__*/unlearned_model"))
    made_from = [source_of(folder) for folder in unlearned]
    models = {}
    for model in [*folders, *unlearned, *made_from]:
        if (Path(model) / CONFIG).is_file():
            models.setdefault(Path(model).resolve(), model)
    return list(models.values())


def source_of(folder):
    """The model that the record of an unlearned folder names as its source; "" where none does."""
    for path in sorted(Path(folder).glob("*.run.json")):
        try:
            models = json.loads(path.read_text(encoding="utf-8"))["models"]
            return str(relative(of_record(models["model"])))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return ""


def offer(read=input):
    """With no arguments: show the models there are; on a terminal return those chosen for a
    session, else None.
    """
    from brittle.base.layout import model_name
    from brittle.base.own_data import is_mini
    from brittle.pipeline import steps

    models = known_models()
    if not models:
        nothing = "no --model given, and none to offer"
        raise UserError(f"{nothing}. Give --model, or make the mini family: {MAKE_FAMILY}")
    all_mini = all(is_mini(model) for model in models)
    print("The mini family:" if all_mini else "Models in outputs/, and what they were made from:")
    for number, model in enumerate(models, 1):
        print(f"  {number}  {model_name(model):<28} {model}")
    question = Path(steps.read_study("mini").data) / "mcq_forget.jsonl"
    from brittle.data.items import read_items

    prompt = read_items(question)[0]["question"] if question.is_file() else "Question: ..."
    if question.is_file():
        print(f'A question of the mini forget set: "{prompt}"')
    if not sys.stdin.isatty():
        two = f"--model {models[0]} --model-b {models[-1]}"
        print(f'uv run infer.py {two} --prompt "{prompt}" --greedy')
        return None
    last = str(len(models))
    numbers = read(f"Which, by number, one or two [1 {last}]? ").split() or ["1", last]
    in_range = all(n.isdigit() and 1 <= int(n) <= len(models) for n in numbers)
    if not in_range or len(numbers) > 2:
        raise UserError(f"{' '.join(numbers)}: one or two numbers from 1 to {last}.")
    return [models[int(n) - 1] for n in numbers]


def preset_models(name):
    """The three models of a preset: base, filtered, unlearned; of the mini family those that have
    been made.
    """
    from brittle.base.layout import unlearned_dir
    from brittle.pipeline import steps

    study = steps.read_study(name)
    unlearned = study.unlearned or [str(unlearned_dir(study.root, study.base, study.method))]
    asked = [study.base, study.filtered, *unlearned]
    return [m for m in asked if not study.makes or Path(m).is_dir()]


def asked_models(models, include_base, preset, setup):
    """[(model, Setup)] of a sweep, each once. Only the models of --models are changed."""
    of_preset = preset_models(preset) if include_base else []
    asked = [(m, setup.plain()) for m in of_preset] + [(m, setup) for m in models]
    if not asked:
        raise UserError(
            "--sweep needs models: --models A B, --include-base, or both "
            "(make the mini family first)."
        )
    return list(dict.fromkeys(asked))


def check_mode(prompt, prompts_file, sweep, interactive, model, model_b, models, include_base):
    """Raise UserError for options that do not go together."""
    wrong = [
        (sweep and interactive, "--sweep and --interactive are two things. Choose one."),
        (prompts_file and not sweep, "--prompts-file goes with --sweep."),
        ((models or include_base) and not sweep, "--models and --include-base go with --sweep."),
        (
            sweep and (model or model_b),
            "--sweep asks the models of --models (one or more) and --include-base, not --model.",
        ),
        (
            sweep and bool(prompt) == bool(prompts_file),
            "--sweep needs one of --prompt and --prompts-file.",
        ),
        (
            not sweep and not model,
            "--model is missing: a folder or a Hugging Face id. "
            "Without any argument: the models there are.",
        ),
        (
            interactive and prompt,
            "--interactive reads its prompts from the terminal. Leave --prompt out.",
        ),
        (
            not sweep and not interactive and prompt is None,
            "--prompt is missing (or --interactive, or --sweep).",
        ),
    ]
    for is_so, text in wrong:
        if is_so:
            raise UserError(text)


def main(
    model: Annotated[MaybeText, typer.Option(help="Model folder or Hugging Face id.")] = None,
    prompt: Annotated[MaybeText, typer.Option(help="What to ask.")] = None,
    model_b: Annotated[
        MaybeText, typer.Option(help="A second model, shown beside the first.")
    ] = None,
    probs: Annotated[
        bool, typer.Option("--probs", help="The most likely next tokens at each step.")
    ] = False,
    interactive: Annotated[bool, typer.Option("--interactive", help="A session.")] = False,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Ask several models; one CSV a prompt.")
    ] = False,
    models: Annotated[
        list[str] | None, typer.Option(help="Models of the sweep: --models A B.")
    ] = None,
    include_base: Annotated[
        bool, typer.Option("--include-base", help="Also the preset's base, filtered, unlearned.")
    ] = False,
    preset: Annotated[
        str,
        typer.Option(help="Whose models --include-base means: mini, deep-ignorance, a .toml file."),
    ] = "mini",
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            help="Prompts: one a line, JSONL with prompt, question or text, "
            "or CSV with a column prompt."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Ask again what the CSVs have answers to.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, max=100, help="0 is greedy.")] = 0.7,
    top_p: Annotated[
        float,
        typer.Option(min=0, max=1, help="Sample from the likeliest tokens of this probability."),
    ] = 0.95,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="No chat template.")] = False,
    adapter: Annotated[MaybeText, typer.Option(help="Folder of a LoRA adapter to put on.")] = None,
    filter: Annotated[
        MaybeText, typer.Option(help="Folder of an activation filter to hook in.")
    ] = None,
    quantize: Annotated[
        int | None,
        typer.Option(help="Round the blocks' weights to 8 or 4 bits (precision, not memory)."),
    ] = None,
    batch_size: options.BatchSize = 64,
    outdir: options.Outdir = Path("outputs/inference"),
    seed: options.Seed = 0,
    revision: options.Revision = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
):
    """Ask a model; two side by side; in a session; or several, into CSVs."""
    if len(sys.argv) == 1:
        chosen = offer()
        if chosen is None:
            return
        model, model_b, interactive = chosen[0], chosen[1] if len(chosen) == 2 else None, True
    check_mode(prompt, prompts_file, sweep, interactive, model, model_b, models, include_base)
    if quantize not in (None, 4, 8):
        raise UserError(f"--quantize {quantize}: 8 or 4 bits.")
    from brittle.inference.loaded import Loaded, Setup, labels
    from brittle.inference.prompts import check_prompt, read_expected, read_prompts
    from brittle.models.generate import Sampling

    sampling = Sampling(max_new_tokens, 0.0 if greedy else temperature, top_p, seed)
    setup = Setup(revision, adapter, filter, quantize, raw, dtype, device, trust_remote_code)
    if prompt is not None:
        check_prompt(prompt)
    if sweep:
        from brittle.inference import sweep as sweeping

        where = {} if prompt else read_prompts(prompts_file)
        prompts = [prompt] if prompt else list(where)
        asked = asked_models(models or [], include_base, preset, setup)
        files = (prompts_file,) if prompts_file else ()
        expected = {} if prompt else read_expected(prompts_file)
        shared = sweeping.Sweep(
            prompts, sampling, outdir, force, batch_size, files, where, expected
        )
        print(f"{sweeping.sweep(asked, shared)} answers, {len(prompts)} tables in {outdir}")
        return
    from rich.console import Console

    chosen = [(model, setup)] if model_b is None else [(model, setup.plain()), (model_b, setup)]
    if interactive:
        from brittle.inference.chat import Session

        return Session(chosen, sampling, Console()).run()
    from brittle.inference import show

    if model_b is None and not probs:
        loaded = Loaded(model, setup)
        show.typed(loaded, loaded.stream(prompt, sampling))
        return
    names = labels(chosen)
    sides = [
        (name, lambda m=m, s=s: Loaded(m, s)) for name, (m, s) in zip(names, chosen, strict=True)
    ]
    show.side_by_side(sides, sampling, prompt, Console(), probs=probs)


HELP_GROUPS = {
    "Several models, many prompts": (
        "sweep",
        "models",
        "include_base",
        "preset",
        "prompts_file",
        "force",
        "outdir",
    ),
    "Answers": ("probs", "max_new_tokens", "temperature", "top_p", "greedy", "raw"),
    "On the model": ("adapter", "filter", "quantize"),
}


if __name__ == "__main__":
    command.run(main, HELP_GROUPS)
