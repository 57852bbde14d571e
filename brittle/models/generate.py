"""Generation in batches with left padding, token for token what each prompt gives alone.

Sums of floats depend on the shape of the batch that they are computed in. So two computations of
the same logits differ in their last bits, and a near tie may fall either way. Hence the rule of
`choose`: a token that leads by more than twice what two computations can differ by is taken.
Otherwise the logits of that prompt are computed anew, alone, unpadded, in one pass without cache,
and decide. Let c be those canonical logits and |l - c| <= e for the logits l of any batch. A lead
of more than 2 e in l is a lead in c, and any smaller one is decided by c itself: every token is
argmax c, whatever the batch.
"""

import contextlib
import inspect
import random
from dataclasses import dataclass

import torch

from brittle.base.errors import UserError
from brittle.data.asking import end_id
from brittle.data.batches import by_length
from brittle.models.architectures import context_length

NOISE = {
    torch.float32: 64,
    torch.bfloat16: 4,
    torch.float16: 8,
}  # e in units of eps max|l|: some ten times what was measured


@dataclass(frozen=True)
class Sampling:
    """How to continue a prompt.

    Temperature 0 is greedy; `top_p` keeps the smallest set of tokens of that probability.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


def stop_ids(model, tokenizer):
    """Ids that end an answer: the generation configuration's, the tokenizer's end of text, and the
    mark by which the chat template ends an assistant's message.
    """
    own = getattr(model.generation_config, "eos_token_id", None)
    own = own if isinstance(own, (list, tuple)) else [own]
    ends = [*own, tokenizer.eos_token_id]
    with contextlib.suppress(UserError):  # a template that fails is said where a model is asked
        ends.append(end_id(tokenizer))
    return {i for i in ends if i is not None}


def alone(model, ids):
    """Canonical next-token logits [V] (float32) behind `ids`: one pass, unpadded, without cache."""
    out = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    return out.logits[0, -1].float()


def choose(model, logits, prefixes):
    """Greedy token of each row of `logits` [B, V] (float32) behind `prefixes` (B token id lists).

    Near ties are decided as the module's docstring says.
    """
    top = logits.topk(2).values
    e = NOISE.get(model.dtype, 64) * torch.finfo(model.dtype).eps * logits.abs().amax(-1)
    chosen = logits.argmax(-1)
    for row in torch.nonzero(top[:, 0] - top[:, 1] <= 2 * e).flatten().tolist():
        chosen[row] = alone(model, prefixes[row]).argmax()
    return chosen.tolist()


def draw(logits, sampling, uniform):
    """A token of `logits` [V] by inverse transform of `uniform` in [0, 1).

    The nucleus is ordered by falling probability; sums are in float64.
    """
    p, order = torch.softmax(logits.double() / sampling.temperature, -1).sort(
        descending=True, stable=True
    )
    total = p.cumsum(-1)
    # a token belongs to the nucleus where those before it do not reach top_p
    count = max(1, int((total - p < sampling.top_p).sum()))
    place = torch.searchsorted(total[:count], uniform * total[count - 1], right=True)
    return int(order[min(int(place), count - 1)])


@torch.no_grad()
def stream(model, prompts, sampling, stop=(), pad_id=0, keys=None):
    """Yield, step by step, (rows, tokens, logits [len(rows), V]) for the prompts that still go on.

    A prompt (a list of token ids) ends with a token of `stop`, after `max_new_tokens`, or where the
    model's context ends. Random numbers come from the seed and the prompt's key (its text) alone:
    neither its neighbours nor the model changes them.
    """
    room, accepted = context_length(model.config), inspect.signature(model.forward).parameters
    last = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
    draws = [random.Random(f"{sampling.seed} {key}") for key in keys or map(str, prompts)]
    longest, device = max(map(len, prompts)), model.device
    ids = torch.tensor([[pad_id] * (longest - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    rows, texts, cache = list(range(len(prompts))), [list(p) for p in prompts], None
    while rows:
        where = (mask.cumsum(-1) - 1).clamp_min(0)[:, -ids.size(1) :]
        where = {"position_ids": where} if "position_ids" in accepted else {}
        out = model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **where,
            **last,
        )
        # a family without a cache (GPT) reads the whole text at every step
        logits, cache = out.logits[:, -1].float(), getattr(out, "past_key_values", None)
        if not torch.isfinite(logits.amax(-1)).all():
            raise UserError(
                "the model gives NaN or infinite logits: it is broken, and has no next token."
            )
        if sampling.temperature == 0:
            tokens = choose(model, logits, [texts[r] for r in rows])
        else:
            tokens = [
                draw(row, sampling, draws[r].random())
                for r, row in zip(rows, logits.cpu(), strict=True)
            ]
        for row, token in zip(rows, tokens, strict=True):
            texts[row].append(token)
        yield rows, tokens, logits
        keep = []
        for i, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            limit = min(room, len(prompts[row]) + sampling.max_new_tokens)
            if token not in stop and len(texts[row]) < limit:
                keep.append(i)
        if len(keep) < len(rows):
            chosen = torch.tensor(keep, dtype=torch.long, device=device)
            rows, tokens, mask = [rows[i] for i in keep], [tokens[i] for i in keep], mask[chosen]
            if rows and cache is not None:
                cache.batch_select_indices(chosen)
            ids = ids[chosen]
        new = torch.tensor(tokens, device=device)[:, None]
        ids = torch.cat([ids, new], 1) if cache is None else new
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)


def generate(model, prompts, sampling, stop=(), pad_id=0, keys=None, batch_size=64):
    """The continuation (token ids, without the stop token) of every prompt, batched by length."""
    continuations = [[] for _ in prompts]
    for indices in by_length(prompts, batch_size):
        batch = [prompts[i] for i in indices]
        own_keys = [keys[i] for i in indices] if keys else None
        for rows, tokens, _ in stream(model, batch, sampling, stop, pad_id, own_keys):
            for row, token in zip(rows, tokens, strict=True):
                if token not in stop:
                    continuations[indices[row]].append(token)
    return continuations
