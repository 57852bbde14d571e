"""Command-line options that several scripts share, each declared once: its type, its flag and its
help.
"""

import functools
import inspect
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated

import typer

from brittle.base.errors import UserError
from brittle.base.groups import DATA, GUARD, MACHINE
from brittle.base.knobs import listed

LARGEST_SEED = 2**32 - 1

Model = Annotated[str, typer.Option("--model", help="Model folder or Hugging Face id.")]
ModelA = Annotated[
    str, typer.Option("--model-a", help="Model A, always the base: folder or Hugging Face id.")
]
ModelB = Annotated[
    str, typer.Option("--model-b", help="Model B, the changed model: folder or Hugging Face id.")
]
Outdir = Annotated[Path, typer.Option("--outdir", help="Folder for the results.")]
Base = Annotated[str, typer.Option("--base", help="The model that saw everything.")]
Filtered = Annotated[
    str | None,
    typer.Option(
        "--filtered", help="The model that never saw the forget facts. Left out: there is none."
    ),
]
UnlearnedModels = Annotated[
    list[str], typer.Option("--unlearned", help="Unlearned model (repeatable).")
]
Root = Annotated[Path, typer.Option("--root", help="Folder of all results.")]
FilterFolder = Annotated[
    Path | None, typer.Option("--filter", help="Its folder (outputs/<model>__filter/filter).")
]
ForgetText = Annotated[
    Path,
    typer.Option(
        "--forget",
        help="Forget texts: one a line, or JSONL (of the data folder).",
        rich_help_panel=DATA,
    ),
]
RetainText = Annotated[
    Path,
    typer.Option(
        "--retain",
        help="Retain texts: one a line, or JSONL (of the data folder).",
        rich_help_panel=DATA,
    ),
]
Data = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Folder with mcq_{forget,retain,general}.jsonl. Left out: what the model's record "
        "names, else the mini world's.",
        rich_help_panel=DATA,
    ),
]
Domain = Annotated[str, typer.Option("--domain", help="The domain that was to be forgotten.")]
OtherEntities = Annotated[
    int, typer.Option("--others", min=0, help="Entities of each other domain to ask about.")
]
MaxSamples = Annotated[
    int,
    typer.Option(
        "--max-samples",
        min=1,
        help="Texts a split at most: a sample of the file.",
        rich_help_panel=DATA,
    ),
]
MaxLength = Annotated[
    int,
    typer.Option(
        "--max-length",
        min=2,
        help="Tokens a text; longer ones are cut and counted.",
        rich_help_panel=DATA,
    ),
]
TextLength = Annotated[
    int | None,
    typer.Option(
        "--max-length",
        min=2,
        help="Tokens a text (default: 512, or the context); longer ones are cut and counted.",
        rich_help_panel=DATA,
    ),
]
Raw = Annotated[
    bool,
    typer.Option(
        "--raw",
        help="Leave the tokenizer's chat template out: prompt and answer as one plain text.",
        rich_help_panel=DATA,
    ),
]
System = Annotated[
    str,
    typer.Option(
        "--system", help="System message of conversations that have none.", rich_help_panel=DATA
    ),
]
AfterPrompt = Annotated[
    bool,
    typer.Option(
        "--after-prompt",
        help="Put answers behind the prompt's own tokens, where a template rewrites answers "
        "(reasoning models).",
        rich_help_panel=DATA,
    ),
]
LossOn = Annotated[
    str,
    typer.Option(
        "--loss-on",
        help="Tokens that losses count: answer (where a row has one, else all), all.",
        rich_help_panel=DATA,
    ),
]
Positions = Annotated[
    str,
    typer.Option(
        "--positions",
        help="States that representation methods move or keep: answer (those that predict its "
        "tokens), all.",
        rich_help_panel=DATA,
    ),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, help="Texts a batch.", rich_help_panel=MACHINE)
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        min=0,
        max=LARGEST_SEED,
        help="Seed of every random draw.",
        rich_help_panel=MACHINE,
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        help="Repeat what is random with each of these, such as 0,1,2 (instead of --seed).",
        rich_help_panel=MACHINE,
    ),
]
ThreeSeeds = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        help="Seeds, with commas: one repetition each (three, from --seed on).",
        rich_help_panel=MACHINE,
    ),
]
Device = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 ...", rich_help_panel=MACHINE)
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="auto (float32 on CPU, bfloat16 on GPU), float32, bfloat16, float16.",
        rich_help_panel=MACHINE,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(
        "--revision", help="Branch, tag or commit of a hub model.", rich_help_panel=MACHINE
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the Python code that a model's repository ships, with your rights. Off.",
        rich_help_panel=MACHINE,
    ),
]
KeepWeights = Annotated[
    str,
    typer.Option(
        "--keep-weights",
        help="yes, or no: delete weights of unlearned models once all that was asked is measured.",
    ),
]
Wrapper = Annotated[
    str | None,
    typer.Option(
        "--wrapper",
        help="A guard around the model, its weights untouched: regex, icl, rag, rag:prompt.",
        rich_help_panel=GUARD,
    ),
]
WrapperRules = Annotated[
    Path | None,
    typer.Option(
        "--wrapper-rules",
        help="The guard's rules or entries (default: the forget questions of --data).",
        rich_help_panel=GUARD,
    ),
]

