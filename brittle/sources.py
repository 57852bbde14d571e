"""Data from outside: WMDP-Bio, WikiText-2 and MMLU through `datasets` (hub, or a local folder of the same schema), own files."""

from pathlib import Path

from brittle.errors import UserError
from brittle.results import Run
from brittle.text import read_texts, write_jsonl, write_lines
from brittle.world import Draws

# (hub id, configuration, split)
WMDP = ("cais/wmdp", "wmdp-bio", "test")
BIO_REMOVE = ("Unlearning/WMDP-Bio-Remove-Dataset", None, "train")
WIKITEXT = ("Salesforce/wikitext", "wikitext-2-raw-v1", "train")
MMLU = ("cais/mmlu", "all", "test")
READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
MIN_CHARACTERS = 50  # shorter WikiText lines are headings and empty lines
MMLU_ITEMS = 500  # a split
NEAR = ("biology", "medicine", "virology", "anatomy")  # MMLU subjects beside WMDP-Bio that unlearning must spare


def load_rows(source, path, columns):
    """The rows of a data set, from `path` (a folder with parquet, JSONL or CSV files) or from the hub. All have `columns`."""
    import datasets

    name, config, split = source
    datasets.disable_progress_bars()
    if path is not None:
        files = _local_files(Path(path), config, split)
        rows = datasets.load_dataset(READERS[files[0].suffix], data_files={"all": [str(f) for f in files]}, split="all")
        name = str(path)
    else:
        rows = _from_hub(datasets, name, config, split)
    missing = [c for c in columns if c not in rows.column_names]
    if missing:
        raise UserError(f"{name} has columns {', '.join(rows.column_names)}; {', '.join(missing)} wanted.")
    if not len(rows):
        raise UserError(f"{name} has no rows.")
    return rows


def _local_files(folder, config, split):
    if not folder.is_dir():
        raise UserError(f"data folder {folder} not found.")
    files = sorted(f for f in folder.rglob("*") if f.suffix in READERS and f.name != "dataset_infos.json")
    for wanted in (config, split):  # a folder like the hub's holds several configurations and splits
        narrowed = [f for f in files if wanted and wanted in str(f.relative_to(folder))]
        files = narrowed or files
    files = [f for f in files if f.suffix == files[0].suffix] if files else []
    if not files:
        raise UserError(f"{folder} holds no {', '.join(READERS)} files.")
    return files


def _from_hub(datasets, name, config, split):
    from huggingface_hub import errors

    try:
        return datasets.load_dataset(name, config, split=split)
    except (errors.GatedRepoError, datasets.exceptions.DatasetNotFoundError) as error:
        if "gated" in str(error).lower():
            raise UserError(f"{name} is gated. Accept its terms on its page, then set HF_TOKEN (.env.example).") from None
        raise UserError(f"data set {name} not found on the hub, or no access. Give a local folder instead.") from None
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        raise UserError(
            f"data set {name} cannot be loaded from the hub ({str(error).splitlines()[0][:120]}). "
            "Give a local folder of the same schema (--wmdp-path, --wikitext-path, --mmlu-path)."
        ) from None


def write_files(outdir, forget_file, retain_file, limit=None):
    """The user's own texts as forget.txt and retain.txt, one text a line. Returns {file: lines}."""
    texts = {"forget.txt": read_texts(forget_file, limit), "retain.txt": read_texts(retain_file, limit)}
    return _write(outdir, texts, {}, [forget_file, retain_file], 0)


def write_wmdp(outdir, corpus, wmdp_path, wikitext_path, mmlu_path, limit, seed):
    """forget.txt from WMDP-Bio, retain.txt from WikiText-2, and multiple-choice items with halves A and B for the attack.

    Items: forget = WMDP-Bio; retain = MMLU's biology and medicine, which unlearning must spare; general = the rest of MMLU.
    """
    tables = {}
    if corpus == "questions":
        questions = load_rows(WMDP, wmdp_path, ("question", "choices", "answer"))
        forget = [row["question"] for row in questions]
        tables["mcq_forget.jsonl"] = _items(questions, "wmdp-bio", seed)
    elif corpus == "bio-remove":
        rows = load_rows(BIO_REMOVE, wmdp_path, ("title", "abstract", "text"))
        forget = ["  ".join(filter(None, (row["title"], row["abstract"], row["text"]))) for row in rows]
    else:
        raise UserError(f"--forget-corpus {corpus}: choose questions or bio-remove.")
    retain = [row["text"] for row in load_rows(WIKITEXT, wikitext_path, ("text",)) if len(row["text"].strip()) > MIN_CHARACTERS]
    if not retain:
        raise UserError(f"no WikiText line is longer than {MIN_CHARACTERS} characters.")
    try:
        mmlu = load_rows(MMLU, mmlu_path, ("question", "choices", "answer", "subject"))
        near = [any(word in row["subject"] for word in NEAR) for row in mmlu]
        for split, wanted in (("retain", True), ("general", False)):
            rows = [row for row, is_near in zip(mmlu, near, strict=True) if is_near == wanted]
            tables[f"mcq_{split}.jsonl"] = _items(rows, f"mmlu-{split}", seed)[:MMLU_ITEMS]
    except UserError as error:
        if mmlu_path is not None:
            raise
        print(f"note: no mcq_retain.jsonl and mcq_general.jsonl, which evaluation and attack need: {error}")
    texts = {"forget.txt": forget[:limit], "retain.txt": retain[:limit]}
    return _write(outdir, texts, {k: v for k, v in tables.items() if v}, [], seed)


def _items(rows, name, seed):
    """Items in our schema, in a seeded order; halves alternate in it, so they are a blind, balanced split."""
    draws = Draws(f"halves {name} {seed}")
    return [
        {
            "fact": f"{name}/{i:05d}",
            "half": "AB"[place % 2],
            "template": 0,
            "question": f"Question: {row['question'].strip()} Answer:",
            "choices": list(row["choices"]),
            "answer": int(row["answer"]),
        }
        for place, (i, row) in enumerate(draws.shuffled(list(enumerate(rows))))
    ]


def _write(outdir, texts, tables, inputs, seed):
    with Run(outdir, inputs=inputs, seed=seed) as run:
        for name, rows in tables.items():
            write_jsonl(run.path(name), rows)
        for name, lines in texts.items():
            write_lines(run.path(name), lines)
    return {name: len(rows) for name, rows in {**texts, **tables}.items()}
