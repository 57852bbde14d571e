"""Make the forget and retain data: the mini world (default), WMDP-Bio and WikiText-2, TOFU, MUSE, or your own texts.

uv run create_datasets.py                                        -> data/mini/
uv run create_datasets.py --source wmdp                          -> data/forget.txt, data/retain.txt, data/mcq_*.jsonl
uv run create_datasets.py --source tofu --forget-split forget10  -> data/tofu/ (hub, or --path FOLDER of the same schema)
uv run create_datasets.py --source muse --corpus news            -> data/muse-news/
uv run create_datasets.py --overlap 25                           -> data/mini-overlap25/: forget and retain share 25 % of entities
uv run create_datasets.py --forget-file A.txt --retain-file B.jsonl

`--overlap X` works for mini, tofu and muse: X % of the entities (TOFU: authors, MUSE: documents) are in both sets, each with half
of its items, so no item is in both and the sets have one size at every X; brittle/data/overlap.py has the definitions.
"""

from pathlib import Path
from typing import Annotated, Optional

import typer

from brittle.base import command, options
from brittle.base.errors import UserError

PathOption = Optional[Path]  # noqa: UP045


def main(
    source: Annotated[
        str, typer.Option(help="mini, wmdp, tofu, muse, or files (implied by --forget-file).")
    ] = "mini",
    outdir: Annotated[
        PathOption, typer.Option(help="Folder to write (data/mini for mini, else data).")
    ] = None,
    seed: options.Seed = 0,
    entities: Annotated[int, typer.Option(min=4, help="mini: entities a domain.")] = 80,
    private_entities: Annotated[
        int, typer.Option(min=0, help="mini: entities with private attributes a domain.")
    ] = 8,
    forget_corpus: Annotated[
        str, typer.Option(help="wmdp: questions, or bio-remove (the document corpus).")
    ] = "questions",
    wmdp_path: Annotated[
        PathOption,
        typer.Option(help="wmdp: local folder of WMDP-Bio (or of the bio-remove corpus)."),
    ] = None,
    wikitext_path: Annotated[
        PathOption, typer.Option(help="wmdp: local folder of WikiText-2.")
    ] = None,
    mmlu_path: Annotated[
        PathOption,
        typer.Option(help="wmdp: local folder of MMLU, for retain and general questions."),
    ] = None,
    path: Annotated[
        PathOption, typer.Option(help="tofu, muse: local folder of the hub's schema.")
    ] = None,
    forget_split: Annotated[
        str, typer.Option(help="tofu: forget01, forget05 or forget10.")
    ] = "forget10",
    corpus: Annotated[str, typer.Option(help="muse: news or books.")] = "news",
    overlap: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0, max=100, help="mini, tofu, muse: percent of entities that both sets share."
        ),
    ] = None,
    overlap_of: Annotated[
        str, typer.Option(help="mini: what they share: entities, values or both.")
    ] = "entities",
    max_samples: Annotated[
        int | None, typer.Option(min=1, help="Texts a file at most (all).")
    ] = None,
    forget_file: Annotated[
        PathOption, typer.Option(help="Your own forget texts: a line each, or JSONL.")
    ] = None,
    retain_file: Annotated[
        PathOption, typer.Option(help="Your own retain texts: a line each, or JSONL.")
    ] = None,
):
    """Make the forget and retain data: the mini world, WMDP-Bio with WikiText-2, TOFU, MUSE, or your own texts."""
    if forget_file or retain_file:
        if not (forget_file and retain_file):
            raise UserError("--forget-file and --retain-file belong together: give both.")
        source = "files"
    if overlap is not None and source not in ("mini", "tofu", "muse"):
        raise UserError(f"--overlap works for mini, tofu and muse, not for --source {source}.")
    folder = {"mini": "data/mini", "tofu": "data/tofu", "muse": f"data/muse-{corpus}"}.get(
        source, "data"
    )
    outdir = outdir or Path(folder if overlap is None else f"{folder}-overlap{overlap:g}")
    if source == "mini":
        from brittle.data.world_files import write_world

        made = write_world(outdir, seed, entities, private_entities, overlap, overlap_of)
    elif source == "tofu":
        from brittle.data.tofu import write_tofu

        made = write_tofu(outdir, path, forget_split, overlap, overlap_of, max_samples, seed)
    elif source == "muse":
        from brittle.data.muse import write_muse

        made = write_muse(outdir, path, corpus, overlap, overlap_of, max_samples, seed)
    elif source == "files":
        from brittle.data.sources import write_files

        if not (forget_file and retain_file):
            raise UserError("--source files needs --forget-file and --retain-file.")
        made = write_files(outdir, forget_file, retain_file, max_samples)
    elif source == "wmdp":
        from brittle.data.wmdp import write_wmdp

        made = write_wmdp(
            outdir, forget_corpus, wmdp_path, wikitext_path, mmlu_path, max_samples, seed
        )
    else:
        raise UserError(
            f"--source {source}: choose mini, wmdp, tofu or muse, or give --forget-file and --retain-file."
        )
    for name, lines in made.items():
        print(f"{outdir}/{name}: {lines:,} lines")


if __name__ == "__main__":
    command.run(main)
