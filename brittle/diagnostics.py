"""What diagnostics share: a neighbouring step's CSV, the two text splits as batches, ratios that may not exist."""

import csv
import json
import math
from pathlib import Path

from brittle.errors import UserError

# Tokens a batch, padding included: at 6.9B (33 layers of width 4096, in bfloat16) the streams of this many take 0.5 GB a model
TOKENS = 2048


def neighbour(outdir, folder, name, step, script):
    """Path of `name` in the folder beside `outdir`, which step `step` makes. Raises UserError where it is missing."""
    path = Path(outdir).parent / folder / name
    if not path.is_file():
        raise UserError(
            f"{path} not found. Step {step} makes it: uv run experiment/{script} --model-a A --model-b B --outdir {path.parent}"
        )
    return path


def kept_spectra(outdir, read):
    """{dW/<name>, W_a/<name>, W_b/<name>: singular values} that step 1 keeps beside `outdir`; {} where it read other files.

    `read` {path: its description} is what this run reads (`results.Run.read`), scripts apart.
    """
    from safetensors.torch import load_file

    from brittle.files import changed

    path = Path(outdir).parent / "param_stats" / "spectra.safetensors"
    try:
        record = json.loads(path.with_name("per_layer.run.json").read_text(encoding="utf-8"))
        theirs, ours = ({p: d["sha256"] for p, d in of.items() if not p.endswith(".py")} for of in (record["inputs"], read))
        if theirs == ours and not changed(path, record["outputs"][path.name]):
            return load_file(path)
    except (OSError, ValueError, KeyError, TypeError):  # none, or damaged
        pass
    return {}


def _value(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or math.nan


def read_table(path, columns=()):
    """A CSV as a DataFrame, numbers to the last digit. Raises UserError where one of `columns` is missing or there is no row."""
    import pandas as pd

    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        table = [{key: _value(text) for key, text in row.items()} for row in reader]
    missing = [c for c in columns if c not in (reader.fieldnames or [])]
    if missing or not table:
        raise UserError(f"{path} has {'no column ' + missing[0] if missing else 'no row'}. Delete it and run its step again.")
    return pd.DataFrame(table, columns=reader.fieldnames)


def ratio(part, whole):
    """part / whole; 0 for 0 / 0 and None (an empty CSV field) for what is undefined."""
    if part is None or whole is None:
        return None
    return part / whole if whole else (0.0 if part == 0 else None)


def root_sum_square(values):
    """sqrt(sum of squares); None where one of the values is not known."""
    return None if any(v is None for v in values) else math.sqrt(math.fsum(v * v for v in values))


def length_limit(max_length, config):
    """`--max-length`, by default 512, within the model's context."""
    from brittle.models import context_length

    context = context_length(config)
    if max_length and max_length > context:
        raise UserError(f"--max-length {max_length}, but this model reads at most {context} tokens.")
    return max_length or min(512, context)


def encode_splits(tokenizer, paths, max_samples, max_length):
    """{split: token ids of its first `max_samples` texts}, from {split: file}."""
    from brittle.text import encode, read_texts

    return {
        split: encode(tokenizer, read_texts(path, max_samples), max_length, f"{split} texts") for split, path in paths.items()
    }


def seed_list(seeds, seed, random):
    """[seed], or the numbers of `--seeds`; then it is said what is repeated: `random`, in words."""
    if seeds is None:
        return [seed]
    parts = [part.strip() for part in seeds.split(",")]
    if not all(part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise UserError(f"--seeds {seeds}: different whole numbers separated by commas, such as 0,1,2.")
    print(f"seeds {', '.join(parts)}: {random} are drawn anew with each; all else is not random, and the same in each.")
    return [int(part) for part in parts]


def of_seed(table, seed):
    """The rows of one seed, which are those that a figure shows."""
    return [row for row in table if row["seed"] == seed]


def facts_of(rows):
    """The `fact` of each row of a JSON-lines file; None where one of them names none."""
    found = [row.get("fact") if isinstance(row, dict) else None for row in rows]
    return found if found and all(found) else None


def facts(path, limit=None):
    """The fact that each text of `text.read_texts(path, limit)` is about, or None: plain lines do not say."""
    from brittle.text import read_jsonl

    return facts_of(read_jsonl(path)[:limit]) if Path(path).suffix in (".jsonl", ".json") else None
