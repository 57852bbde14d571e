"""Command-line options that several scripts share, each declared once: its type, its flag and its
help.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base.errors import UserError
from brittle.base.groups import DATA, GUARD, MACHINE

Model = Annotated[str, typer.Option("--model", help="Model folder or Hugging Face id.")]
ModelA = Annotated[
    str, typer.Option("--model-a", help="Model A, always the base: folder or Hugging Face id.")
]
ModelB = Annotated[
    str, typer.Option("--model-b", help="Model B, the changed model: folder or Hugging Face id.")
]
Outdir = Annotated[Path, typer.Option("--outdir", help="Folder for the results.")]
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
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, help="Texts a batch.", rich_help_panel=MACHINE)
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", min=0, max=2**32 - 1, help="Seed of every random draw.", rich_help_panel=MACHINE
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


def seed_list(seeds, seed, random):
    """[seed], or the numbers of `--seeds`; then it is said what is repeated: `random`, in words."""
    if seeds is None:
        return [seed]
    numbers = [number.strip() for number in seeds.split(",")]
    if not all(number.isdigit() for number in numbers) or len(set(numbers)) < len(numbers):
        raise UserError(
            f"--seeds {seeds}: different whole numbers separated by commas, such as 0,1,2."
        )
    print(
        f"seeds {', '.join(numbers)}: {random} are drawn anew with each; "
        "all else is not random, and the same in each."
    )
    return [int(number) for number in numbers]
