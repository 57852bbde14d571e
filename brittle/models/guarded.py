"""A model inside a guard (models/guards.py): whatever calls the model meets the guard.

The guard is put around the forward pass of one loaded model. Parameters, buffers and files stay as
they are, byte for byte, so whoever has the weights has the model without its guard. What a refused
answer is worth:
- scored: P(answer) = 0. Its log-probabilities sum to FLOOR (exactly, up to 15 tokens), at each
  place the refusal is predicted instead. Choices that are all refused tie, and the first is taken:
  the detector of constant letters says so.
- generated: `rag` gives the refusal. `regex` takes away every next token that would complete a
  match (of the TOP likeliest where the vocabulary is larger), which is what a filter of a stream
  can do.
Texts are cut into prompt and answer by `guards.split`, and those that went through a chat template
where the assistant's message begins (`Cutter`). A context stands at the beginning of the user's
message.
"""

import contextlib
import types
from contextlib import contextmanager
from typing import NamedTuple

import torch

from brittle.base.errors import UserError
from brittle.data.asking import opened
from brittle.data.batches import pad
from brittle.data.templates import MARK
from brittle.models.architectures import context_length
from brittle.models.guards import REFUSAL, split
from brittle.models.load import load_model, load_tokenizer

FLOOR, STEP, TOP = -512.0, 32.0, 4096  # powers of two: sums of them are exact in every dtype


class Cut(NamedTuple):
    """A text in two: what was asked, what was answered, each as text.

    first: how many tokens stand before a guard's context. start: how many before the answer.
    """

    asked: str
    answer: str
    first: int
    start: int


class Cutter:
    """Cuts token ids into prompt and answer."""

    def __init__(self, tokenizer):
        self.tokenizer, self.chat = tokenizer, None
        if getattr(tokenizer, "chat_template", None):
            with contextlib.suppress(UserError):  # it is said where the model is asked
                self.chat = opened(tokenizer, MARK)

    def __call__(self, row):
        """The `Cut` of a row of token ids."""
        return (self._chat(row) if self.chat else None) or self._plain(row)

    def _plain(self, row):
        asked, answer = split(self.tokenizer.decode(row, skip_special_tokens=True))
        first = int(row[0] == self.tokenizer.bos_token_id) if row else 0
        return Cut(asked, answer, first, self._tokens(row, len(asked), skip=True))

    def _chat(self, row):
        """None where the row did not go through the template."""
        text, chat = self.tokenizer.decode(row), self.chat
        head, tail = chat.prompt[: chat.asked].removesuffix(MARK), chat.prompt[chat.asked :].strip()
        place = text.rfind(tail)
        if place < 0:
            return None
        end, first = place + len(tail), 0
        behind = chat.prompt[len(chat.prompt.rstrip()) :] + chat.lead
        for more in (behind, behind.rstrip(" ")):
            if more and text.startswith(more, end):
                end += len(more)
                break
        if text.startswith(head.rstrip()):
            first = len(head.rstrip())
        # a blank at the end may belong to the next token
        before = self._tokens(row, len(head.rstrip(" ")), skip=False) if first else 0
        start = self._tokens(row, len(text[:end].rstrip(" ")), skip=False)
        return Cut(text[first:place], text[end:], before, start)

    def _tokens(self, row, length, *, skip):
        """The fewest tokens of `row` whose text has `length` characters."""
        low, high = 0, len(row)
        while low < high:
            middle = (low + high) // 2
            if len(self.tokenizer.decode(row[:middle], skip_special_tokens=skip)) < length:
                low = middle + 1
            else:
                high = middle
        return low


class Replay:
    """Stands for a key-value cache: the tokens so far [B, T] and their mask.

    The guard reads whole texts, so they run again at every step.
    """

    def __init__(self, ids, mask):
        self.ids, self.mask = ids, mask

    def batch_select_indices(self, rows):
        self.ids, self.mask = self.ids[rows], self.mask[rows]

    def get_seq_length(self, layer_idx=0):
        return self.ids.size(1)


def load(folder, device="cpu", dtype="auto", trust_remote_code=False, guard=None):
    """(model, tokenizer) of a local folder, inside `guard`, where there is one."""
    model = load_model(folder, device, dtype, trust_remote_code)
    tokenizer = load_tokenizer(folder, trust_remote_code)
    return (wrap(model, tokenizer, guard) if guard else model), tokenizer


