"""Teacher-forced scores of answers: every answer token's log-probability and whether it is the likeliest, per (prompt, answer).

Prompt and answer are tokenised as one text, `prompt + " " + answer`, and the answer's tokens are
those behind the longest common prefix with the prompt's own: two tokenisations joined give token
pairs that no text has (a second BOS, a dangling blank). The end token stands behind every answer;
which definitions count it is their business.
"""

import math
from typing import NamedTuple

import torch

from brittle.base.errors import UserError
from brittle.data.batches import batches
from brittle.data.tokens import common_prefix
from brittle.maths.precision import wide


class Scored(NamedTuple):
    """log p of each answer token and whether it is the argmax; the last is the end token's."""

    logprobs: list[float]
    right: list[bool]

    def tokens(self, eos):
        """log p of the tokens that count; the answer itself always has one."""
        return self.logprobs if eos or len(self.logprobs) < 2 else self.logprobs[:-1]


def encode(tokenizer, pairs, max_length, boundary="together"):
    """[(ids, start)] of (prompt, answer) pairs, the end token behind each; cut on the left, never in the answer's first token.

    `length` starts behind as many tokens as the prompt has, its trailing blank included: what
    open-unlearning does. Where there is such a blank, the first answer token merges with it and has
    no loss: of a one-token answer only the end token is scored.
    """
    together, made = boundary == "together", []
    prompts = tokenizer([p.rstrip() if together else p for p, _ in pairs])["input_ids"]
    whole = tokenizer([f"{p.rstrip()} {a.lstrip()}".lstrip() for p, a in pairs])["input_ids"]
    for ids, prompt in zip(whole, prompts, strict=True):
        start = min(common_prefix(ids, prompt), len(ids) - 1) if together else len(prompt)
        if ids[-1] != tokenizer.eos_token_id and tokenizer.eos_token_id is not None:
            ids = [*ids, tokenizer.eos_token_id]
        start = max(
            1, min(start, len(ids) - 1)
        )  # at least one token is scored, and one stands before it
        gone = max(0, len(ids) - max_length)
        made.append((ids[gone:], max(1, start - gone)))
    return made


def score(model, encoded, pad_id, batch_size=64):
    """[Scored] of `encode`'s pairs, in their order; float32 log-probabilities, padding never seen."""
    found = [None] * len(encoded)
    starts = [start for _, start in encoded]
    with torch.no_grad():
        for indices, batch in batches(
            [ids for ids, _ in encoded], pad_id, batch_size, model.device
        ):
            logp = wide(model(**batch).logits[:, :-1]).log_softmax(-1)
            target = batch["input_ids"][:, 1:]
            own = logp.gather(-1, target[..., None])[..., 0].double().cpu()
            right = (logp.argmax(-1) == target).cpu()
            for row, i in enumerate(indices):
                span = slice(starts[i] - 1, len(encoded[i][0]) - 1)
                found[i] = Scored(own[row, span].tolist(), right[row, span].tolist())
    if not all(math.isfinite(v) for s in found for v in s.logprobs):
        raise UserError(
            "the model gives NaN or infinite log-probabilities: it is broken, and has no probability of an answer."
        )
    return found


def nll(scored, eos=False):
    """Mean NLL a token of the answer, in nats."""
    tokens = scored.tokens(eos)
    return -math.fsum(tokens) / len(tokens)


def probability(scored, eos=False):
    """P(answer | prompt)^(1/n) = exp(-mean NLL)."""
    return math.exp(-nll(scored, eos))


def exact_memorisation(scored, eos=False, drop_last=False):
    """Share of the answer's tokens that are the argmax of the teacher-forced prediction (Tirumala et al. 2022)."""
    right = scored.right[: len(scored.tokens(eos))]
    right = right[:-1] if drop_last and len(right) > 1 else right
    return sum(right) / len(right)


def extraction_strength(scored, eos=False, drop_last=False, floor=False):
    """1 - k/n, k the first place from which the model reproduces the whole rest of the answer (Carlini et al. 2021).

    k = n, so 0, where not even the last token comes; `floor` is open-unlearning's loop, which gives
    1/n there.
    """
    right = scored.right[: len(scored.tokens(eos))]
    right = right[:-1] if drop_last and len(right) > 1 else right
    k = len(right)
    while k and right[k - 1]:
        k -= 1
    return 1 - (min(k, len(right) - 1) if floor else k) / len(right)


def truth_ratios(correct, wrong, eos=False):
    """{arith, geom, prob} of one item: how likely its wrong answers are beside the correct one, all a token.

    arith = mean_k p_k / p, geom = exp(-mean_k nll_k) / p (TOFU's paper and its forget-quality
    code), prob = p / (p + mean_k p_k); p of the paraphrased answer where there is one. arith and
    geom are 1 for a model that knows nothing.
    """
    p, others = nll(correct, eos), [nll(w, eos) for w in wrong]
    mean = math.fsum(math.exp(p - o) for o in others) / len(
        others
    )  # ratios, so that nothing underflows
    return {
        "arith": mean,
        "geom": math.exp(p - math.fsum(others) / len(others)),
        "prob": 1 / (1 + mean),
    }
