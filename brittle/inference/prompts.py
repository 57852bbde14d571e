"""Prompts: read from a file with the line of each, and checked before any model is asked."""

import csv
from pathlib import Path

from brittle.base.errors import UserError
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
    readers = {".csv": of_csv, ".jsonl": of_jsonl, ".json": of_jsonl}
    read_rows = readers.get(Path(path).suffix.lower(), numbered_lines)
    places = {}
    for number, prompt in read_rows(path):
        places.setdefault(check_line(path, number, prompt), f"{path} line {number}")
    return places


def check_line(path, number, prompt):
    try:
        return check_prompt(prompt)
    except UserError:
        raise UserError(
            f"{path} line {number}: the prompt is empty, or no valid UTF-8 text."
        ) from None


def of_jsonl(path):
    """[(line number from 1, prompt), ...]"""
    for number, row in numbered_jsonl(path):
        values = [row[k] for k in FIELDS if k in row] if isinstance(row, dict) else [row]
        if not values or not isinstance(values[0], str) or not values[0].strip():
            raise UserError(f"{path} line {number} has no prompt, question or text.")
        yield number, values[0]


def of_csv(path):
    """[(line number from 1, where the row starts; prompt), ...]"""
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
            column = head.index("prompt")
            for row in reader:
                if row:
                    yield start, row[column] if column < len(row) else ""
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
