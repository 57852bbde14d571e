"""Make the forget and retain data: the mini world (default), WMDP-Bio and WikiText-2, or your own texts.

uv run create_datasets.py                                        -> data/mini/
uv run create_datasets.py --source wmdp                          -> data/forget.txt, data/retain.txt, data/mcq_*.jsonl
uv run create_datasets.py --forget-file A.txt --retain-file B.jsonl
"""

from pathlib import Path
from typing import Annotated, Optional

import typer

from brittle import cli
from brittle.errors import UserError

PathOption = Optional[Path]  # noqa: UP045


def main(
    source: Annotated[str, typer.Option(help="mini, wmdp, or files (implied by --forget-file).")] = "mini",
    outdir: Annotated[PathOption, typer.Option(help="Folder to write (data/mini for mini, else data).")] = None,
    seed: cli.Seed = 0,
    entities: Annotated[int, typer.Option(min=4, help="mini: entities a domain.")] = 80,
    private_entities: Annotated[int, typer.Option(min=0, help="mini: entities with private attributes a domain.")] = 8,
    forget_corpus: Annotated[str, typer.Option(help="wmdp: questions, or bio-remove (the document corpus).")] = "questions",
    wmdp_path: Annotated[PathOption, typer.Option(help="wmdp: local folder of WMDP-Bio (or of the bio-remove corpus).")] = None,
    wikitext_path: Annotated[PathOption, typer.Option(help="wmdp: local folder of WikiText-2.")] = None,
    mmlu_path: Annotated[PathOption, typer.Option(help="wmdp: local folder of MMLU, for retain and general questions.")] = None,
    max_samples: Annotated[Optional[int], typer.Option(min=1, help="Texts a file at most (all).")] = None,  # noqa: UP045
    forget_file: Annotated[PathOption, typer.Option(help="Your own forget texts: a line each, or JSONL.")] = None,
    retain_file: Annotated[PathOption, typer.Option(help="Your own retain texts: a line each, or JSONL.")] = None,
):
    """Make the forget and retain data: the mini world, WMDP-Bio with WikiText-2, or your own texts."""
    if forget_file or retain_file:
        if not (forget_file and retain_file):
            raise UserError("--forget-file and --retain-file belong together: give both.")
        source = "files"
    if source == "mini":
        from brittle.world_files import write_world

        made = write_world(outdir or Path("data/mini"), seed, entities, private_entities)
    elif source == "files":
        from brittle.sources import write_files

        if not (forget_file and retain_file):
            raise UserError("--source files needs --forget-file and --retain-file.")
        made = write_files(outdir or Path("data"), forget_file, retain_file, max_samples)
    elif source == "wmdp":
        from brittle.sources import write_wmdp

        made = write_wmdp(outdir or Path("data"), forget_corpus, wmdp_path, wikitext_path, mmlu_path, max_samples, seed)
    else:
        raise UserError(f"--source {source}: choose mini or wmdp, or give --forget-file and --retain-file.")
    for name, lines in made.items():
        print(f"{outdir or ('data/mini' if source == 'mini' else 'data')}/{name}: {lines:,} lines")


if __name__ == "__main__":
    cli.run(main)
