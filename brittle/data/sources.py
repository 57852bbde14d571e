"""Data from outside: data sets of the hub through `datasets`, and how a folder is written.

A data set is read from the hub or from a local folder of the same schema.
"""

from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.record import Run
from brittle.data.items import SPLITS, entity_of, sidecar
from brittle.data.rows import framed
from brittle.data.texts import write_jsonl, write_lines
from brittle.data.tokens import join
from brittle.data.world import Draws

READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
LISTS = ("choices", "perturbed_answer")
QUESTION = ("question", "answer")


def load_rows(source, path, columns, read, *, exact=False):
    """The rows of a data set, each with `columns`.

    `source` is (hub id, configuration, split). The rows come from `path`, a folder with parquet,
    JSONL or CSV files, or, where it is None, from the hub. Local files are added to the list
    `read`. `exact` takes only files that are named after the configuration and split. Raises
    UserError where there are no such files, rows or columns.
    """
    import datasets

    name, config, split = source
    datasets.disable_progress_bars()
    # the errors below say in one line what it would log
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    if path is not None:
        files = (_named_files if exact else _local_files)(Path(path), config, split)
        read += files
        name = str(path)
        try:
            rows = datasets.load_dataset(
                READERS[files[0].suffix], data_files=[str(f) for f in files], split="train"
            )
        except (datasets.exceptions.DatasetsError, ValueError) as error:
            raise UserError(
                f"{name}: {files[0].name} cannot be read ({' '.join(str(error).split())[:120]})."
            ) from None
    else:
        rows = _from_hub(datasets, name, config, split)
    missing = [c for c in columns if c not in rows.column_names]
    if missing:
        raise UserError(
            f"{name} has columns {', '.join(rows.column_names)}; {', '.join(missing)} wanted."
        )
    if not len(rows):
        raise UserError(f"{name} has no rows.")
    return rows


def _local_files(folder, config, split):
    """The files of `config` and `split` in a folder.

    The folder is laid out like the hub's (config/split-00000-of-00001.parquet), or it is flat.
    """
    if not folder.is_dir():
        raise UserError(f"data folder {folder} not found.")
    readable = [f for f in sorted(folder.rglob("*")) if f.suffix in READERS]
    files = [f for f in readable if not f.name.startswith("dataset_info")]
    if not files:
        raise UserError(f"{folder} holds no {', '.join(READERS)} files.")
    best = min((f.suffix for f in files), key=list(READERS).index)
    files = [f for f in files if f.suffix == best]
    # Several configurations or splits can lie side by side. Then the wanted one must be among them:
    # none is taken for another.
    for wanted, group in (
        (config, lambda f: f.parent.name),
        (split, lambda f: f.stem.split("-")[0]),
    ):
        groups = {group(f) for f in files}
        if wanted in groups:
            files = [f for f in files if group(f) == wanted]
        elif wanted and len(groups) > 1:
            there = ", ".join(sorted(groups))
            raise UserError(
                f"{folder} holds {there}, but not {wanted}. Name the folder that holds it."
            )
    return files


def _named_files(folder, config, split):
    """The files that are named after `config` and `split`.

    The names are config/split-00000-of-00001.parquet, config_split.jsonl and, for the split train,
    config.json.
    """
    if not folder.is_dir():
        raise UserError(f"data folder {folder} not found.")
    stems = {f"{config}_{split}", *([config] if split == "train" else [])}
    files = [f for f in folder.rglob("*") if f.suffix in READERS]
    named = sorted(
        f
        for f in files
        if f.stem in stems or (f.parent.name == config and f.stem.split("-")[0] == split)
    )
    if not named:
        wanted = f"{config}/{split}-*.parquet, {config}_{split}.jsonl or {config}.json"
        raise UserError(f"{folder} holds no {wanted}.")
    return [f for f in named if f.suffix == named[0].suffix]


