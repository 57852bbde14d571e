"""Teacher-forced scores of answers: the log-probability of every token, and is it the likeliest?

Prompt and answer are tokenised as one text, joined by data.tokens.join_template: by one blank, or
by nothing where the prompt ends as a chat template does. The answer's tokens are those behind the
longest common prefix with the prompt's own. Two tokenisations joined would give token pairs that no
text has (a second BOS, a dangling blank). The end token stands behind every answer; which
definitions count it is their business.
"""

import math
from typing import NamedTuple

import torch

from brittle.base.errors import UserError
from brittle.data.batches import batches
from brittle.data.tokens import common_prefix, encode_prompts, join_template, marks_of
from brittle.maths.precision import wide


class Scored(NamedTuple):
    """An answer's tokens, the end token last.

    logprobs: log p of each token, in nats. right: whether the token is the argmax there.
    """

    logprobs: list[float]
    right: list[bool]

    def tokens(self, eos):
        """log p of the tokens that count; the answer itself always has one."""
        return self.logprobs if eos or len(self.logprobs) < 2 else self.logprobs[:-1]

    def right_tokens(self, eos, drop_last):
        """`right` of the tokens that count; `drop_last` leaves the last of them out."""
        right = self.right[: len(self.tokens(eos))]
        return right[:-1] if drop_last and len(right) > 1 else right


def encode(tokenizer, pairs, max_length, boundary="together"):
    """[(ids, start)] of (prompt, answer) pairs, with the end token behind each.

    Texts are cut on the left, never in the answer's first token.

    The boundary `length` starts behind as many tokens as the prompt has, its trailing blank
    included. That is what open-unlearning does. Where there is such a blank, the first answer token
    merges with it and has no loss: of a one-token answer only the end token is scored.
    """
    together, encoded = boundary == "together", []
    asked, marks = [prompt for prompt, _ in pairs], marks_of(tokenizer)
    texts = [join_template(prompt, answer, marks) for prompt, answer in pairs]
    whole = tokenizer(texts)["input_ids"]
    prompts = encode_prompts(tokenizer, asked) if together else tokenizer(asked)["input_ids"]
    for ids, prompt in zip(whole, prompts, strict=True):
        start = min(common_prefix(ids, prompt), len(ids) - 1) if together else len(prompt)
        if ids[-1] != tokenizer.eos_token_id and tokenizer.eos_token_id is not None:
            ids = [*ids, tokenizer.eos_token_id]
        # at least one token is scored, and one stands before it
        start = max(1, min(start, len(ids) - 1))
        cut = max(0, len(ids) - max_length)
        encoded.append((ids[cut:], max(1, start - cut)))
    return encoded


def score(model, encoded, pad_id, batch_size=64):
    """[Scored] of `encode`'s pairs, in their order; float32 log-probabilities, padding never seen.

    Raises UserError where a log-probability is NaN or infinite.
    """
    scored = [None] * len(encoded)
    texts, starts = [ids for ids, _ in encoded], [start for _, start in encoded]
    with torch.no_grad():
        for indices, batch in batches(texts, pad_id, batch_size, model.device):
            logprobs = wide(model(**batch).logits[:, :-1]).log_softmax(-1)
            target = batch["input_ids"][:, 1:]
            own = logprobs.gather(-1, target[..., None])[..., 0].double().cpu()
            right = (logprobs.argmax(-1) == target).cpu()
            for row, i in enumerate(indices):
                span = slice(starts[i] - 1, len(texts[i]) - 1)
                scored[i] = Scored(own[row, span].tolist(), right[row, span].tolist())
    if not all(math.isfinite(value) for answer in scored for value in answer.logprobs):
        raise UserError(
            "the model gives NaN or infinite log-probabilities: "
            "it is broken, and has no probability of an answer."
        )
    return scored


def nll(scored, *, eos=False):
    """Mean NLL a token of the answer, in nats."""
    tokens = scored.tokens(eos)
    return -math.fsum(tokens) / len(tokens)


def probability(scored, *, eos=False):
    """P(answer | prompt)^(1/n) = exp(-mean NLL)."""
    return math.exp(-nll(scored, eos=eos))


def exact_memorisation(scored, *, eos=False, drop_last=False):
    """Share of the answer's tokens that are the argmax, teacher-forced (Tirumala et al. 2022)."""
    right = scored.right_tokens(eos, drop_last)
    return sum(right) / len(right)


def extraction_strength(scored, *, eos=False, drop_last=False, floor=False):
    """1 - k/n (Carlini et al. 2021), n the answer's tokens.

    k is the first place from which the model reproduces the whole rest of the answer. Where not
    even the last token comes, k = n and the strength is 0; `floor` gives 1/n there, as
    open-unlearning's loop does.
    """
    right = scored.right_tokens(eos, drop_last)
    k = len(right)
    while k and right[k - 1]:
        k -= 1
    return 1 - (min(k, len(right) - 1) if floor else k) / len(right)


def truth_ratios(correct, wrong, *, eos=False):
    """{arith, geom, prob} of one item: how likely its wrong answers are beside the correct one.

    With p the probability a token of the correct answer (of the paraphrased one where there is
    one): arith = mean_k p_k / p (TOFU's paper), geom = exp(-mean_k nll_k) / p (its forget-quality
    code), prob = p / (p + mean_k p_k). arith and geom are 1 for a model that knows nothing.
    """
    own, others = nll(correct, eos=eos), [nll(answer, eos=eos) for answer in wrong]
    # differences of NLLs before exp: nothing underflows
    mean = math.fsum(math.exp(own - other) for other in others) / len(others)
    return {
        "arith": mean,
        "geom": math.exp(own - math.fsum(others) / len(others)),
        "prob": 1 / (1 + mean),
    }