Preset = Annotated[
    str,
    typer.Option(
        "--preset", help="mini, deep-ignorance, or a .toml file like those in experiment/presets."
    ),
]
PresetFiltered = Annotated[
    str | None,
    typer.Option(
        "--filtered",
        help="Filtered model, instead of the preset's. Left out with a base of your own: there is "
        "none.",
    ),
]
PresetData = Annotated[
    str | None,
    typer.Option("--data", help="Data folder, instead of the preset's, which is then not made."),
]
PresetRoot = Annotated[str | None, typer.Option("--root", help="Root of the results.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run and why; run nothing.")]
AcceptOlderCode = Annotated[
    bool,
    typer.Option(
        "--accept-older-code",
        help="Keep what was made by older code of brittle/; the report marks it.",
    ),
]


@dataclass
class TextPair:
    """What a comparison of two models over texts is asked first; see `spread`."""

    model_a: ModelA
    model_b: ModelB
    outdir: Outdir
    forget: ForgetText = Path("data/mini/forget.txt")
    retain: RetainText = Path("data/mini/retain.txt")


def spread(main):
    """`main(pair: TextPair, ...)` as a function of TextPair's fields and the other parameters.

    So several scripts share their first options, in order and with their defaults. It holds for
    every parameter whose type is a dataclass. The fields come in its place, by position or by name.
    """
    parameters, groups = [], {}
    for parameter in inspect.signature(main).parameters.values():
        group = parameter.annotation
        if not is_dataclass(group):
            parameters.append(parameter)
            continue
        groups[parameter.name] = group
        parameters += inspect.signature(group).parameters.values()
    signature = inspect.Signature(parameters)
    open_names = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]

    @functools.wraps(main)
    def filled(*values, **named):
        bound = signature.bind(*values, **named)
        bound.apply_defaults()
        arguments = bound.arguments
        for name in open_names:  # what **named takes
            arguments.update(arguments.pop(name, {}))
        for name, group in groups.items():
            own = {field.name: arguments.pop(field.name) for field in fields(group)}
            arguments[name] = group(**own)
        return main(**arguments)

    filled.__signature__ = signature
    filled.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return filled


def read_seeds(text):
    """The numbers of `--seeds`, for every script that takes a list of them.

    Raises UserError for anything but different whole numbers from 0 on.
    """
    values = listed(text)
    numbers = [int(value) for value in values if value.isdecimal()]
    if not values or len(set(numbers)) < len(values) or max(numbers) > LARGEST_SEED:
        raise UserError(
            f"--seeds {text}: different whole numbers separated by commas, such as 0,1,2."
        )
    return numbers


def seeds_from(text, seed, count):
    """The numbers of `--seeds`; where it is left out, `count` of them from `seed` on."""
    return read_seeds(text) if text else list(range(seed, seed + count))


def seed_list(seeds, seed, random):
    """[seed], or the numbers of `--seeds`; then it is said what is repeated: `random`, in words."""
    if seeds is None:
        return [seed]
    numbers = read_seeds(seeds)
    print(
        f"seeds {', '.join(map(str, numbers))}: {random} are drawn anew with each; "
        "all else is not random, and the same in each."
    )
    return numbers
