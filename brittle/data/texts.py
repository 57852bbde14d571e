"""Text files: one text a line, or JSON lines. They are UTF-8, and every fault names its line."""

import itertools
import json
import random
from pathlib import Path

from brittle.base.errors import UserError
from brittle.data.rows import plain, row_of

JSON_LINES = (".jsonl", ".json")
MAKE_DATA = "Make the mini data with: uv run create_datasets.py"
# Fields of questions and facts, by what they hold.
TEXTS = (
    "question",
    "paraphrased_question",
    "paraphrased_answer",
    "short_answer",
    "prompt",
    "gt",
    "noun",
    "value",
)
LISTS = ("choices", "perturbed_answer", "short_perturbed_answer", "pool", "premises")
WANTED = {
    "mcq_": "It holds one JSON object a line: question, choices, answer (index) and, for attacks, "
    "fact and half (A or B)",
    "qa_": "It holds one JSON object a line: question and answer, and for some metrics more",
}


def wanted(path):
    """What to do about a missing file.

    A file of the mini world can be made. For a file of the user's own, the text says what it holds.
    """
    if Path(path).resolve().is_relative_to(Path("data/mini").resolve()):
        return MAKE_DATA
    for start, content in WANTED.items():
        if Path(path).name.startswith(start):
            return f"{content}; see docs/data.md."
    return "Check the path; one text a line is wanted, or JSONL."


def read_lines(path):
    """The texts of a UTF-8 file with one text a line; empty lines are none.

    A text with line feeds stands there as `write_lines` writes it. Raises UserError where the file
    is missing, empty, binary or in another encoding.
    """
    return [_unescape(line) for _, line in numbered_lines(path)]


def _unescape(line):
    """The text of a line: a JSON string that holds a line feed is what it says, else the line."""
    if not (line.startswith('"') and line.endswith('"') and "\\n" in line):
        return line
    try:
        text = json.loads(line)
    except ValueError:
        return line
    return text if "\n" in text else line


def numbered_lines(path):
    """[(line number from 1, line), ...]; see `read_lines`."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} not found. {wanted(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; a text file is wanted.") from None
    except (PermissionError, ValueError) as error:
        raise UserError(f"{path!s} cannot be read: {error}") from None
    try:
        text = raw.decode("utf-8-sig")
        nul = text.find("\0")
        if nul >= 0:
            raise UnicodeDecodeError("utf-8", raw, nul, nul + 1, "NUL byte")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start}: {error.reason}). "
            "Convert it, for instance with iconv -t UTF-8."
        ) from None
    numbered = enumerate(text.split("\n"), 1)
    lines = [(number, line.strip()) for number, line in numbered if line.strip()]
    if not lines:
        raise UserError(f"{path} holds no text. One text a line is wanted.")
    return lines


def read_jsonl(path, keys=()):
    """The objects of a JSON-lines file; each must have `keys`."""
    return [row for _, row in numbered_jsonl(path, keys)]


def numbered_jsonl(path, keys=()):
    """[(line number from 1, object), ...]; see `read_jsonl`.

    Where `keys` are wanted, what the file has of TEXTS must be text, and of LISTS lists of texts:
    the characters of a text are no list of answers.
    """
    rows = []
    for number, line in numbered_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{path} line {number} is not JSON: {line[:60]}") from None
        missing = [k for k in keys if not isinstance(row, dict) or k not in row]
        if missing:
            lacks = f"{path} line {number} lacks {', '.join(missing)}"
            raise UserError(f"{lacks}. Wanted in each line: {', '.join(keys)}.")
        if keys:
            _check_kinds(f"{path} line {number}", row, keys)
        rows.append((number, row))
    return rows


def _check_kinds(where, row, keys):
    """Raises UserError for a value of another kind than its key says; null is no value."""
    texts = TEXTS if "choices" in row else (*TEXTS, "answer")
    # a key that is wanted has a value; any other one may be missing, or null
    values = {key: row[key] for key in row if key in keys or row[key] is not None}
    for key in texts:
        if not isinstance(values.get(key, ""), str):
            raise UserError(f"{where}: {key} must be text, not {json.dumps(row[key])[:40]}.")
    for key in LISTS:
        value = values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            wanted = f"{key} must be a list of texts"
            raise UserError(f"{where}: {wanted}, not {json.dumps(value)[:40]}.")


def read_texts(path):
    """The texts of a file.

    A text is a line, or, in a JSONL file, an object as one text without a template (rows.plain).
    """
    if Path(path).suffix not in JSON_LINES:
        return read_lines(path)
    return [plain(row) for row in read_objects(path)]


def read_objects(path):
    """The rows of a JSONL file: str, Pair or Chat each (see brittle/data/rows.py)."""
    return [row_of(value, f"{path} line {number}") for number, value in numbered_jsonl(path)]


def spread(rows, most):
    """At most `most` of the rows, in their order; None is all of them.

    One is drawn from each of `most` stretches of equal length, always the same. So the sample
    covers the whole file, and a period of the file (six lines a fact) meets no even distance.
    """
    if most is None or len(rows) <= most:
        return rows
    draw = random.Random("spread")
    starts = [i * len(rows) // most for i in range(most + 1)]
    return [
        rows[start + int(draw.random() * (end - start))]
        for start, end in itertools.pairwise(starts)
    ]


def write_lines(path, lines, *, line_feeds=False):
    """Write one text a line; white space within a text becomes one blank.

    With `line_feeds` a text that holds some keeps all its white space (it may be a chat template's)
    and stands in the file as a JSON string, which `read_lines` reads.
    """
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            if line_feeds and "\n" in line.strip():
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            else:
                file.write(" ".join(line.split()) + "\n")


def write_jsonl(path, rows):
    """Write one JSON object a line."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
