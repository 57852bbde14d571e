"""Which tokens of a text are its answer, and a model's states at the positions that predict them, at several sites at once."""

from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

import torch

from brittle.base.errors import UserError
from brittle.data.batches import batches
from brittle.data.texts import answer_of, numbered_jsonl, read_lines, spread
from brittle.data.tokens import common_prefix, prompt_length
from brittle.maths.moments import Moments
from brittle.models.filter import at_site

STRETCHES = 50  # neighbouring texts (of one entity, one document) stay together: a file is cut into so many stretches


class Example(NamedTuple):
    """Token ids, where the answer starts in them, the stretch of its file, and whether it asks a question."""

    ids: list[int]
    start: int
    group: int
    asked: bool


class _Enough(Exception):
    """Raised where the unembedding would start: nobody needs its logits."""


def _pair(row):
    """(question or None, whole text) of a JSON value, or None: as brittle.text.read_texts, but with the question kept."""
    if isinstance(row, str):
        return None, row
    if not isinstance(row, dict):
        return None
    question, answer = row.get("question"), answer_of(row)
    if isinstance(question, str) and answer is not None:
        return question, f"{question} {answer}"
    return (None, row["text"]) if isinstance(row.get("text"), str) else None


def read_pairs(path):
    """[(question or None, text), ...] of a file: lines, or JSONL with text, or question and answer (an index with choices)."""
    if not str(path).endswith((".jsonl", ".json")):
        return [(None, line) for line in read_lines(path)]
    pairs = []
    for number, row in numbered_jsonl(path):
        pair = _pair(row)
        if pair is None or not pair[1].strip():
            raise UserError(f"{path} line {number} has neither text nor question and answer.")
        pairs.append(pair)
    return pairs


def make_examples(tokenizer, pairs, max_samples, max_length, name="texts"):
    """Up to `max_samples` examples, spread evenly over `pairs`; longer ones than `max_length` tokens lose their beginning.

    The answer is what follows the question; in plain text what follows its last "?" or ":", else its second half.
    """
    picked = spread(range(len(pairs)), max_samples)
    whole = tokenizer([pairs[i][1] for i in picked])["input_ids"]
    asked = iter(
        tokenizer([q for i in picked if (q := pairs[i][0]) is not None] or ["-"])["input_ids"]
    )
    examples = []
    for i, ids in zip(picked, whole, strict=True):
        if pairs[i][0] is not None:
            start, question = common_prefix(ids, next(asked)), True
        else:
            pieces = tokenizer.convert_ids_to_tokens(ids)
            start = prompt_length(pieces)
            question = pieces[start - 1].endswith(("?", ":")) if pieces else False
        cut = max(0, len(ids) - max_length)
        start = min(max(1, start - cut), len(ids) - cut - 1)
        if start >= 1:
            stretch = i * min(STRETCHES, len(pairs)) // len(pairs)
            examples.append(Example(ids[cut:], start, stretch, question))
    if not examples:
        raise UserError(f"the {name} hold no tokens to predict (each has fewer than two).")
    return examples


def read_examples(tokenizer, path, max_samples, max_length, name="texts"):
    """The examples of a file; see `make_examples`."""
    return make_examples(tokenizer, read_pairs(path), max_samples, max_length, name)


def parted(examples, every=5):
    """(to fit on, to tune on): every fifth stretch is kept for tuning, so no entity stands on both sides."""
    tune = [e for e in examples if e.group % every == every - 1]
    fit = [e for e in examples if e.group % every != every - 1]
    return (
        (fit, tune) if fit and tune else (examples, examples)
    )  # a handful of texts: nothing to part


def predicting(batch, starts):
    """[B, T] bool: the positions whose next token belongs to the answer; `starts` [B]."""
    position = torch.arange(batch["input_ids"].shape[1], device=batch["input_ids"].device)
    ends = batch["attention_mask"].sum(1, keepdim=True)
    return (position >= starts[:, None] - 1) & (position < ends - 1)


@contextmanager
def watching(model, sites):
    """Yield a dict that fills with {site: states [B, T, d]} at each forward pass."""
    seen = {}
    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(
                at_site(model, site, lambda h, site=site: seen.__setitem__(site, h))
            )
        yield seen


@contextmanager
def no_logits(model):
    """Forward passes end where the unembedding would start; call the model through the function that is yielded."""

    def leave(*_):
        raise _Enough

    def run(**batch):
        with suppress(_Enough):
            model(**batch)

    handle = model.get_output_embeddings().register_forward_pre_hook(leave)
    try:
        yield run
    finally:
        handle.remove()


def passes(model, examples, pad_id, sites, batch_size=64):
    """Yield (indices, batch, predicting [B, T], {site: states [B, T, d]}) over all examples, without gradients."""
    starts = torch.tensor([e.start for e in examples])
    with torch.no_grad(), watching(model, sites) as seen, no_logits(model) as run:
        for indices, batch in batches([e.ids for e in examples], pad_id, batch_size, model.device):
            run(**batch)
            yield indices, batch, predicting(batch, starts[indices].to(model.device)), seen


def collect(model, examples, pad_id, sites, batch_size=64, everywhere=None):
    """{site: Moments} of the states that predict answer tokens: one forward pass for all sites.

    `everywhere`, {site: Moments}, takes the states of all real tokens of the same pass.
    """
    found = {site: Moments(model.config.hidden_size, model.device) for site in sites}
    for _, batch, mask, seen in passes(model, examples, pad_id, sites, batch_size):
        for site in sites:
            found[site].update(seen[site], mask)
            if everywhere is not None:
                everywhere[site].update(seen[site], batch["attention_mask"])
    return found


def states(model, examples, pad_id, site, batch_size=64):
    """(states [n, d] float32 on the CPU, next tokens [n], example of each [n]) at one site, in the examples' order."""
    rows = {}
    for indices, batch, mask, seen in passes(model, examples, pad_id, [site], batch_size):
        h, following = seen[site].float().cpu(), batch["input_ids"].roll(-1, 1).cpu()
        for row, index in enumerate(indices):
            rows[index] = h[row][mask[row].cpu()], following[row][mask[row].cpu()]
    owner = torch.cat([torch.full((len(rows[i][0]),), i) for i in range(len(examples))])
    return (
        torch.cat([rows[i][0] for i in range(len(examples))]),
        torch.cat([rows[i][1] for i in range(len(examples))]),
        owner,
    )


def candidate_sites(model, most=8):
    """The sites that a search looks at: post_norm, pre_norm, and up to `most` blocks, evenly spread, but the last."""
    last = model.config.num_hidden_layers - 1  # its output is what the final norm reads
    count = min(most, last)
    return ["post_norm", "pre_norm", *(f"block:{i * last // count}" for i in range(count))]