def wrap(model, tokenizer, guard):
    """Put `guard` around `model` (changed in place and returned); `model.guard` names it."""
    inner = model.forward
    refusal = tokenizer(REFUSAL, add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    refusal = [*refusal, tokenizer.pad_token_id if end is None else end]
    cut = Cutter(tokenizer)
    pieces = []
    if guard.streams:
        size = model.get_output_embeddings().weight.size(0)
        pieces = [tokenizer.decode([i]) for i in range(size)]

    # the parameters are those of transformers' own forward passes
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        use_cache=None,
        logits_to_keep=0,
        labels=None,
        inputs_embeds=None,
        **more,
    ):
        if input_ids is None:
            raise UserError(
                f"--wrapper {guard.name} reads text: what works on embeddings goes round it. Leave "
                "--wrapper out."
            )
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if isinstance(past_key_values, Replay):
            input_ids = torch.cat([past_key_values.ids, input_ids], 1)
            new = input_ids[:, past_key_values.ids.size(1) :]
            mask = torch.cat([past_key_values.mask, torch.ones_like(new)], 1)
        out = _run(inner, model, tokenizer, guard, input_ids, mask, more, cut)
        logits = out.logits
        _refuse(logits, input_ids, mask, guard, refusal, pieces, cut)
        if labels is not None:
            out.loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
            )
        out.logits = logits[:, -logits_to_keep:] if logits_to_keep else logits
        out.past_key_values = Replay(input_ids, mask) if use_cache else None
        return out

    generate = model.generate
    model.forward = types.MethodType(forward, model)
    model.generate = lambda *args, **more: generate(*args, **{**more, "use_cache": False})
    model.guard, model.unguarded = guard, inner
    return model


@contextmanager
def bare(model):
    """`model` without its guard's forward pass, for what applies the guard to texts itself."""
    if getattr(model, "guard", None) is None:
        yield model
        return
    forward, model.forward = model.forward, model.unguarded
    try:
        yield model
    finally:
        model.forward = forward


def _run(inner, model, tokenizer, guard, ids, mask, more, cut):
    """The model's output with logits [B, T, V] for the tokens `ids` [B, T].

    Each row runs behind its own context.
    """
    more.pop("cache_position", None)
    rows = [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]
    cuts = [cut(row) for row in rows]
    contexts = [guard.context(one.asked or one.answer) for one in cuts]
    if not any(contexts):
        return inner(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp_min(0),
            **more,
        )
    whole, kept = [], []
    for row, context, one in zip(rows, contexts, cuts, strict=True):
        first = one.first
        before = tokenizer(context, add_special_tokens=False)["input_ids"] if context else []
        surplus = len(before) + len(row) - context_length(model.config)
        before = before[max(0, surplus) :]  # what has no room is left out
        whole.append(row[:first] + before + row[first:])
        kept.append([*range(first), *range(first + len(before), len(whole[-1]))])
    out = inner(**pad(whole, tokenizer.pad_token_id, ids.device), **more)
    logits = out.logits.new_zeros(*ids.shape, out.logits.size(-1))
    for number, places in enumerate(kept):
        logits[number, mask[number].bool()] = out.logits[number, places]
    out.logits = logits
    return out


def _refuse(logits, ids, mask, guard, refusal, pieces, cut):
    """Write the refusals into logits [B, T, V], in place."""
    for number in range(len(ids)):
        places = mask[number].nonzero().flatten().tolist()
        row = ids[number, places].tolist()
        prompt, answer, _, start = cut(row)
        start = max(1, start)
        if guard.refuses(prompt, answer):
            # the answer's tokens that are there; the place behind them is predicted too
            given = row[start:]
            for j, place in enumerate(places[start - 1 :]):
                height = STEP if j else max(STEP, -FLOOR - STEP * (len(given) - 1))
                best = refusal[min(j, len(refusal) - 1)]
                is_refusal = given == refusal[: len(given)]
                if not is_refusal and given[j : j + 1] == [best]:
                    # no other answer shares the refusal's probability
                    best = next(t for t in (refusal[-1], *range(2)) if t != given[j])
                logits[number, place] = 0.0
                logits[number, place, best] = height
        elif guard.streams:
            last = logits[number, places[-1]]
            likely = last.topk(min(TOP, len(last))).indices.tolist()
            taken = [
                t for t in likely if t < len(pieces) and guard.refuses(prompt, answer + pieces[t])
            ]
            last[taken] = last.min() + FLOOR
