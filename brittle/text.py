"""Texts and batches: one text a line or JSONL, tokenised whole, batched by length, padding always masked."""

import json
import sys
from pathlib import Path

from brittle.errors import UserError

MAKE_DATA = "Make the mini data with: uv run create_datasets.py"

WANTED = {
    "mcq_": "It holds one JSON object a line: question, choices, answer (index) and, for attacks, fact and half (A or B)",
    "qa_": "It holds one JSON object a line: question and answer, and for some metrics more",
}


def aligned(rows):
    """Lines of a table whose columns stand below one another; rows of texts, all of one length."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def wanted(path):
    """What to do about a missing file: that of the mini world is made, one of the user's own has to hold what is said."""
    if Path(path).resolve().is_relative_to(Path("data/mini").resolve()):
        return MAKE_DATA
    held = next((text for start, text in WANTED.items() if Path(path).name.startswith(start)), None)
    return f"{held}; see README 'Data'." if held else "Check the path; one text a line is wanted, or JSONL."


def read_lines(path):
    """The non-empty lines of a UTF-8 file. Raises UserError where it is missing, empty, binary or in another encoding."""
    return [line for _, line in numbered_lines(path)]


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
        if "\0" in text:
            raise UnicodeDecodeError("utf-8", raw, text.index("\0"), text.index("\0") + 1, "NUL byte")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start}: {error.reason}). Convert it, for instance with iconv -t UTF-8."
        ) from None
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path} holds no text. One text a line is wanted.")
    return lines


def read_jsonl(path, keys=()):
    """The objects of a JSON-lines file; each must have `keys`."""
    return [row for _, row in numbered_jsonl(path, keys)]


def numbered_jsonl(path, keys=()):
    """[(line number from 1, object), ...]; see `read_jsonl`."""
    rows = []
    for number, line in numbered_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{path} line {number} is not JSON: {line[:60]}") from None
        missing = [k for k in keys if not isinstance(row, dict) or k not in row]
        if missing:
            raise UserError(f"{path} line {number} lacks {', '.join(missing)}. Wanted in each line: {', '.join(keys)}.")
        rows.append((number, row))
    return rows


def read_texts(path, limit=None):
    """Texts of a file: lines, or from JSONL the field `text`, or `question` and `answer` joined. The first `limit`."""
    if Path(path).suffix not in (".jsonl", ".json"):
        return read_lines(path)[:limit]
    texts = []
    for number, row in numbered_jsonl(path):
        text = _text_of(row)
        if not text or not text.strip():
            raise UserError(f"{path} line {number} has neither text nor question and answer.")
        texts.append(text)
    return texts[:limit]


def _text_of(row):
    """The text of a JSON value, or None: a string, `text`, or `question` with `answer` (an index where there are `choices`)."""
    if not isinstance(row, dict):
        return row if isinstance(row, str) else None
    if isinstance(row.get("text"), str):
        return row["text"]
    question, answer, choices = row.get("question"), row.get("answer"), row.get("choices")
    if isinstance(choices, list) and isinstance(answer, int) and 0 <= answer < len(choices):
        answer = choices[answer]
    elif "choices" in row:
        return None
    return f"{question} {answer}" if isinstance(question, str) and isinstance(answer, str) else None


def write_lines(path, lines):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(" ".join(line.split()) + "\n" for line in lines)


def write_jsonl(path, rows):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def encode(tokenizer, texts, max_length, name="texts"):
    """Token ids of each text, cut at `max_length`; how many were cut is said on stderr, empty encodings are an error."""
    ids = tokenizer(list(texts), add_special_tokens=True)["input_ids"]
    cut = sum(len(i) > max_length for i in ids)
    if cut:
        print(f"note: {cut} of {len(ids)} {name} are longer than {max_length} tokens and are cut there.", file=sys.stderr)
    if not any(len(i) > 1 for i in ids):
        raise UserError(f"the {name} hold no tokens to predict (each has fewer than two).")
    return [i[:max_length] for i in ids]


class Batch(dict):
    """{input_ids, attention_mask} [B, T], plus what losses may need beside them:

    index: the examples' numbers in their set; n_tokens, n_targets: the counts to divide a sum over real (predicted) tokens
    by. Those of this batch, or, for a micro-batch, its step's total over the number of micro-batches, so that accumulated
    gradients are exactly those of the one large batch.
    """

    index, n_tokens, n_targets = None, None, None


def pad(ids, pad_id, device="cpu", index=None):
    """A `Batch` of token id lists, padded on the right."""
    import torch

    longest = max(map(len, ids))
    batch = Batch(
        input_ids=torch.tensor([i + [pad_id] * (longest - len(i)) for i in ids]).to(device),
        attention_mask=torch.tensor([[1] * len(i) + [0] * (longest - len(i)) for i in ids]).to(device),
    )
    batch.index = torch.tensor(index if index is not None else range(len(ids)))
    batch.n_tokens = max(1, sum(map(len, ids)))
    batch.n_targets = max(1, sum(len(i) - 1 for i in ids))
    return batch


def by_length(ids, batch_size, tokens=None):
    """Index lists of at most `batch_size`, over `ids` sorted by length (ties in order), so little is padding.

    With `tokens`, a list holds no more than that many, padding included (but one text always).
    """
    order, lists = sorted(range(len(ids)), key=lambda i: len(ids[i])), []
    for i in order:  # sorted, so the newest text is the longest
        last = lists[-1] if lists else None
        if last is None or len(last) == batch_size or (tokens and (len(last) + 1) * len(ids[i]) > tokens):
            lists.append([i])
        else:
            last.append(i)
    return lists


def batches(ids, pad_id, batch_size, device="cpu", tokens=None):
    """Yield (indices, batch) over all texts, sorted by length; see `by_length`."""
    for indices in by_length(ids, batch_size, tokens):
        yield indices, pad([ids[i] for i in indices], pad_id, device, indices)


class Stream:
    """An endless, seeded order over token id lists: epoch after epoch, each a new permutation.

    `batches(step)` depends on the seed and the step alone, so a resumed run goes on exactly where it stopped.
    """

    def __init__(self, ids, pad_id, batch_size, micro_batches=1, seed=0, device="cpu"):
        self.ids, self.pad_id, self.device = ids, pad_id, device
        self.batch_size, self.micro_batches, self.seed, self.epochs = batch_size, micro_batches, seed, {}

    def order(self, epoch):
        """The examples of one epoch, as a list of indices."""
        import torch

        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.ids), generator=generator).tolist()

    def _at(self, position):
        epoch, offset = divmod(position, len(self.ids))
        if epoch not in self.epochs:
            self.epochs = {epoch: self.order(epoch)}  # only the current epoch's order is kept
        return self.epochs[epoch][offset]

    def tokens(self, count):
        """Tokens of the first `count` examples of the order."""
        return sum(len(self.ids[self._at(i)]) for i in range(count))

    def batches(self, step):
        """The `micro_batches` batches of optimizer step `step`, each of `batch_size` texts."""
        size = self.batch_size * self.micro_batches
        chosen = [self._at(i) for i in range(step * size, (step + 1) * size)]
        parts = [chosen[i : i + self.batch_size] for i in range(0, size, self.batch_size)]
        made = [pad([self.ids[i] for i in part], self.pad_id, self.device, part) for part in parts]
        tokens = sum(len(self.ids[i]) for i in chosen)
        targets = max(1, tokens - len(chosen))
        for batch in made:
            batch.n_tokens, batch.n_targets = tokens / len(made), targets / len(made)
        return made
