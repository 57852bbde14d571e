"""Which tokens of a text are its answer, and the states at the positions that predict them."""

from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

import torch

from brittle.base.errors import UserError
from brittle.data.batches import batches
from brittle.data.examples import DEFAULT, encode_whole
from brittle.data.items import read_text_rows
from brittle.data.rows import each_answer
from brittle.data.texts import spread
from brittle.data.tokens import prompt_length
from brittle.maths.moments import Moments
from brittle.models.blocks import block_count, stream_width
from brittle.models.filter import at_site

# A file is cut into so many stretches, so that neighbouring texts (of one entity, of one document)
# stay together.
STRETCHES = 50
MOST_BLOCKS = 8  # that a search looks at


class FilterText(NamedTuple):
    """One text: its tokens, and which of them are the answer."""

    ids: list[int]
    start: int  # where the answer starts in `ids`, at least 1
    group: int  # the stretch of its file
    asked: bool  # does the text ask a question?


class States(NamedTuple):
    """States that predict answer tokens, in the order of the examples; see `states`."""

    states: torch.Tensor  # [n, d] float32 on the CPU
    following: torch.Tensor  # [n] the next tokens
    owner: torch.Tensor  # [n] the number of the example of each


class _Enough(Exception):
    """Raised where the unembedding would start: nobody needs its logits."""


def make_texts(tokenizer, rows, max_samples, max_length, name="texts", reading=DEFAULT):
    """Up to `max_samples` FilterTexts, spread over `rows` (str, Pair or Chat each).

    A conversation gives one for each of the assistant's messages (rows.each_answer). The answer of
    a text that tells none is what follows its last "?" or ":", else its second half.
    Texts longer than `max_length` tokens lose their beginning. Raises UserError where no text has
    two tokens.
    """
    count = len(rows)
    picked = spread(range(count), max_samples)
    texts = []
    parts = [(i, one) for i in picked for one in each_answer(rows[i])]
    examples = encode_whole(tokenizer, [one for _, one in parts], reading)
    for (i, _), example in zip(parts, examples, strict=True):
        ids, start, asked = example.told, example.start, True
        if start is None:
            pieces = tokenizer.convert_ids_to_tokens(ids)
            start = prompt_length(pieces)
            asked = pieces[start - 1].endswith(("?", ":")) if pieces else False
        cut = max(0, len(ids) - max_length)
        start = min(max(1, start - cut), len(ids) - cut - 1)
        if start >= 1:
            group = i * min(STRETCHES, count) // count
            texts.append(FilterText(ids[cut:], start, group, asked))
    if not texts:
        raise UserError(f"the {name} hold no tokens to predict (each has fewer than two).")
    return texts


def read_filter_texts(tokenizer, path, max_samples, max_length, name="texts", reading=DEFAULT):
    """The FilterTexts of a file; see `make_texts`."""
    return make_texts(tokenizer, read_text_rows(path), max_samples, max_length, name, reading)


def parted(examples, every=5):
    """(to fit on, to tune on): every fifth stretch is kept for tuning.

    So no entity stands on both sides. A handful of texts is too little to part: both are all of it.
    """
    tune = [example for example in examples if example.group % every == every - 1]
    fit = [example for example in examples if example.group % every != every - 1]
    return (fit, tune) if fit and tune else (examples, examples)


def predicting(batch, starts):
    """[B, T] bool: the positions whose next token belongs to the answer; `starts` [B]."""
    position = torch.arange(batch["input_ids"].shape[1], device=batch["input_ids"].device)
    ends = batch["attention_mask"].sum(1, keepdim=True)
    return (position >= starts[:, None] - 1) & (position < ends - 1)


@contextmanager
def watching(model, sites):
    """Yield a dict that fills with {site: states [B, T, d]} at each forward pass."""
    seen = {}

    def keep_as(site):
        def keep(h):
            seen[site] = h

        return keep

    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(at_site(model, site, keep_as(site)))
        yield seen


@contextmanager
def no_logits(model):
    """Forward passes end where the unembedding would start.

    Yields the function to call the model through.
    """

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
    """Yield (indices, batch, predicting [B, T], {site: states [B, T, d]}) over all examples.

    `indices` are the examples of the batch. No gradients are kept.
    """
    starts = torch.tensor([example.start for example in examples])
    ids = [example.ids for example in examples]
    with torch.no_grad(), watching(model, sites) as seen, no_logits(model) as run:
        for indices, batch in batches(ids, pad_id, batch_size, model.device):
            run(**batch)
            yield indices, batch, predicting(batch, starts[indices].to(model.device)), seen


def collect(model, examples, pad_id, sites, batch_size=64, everywhere=None):
    """{site: Moments} of the states that predict answer tokens: one forward pass for all sites.

    `everywhere`, {site: Moments}, takes the states of all real tokens of the same pass.
    """
    moments = {site: Moments(stream_width(model), model.device) for site in sites}
    for _, batch, mask, seen in passes(model, examples, pad_id, sites, batch_size):
        for site in sites:
            moments[site].update(seen[site], mask)
            if everywhere is not None:
                everywhere[site].update(seen[site], batch["attention_mask"])
    return moments


def states(model, examples, pad_id, site, batch_size=64):
    """The States of all examples at one site."""
    rows = {}
    for indices, batch, mask, seen in passes(model, examples, pad_id, [site], batch_size):
        h, following = seen[site].float().cpu(), batch["input_ids"].roll(-1, 1).cpu()
        for row, index in enumerate(indices):
            at = mask[row].cpu()
            rows[index] = h[row][at], following[row][at]
    in_order = [rows[i] for i in range(len(examples))]
    counts = torch.tensor([len(h) for h, _ in in_order])
    return States(
        torch.cat([h for h, _ in in_order]),
        torch.cat([following for _, following in in_order]),
        torch.arange(len(examples)).repeat_interleave(counts),
    )


def site_count(layers):
    """How many candidate sites a model of so many blocks has."""
    return 2 + min(MOST_BLOCKS, layers - 1)


def candidate_sites(model):
    """The sites that a search looks at: post_norm, pre_norm, and up to MOST_BLOCKS blocks.

    The blocks are evenly spread. The last one is none of them: the final norm reads its output.
    """
    last = block_count(model) - 1
    count = site_count(block_count(model)) - 2
    return ["post_norm", "pre_norm", *(f"block:{i * last // count}" for i in range(count))]
