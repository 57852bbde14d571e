"""Prompts: read from a file with the line of each, and checked before any model is asked."""

import csv
from pathlib import Path

from brittle.base.errors import UserError
from brittle.data.rows import answer_of
from brittle.data.texts import numbered_jsonl, numbered_lines, read_lines

FIELDS = ("prompt", "question", "text")


def check_prompt(prompt):
    """A prompt is text that UTF-8 can hold; its hash names its file."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            "the prompt is not valid UTF-8 text. Put it into a UTF-8 file and use --prompts-file."
        ) from None
    if not prompt.strip():
        raise UserError("the prompt is empty. Give some text.")
    return prompt


def read_prompts(path):
    """{prompt: "file line n"} of a file, each prompt once.

    A prompt is a line, in JSONL the field `prompt`, `question` or `text`, in CSV the column
    `prompt`.
    """
    places = {}
    for number, prompt, _ in _read_rows(path):
        places.setdefault(check_line(path, number, prompt), f"{path} line {number}")
    return places


def read_expected(path):
    """{prompt: its answer} of the prompts that the file has an answer to.

    In JSONL it is the field `short_answer`, else `answer`, or the one of `choices` that `answer` is
    the index of. In CSV it is the column `answer`.
    """
    expected = {}
    for _, prompt, answer in _read_rows(path):
        if answer and answer.strip():
            expected.setdefault(prompt, answer)
    return expected


def _read_rows(path):
    """Yield (line number, prompt, answer or None) of a file of any kind."""
    readers = {".csv": of_csv, ".jsonl": of_jsonl, ".json": of_jsonl}
    return readers.get(Path(path).suffix.lower(), of_lines)(path)


def of_lines(path):
    """Yield (line number, line, None)."""
    for number, line in numbered_lines(path):
        yield number, line, None


def check_line(path, number, prompt):
    try:
        return check_prompt(prompt)
    except UserError:
        raise UserError(
            f"{path} line {number}: the prompt is empty, or no valid UTF-8 text."
        ) from None


def of_jsonl(path):
    """Yield (line number from 1, prompt, answer or None)."""
    for number, row in numbered_jsonl(path):
        values = [row[k] for k in FIELDS if k in row] if isinstance(row, dict) else [row]
        if not values or not isinstance(values[0], str) or not values[0].strip():
            raise UserError(f"{path} line {number} has no prompt, question or text.")
        yield number, values[0], expected_of(row)


def expected_of(row):
    """The answer that a JSON value has, the short one where there is one; None where none."""
    if not isinstance(row, dict):
        return None
    short = row.get("short_answer")
    return short if isinstance(short, str) and short.strip() else answer_of(row)


def of_csv(path):
    """Yield (line number from 1, where the row starts; prompt; answer or None)."""
    read_lines(path)  # missing, empty, binary or in another encoding
    csv.field_size_limit(1 << 30)
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        try:
            head, start = [name.strip() for name in next(reader)], reader.line_num + 1
            if "prompt" not in head:
                columns = ", ".join(head)[:200]
                lacks = f"{path} has no column prompt (it has: {columns})"
                raise UserError(f"{lacks}. Call the prompts' column prompt.")
            columns = [head.index(name) for name in ("prompt", "answer") if name in head]
            for row in reader:
                if row:
                    cells = [row[column] if column < len(row) else "" for column in columns]
                    yield start, cells[0], cells[1] if len(cells) > 1 else None
                start = reader.line_num + 1
        except csv.Error as error:
            wrong = f"{path} line {reader.line_num} is not CSV ({error})"
            raise UserError(f"{wrong}. One prompt a line goes into a .txt.") from None


def lengths(reader, prompts, where):
    """{prompt: its number of tokens} as `reader` counts them.

    Raises UserError for one that is too long, with its place in `where` {prompt: "file line n"}.
    """
    tokens = {}
    for prompt in prompts:
        try:
            tokens[prompt] = len(reader.encode(prompt))
        except UserError as error:
            place = f"{where[prompt]}: " if prompt in where else ""
            raise UserError(f"{place}{error}") from None
    return tokens
