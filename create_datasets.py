"""Make the forget and retain data: the mini world (default), WMDP-Bio and WikiText-2, TOFU, MUSE,
or your own texts.

    uv run create_datasets.py                                        writes data/mini/
    uv run create_datasets.py --overlap 25                           writes data/mini-overlap25/
    uv run create_datasets.py --source wmdp                          writes data/
    uv run create_datasets.py --source tofu --forget-split forget10  writes data/tofu/
    uv run create_datasets.py --source muse --corpus news            writes data/muse-news/
    uv run create_datasets.py --forget-file A.txt --retain-file B.jsonl   writes data/

WMDP, TOFU and MUSE are read from the hub, or from a local folder of the same schema (--path).

`--overlap X` works for mini, tofu and muse: X % of the entities (TOFU: authors, MUSE: documents)
are in both sets, each with half of its items, so no item is in both and the sets have one size at
every X; brittle/data/overlap.py has the definitions.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, NamedTuple

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.base.places import where

PathOption = Path | None


class Source(NamedTuple):
    """A kind of data: where it lies by default, what writes it, and whether --overlap works."""

    folder: str
    write: Callable  # takes `main`'s arguments as one object; returns {file: lines}
    overlaps: bool = False


def write_mini(asked):
    from brittle.data.world_files import write_world

    sizes = (asked.entities, asked.private_entities)
    return write_world(
        asked.outdir, asked.seed, *sizes, asked.overlap, asked.overlap_of, asked.pieces
    )


def write_tofu(asked):
    from brittle.data import tofu

    overlap = {"overlap": asked.overlap, "kind": asked.overlap_of}
    limits = {"limit": asked.max_samples, "seed": asked.seed}
    if asked.rows_per_entity:
        limits["author"] = asked.rows_per_entity
    return tofu.write_tofu(asked.outdir, asked.path, asked.forget_split, **overlap, **limits)


def write_muse(asked):
    from brittle.data import muse

    overlap = {"overlap": asked.overlap, "kind": asked.overlap_of}
    limits = {"limit": asked.max_samples, "seed": asked.seed}
    return muse.write_muse(asked.outdir, asked.path, asked.corpus, **overlap, **limits)


def write_wmdp(asked):
    from brittle.data import wmdp

    paths = (asked.wmdp_path, asked.wikitext_path, asked.mmlu_path)
    limits = (asked.max_samples, asked.seed)
    return wmdp.write_wmdp(asked.outdir, asked.forget_corpus, *paths, *limits)


def write_files(asked):
    from brittle.data import own

    if not (asked.forget_file and asked.retain_file):
        raise UserError("--source files needs --forget-file and --retain-file.")
    files = {
        "forget": asked.forget_file,
        "retain": asked.retain_file,
        "holdout": asked.holdout_file,
        "general": asked.general_file,
    }
    read = own.Options(
        asked.max_samples, asked.seed, asked.passage_length, asked.rows_per_entity or 1
    )
    return own.write_own(asked.outdir, files, read)


# To add a source: a module in brittle/data/, a function above, and a line here.
SOURCES = {
    "mini": Source("data/mini", write_mini, overlaps=True),
    "wmdp": Source("data", write_wmdp),
    "tofu": Source("data/tofu", write_tofu, overlaps=True),
    "muse": Source("data/muse-{corpus}", write_muse, overlaps=True),
    "files": Source("data", write_files),
}


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
    pieces: Annotated[
        str, typer.Option(help="mini: syllables of the domains' names: shared, or disjoint.")
    ] = "shared",
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
        float | None,
        typer.Option(
            min=0, max=100, help="mini, tofu, muse: percent of entities that both sets share."
        ),
    ] = None,
    overlap_of: Annotated[
        str, typer.Option(help="mini: what they share: entities, values or both.")
    ] = "entities",
    max_samples: Annotated[
        int | None, typer.Option(min=1, help="Texts a file at most, drawn by --seed (all).")
    ] = None,
    forget_file: Annotated[
        PathOption,
        typer.Option(
            help="Your own forget set: a text a line, or JSONL with text, or question and answer."
        ),
    ] = None,
    retain_file: Annotated[
        PathOption, typer.Option(help="Your own retain set, in the same forms.")
    ] = None,
    holdout_file: Annotated[
        PathOption, typer.Option(help="Texts or questions of the forget kind, never trained on.")
    ] = None,
    general_file: Annotated[
        PathOption,
        typer.Option(help="General questions (mcq_general.jsonl) or plain texts (neutral.txt)."),
    ] = None,
    passage_length: Annotated[
        int,
        typer.Option(min=100, help="Own files: characters of a passage; longer texts are cut."),
    ] = 1500,
    rows_per_entity: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rows in a row that are one entity, where no column entity says it "
            "(own files: 1; tofu: 20).",
        ),
    ] = None,
):
    """Make the forget and retain data: the mini world, WMDP-Bio with WikiText-2, TOFU, MUSE, or
    your own texts.
    """
    asked = SimpleNamespace(**locals())
    if forget_file or retain_file or holdout_file or general_file:
        if not (forget_file and retain_file):
            raise UserError("--forget-file and --retain-file belong together: give both.")
        source = "files"
    if source not in SOURCES:
        choices = "mini, wmdp, tofu or muse, or give --forget-file and --retain-file"
        raise UserError(f"--source {source}: choose {choices}.")
    if overlap is not None and not SOURCES[source].overlaps:
        raise UserError(f"--overlap works for mini, tofu and muse, not for --source {source}.")
    if outdir is None:
        folder = SOURCES[source].folder.format(corpus=corpus)
        asked.outdir = Path(folder if overlap is None else f"{folder}-overlap{overlap:g}")
    for name, lines in SOURCES[source].write(asked).items():
        print(f"{asked.outdir}/{name}: {lines:,} lines")
    if place := where(asked.outdir):
        print(place)
    from brittle.data.abilities import describe

    for line in describe(asked.outdir):
        print(line)


HELP_GROUPS = {
    "The mini world": ("entities", "private_entities", "overlap", "overlap_of", "pieces"),
    "Your own files": (
        "forget_file",
        "retain_file",
        "holdout_file",
        "general_file",
        "passage_length",
        "rows_per_entity",
    ),
    "WMDP, TOFU and MUSE": (
        "forget_corpus",
        "wmdp_path",
        "wikitext_path",
        "mmlu_path",
        "path",
        "forget_split",
        "corpus",
    ),
}


if __name__ == "__main__":
    command.run(main, HELP_GROUPS)
