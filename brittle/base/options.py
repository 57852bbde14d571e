"""Command-line options that several scripts share, each declared once: its type, its flag and its
help.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base.errors import UserError

Model = Annotated[str, typer.Option("--model", help="Model folder or Hugging Face id.")]
ModelA = Annotated[
    str, typer.Option("--model-a", help="Model A, always the base: folder or Hugging Face id.")
]
ModelB = Annotated[
    str, typer.Option("--model-b", help="Model B, the changed model: folder or Hugging Face id.")
]
Outdir = Annotated[Path, typer.Option("--outdir", help="Folder for the results.")]
ForgetText = Annotated[
    Path, typer.Option("--forget", help="Forget texts: one a line, or JSONL (of the data folder).")
]
RetainText = Annotated[
    Path, typer.Option("--retain", help="Retain texts: one a line, or JSONL (of the data folder).")
]
Data = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Folder with mcq_{forget,retain,general}.jsonl. Left out: what the model's record "
        "names, else the mini world's.",
    ),
]
MaxSamples = Annotated[
    int, typer.Option("--max-samples", min=1, help="Texts a split at most: a sample of the file.")
]
MaxLength = Annotated[
    int, typer.Option("--max-length", min=2, help="Tokens a text; longer ones are cut and counted.")
]
TextLength = Annotated[
    int | None,
    typer.Option(
        "--max-length",
        min=2,
        help="Tokens a text (default: 512, or the context); longer ones are cut and counted.",
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Texts a batch.")]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of every random draw.")
]
Seeds = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        help="Repeat what is random with each of these, such as 0,1,2 (instead of --seed).",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 ...")]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype", help="auto (float32 on CPU, bfloat16 on GPU), float32, bfloat16, float16."
    ),
]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of a hub model.")
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the Python code that a model's repository ships, with your rights. Off.",
    ),
]
Wrapper = Annotated[
    str | None,
    typer.Option(
        "--wrapper",
        help="A guard around the model, its weights untouched: regex, icl, rag, rag:prompt.",
    ),
]
WrapperRules = Annotated[
    Path | None,
    typer.Option(
        "--wrapper-rules",
        help="The guard's rules or entries (default: the forget questions of --data).",
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