def _from_hub(datasets, name, config, split):
    from huggingface_hub import errors, logging

    logging.set_verbosity_error()  # without a network it would log each of its retries
    try:
        return datasets.load_dataset(name, config, split=split)
    except (errors.GatedRepoError, datasets.exceptions.DatasetNotFoundError) as error:
        if "gated" in str(error).lower():
            raise UserError(
                f"{name} is gated. Accept its terms on its page, then set HF_TOKEN (.env.example)."
            ) from None
        raise UserError(
            f"data set {name} not found on the hub, or no access. Give a local folder instead."
        ) from None
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        raise UserError(
            f"data set {name} cannot be loaded from the hub "
            f"({str(error).splitlines()[0][:120]}). "
            "Give a local folder of the same schema "
            "(--path; for wmdp --wmdp-path, --wikitext-path, --mmlu-path)."
        ) from None


def drawn(rows, limit, seed):
    """At most `limit` of the rows, drawn by `seed`, in their own order; None is all of them."""
    if limit is None or len(rows) <= limit:
        return rows
    places = Draws(f"samples {seed}").sample(range(len(rows)), limit)
    return [rows[place] for place in sorted(places)]


def sidecars(forget, retain, holdout=None):
    """{file: rows} that name the entity and the fact of each line of forget.txt, retain.txt and
    holdout.txt, and, where it is a question, its parts (items.read_text_rows).

    forget, retain, holdout: an object a line; None where there is no such file. A line of which
    nothing is known has an empty object: so a sidecar of earlier data never stays beside texts that
    it does not speak of.
    """
    sets = {"forget": forget, "retain": retain, "holdout": holdout}
    return {
        sidecar(f"{split}.txt").name: [{**subject(row), **asked(row)} for row in rows]
        for split, rows in sets.items()
        if rows is not None
    }


def subject(row):
    """{entity, fact}: what a row is about, as far as it says so."""
    if not isinstance(row, dict):
        return {}
    entity = entity_of(row)
    named = {"entity": entity} if entity else {}
    return {**named, "fact": str(row["fact"])} if row.get("fact") else named


def asked(row):
    """{question, prompt, answer} of a row that asks, {messages} of a conversation; {} of any
    other.
    """
    if isinstance(row, dict) and "messages" in row:
        return {"messages": row["messages"]}
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in QUESTION):
        return {}
    question, answer = (row[key].strip() for key in QUESTION)
    prompt = row.get("prompt") or framed(question)
    return {"question": question, "prompt": prompt, "answer": answer}


def question_text(row):
    """A row that asks as one text, for a model without a chat template."""
    parts = asked(row)
    return join(parts["prompt"], parts["answer"])


def texts_of(rows, path, config, columns):
    """`rows` as plain dicts of texts and lists of texts.

    Raises UserError where a list has become a text, as it does in CSV files.
    """
    plain = []
    for row in rows:
        for column in columns:
            if not isinstance(row[column], list if column in LISTS else str):
                wanted = "lists of texts, which CSV cannot hold" if column in LISTS else "texts"
                raise UserError(f"{path or 'hub'}: {config}: {column} must be {wanted}.")
        plain.append({c: row[c] for c in columns})
    return plain


def write_sets(outdir, texts, tables, inputs, seed, settings=None, *, line_feeds=False):
    """Write `texts` {file: lines} and `tables` {file: rows} into `outdir`, with their record.

    `line_feeds` as of texts.write_lines. Returns {file: lines}. Prints a note where a file of
    questions of earlier data stays.
    """
    with Run(outdir, inputs=inputs, seed=seed, settings=settings, quiet=True) as run:
        for name, rows in tables.items():
            write_jsonl(run.path(name), rows)
        # retain.txt comes last, because the record is named after the last file
        for name in sorted(texts, key=lambda name: name == "retain.txt"):
            write_lines(run.path(name), texts[name], line_feeds=line_feeds)
    for split in SPLITS:
        if (path := Path(outdir) / f"mcq_{split}.jsonl").is_file() and path.name not in tables:
            stale = f"{path} was there before and may ask about other data"
            print(f"note: {stale}. Delete it where it does.")
    return {name: len(rows) for name, rows in {**texts, **tables}.items()}
