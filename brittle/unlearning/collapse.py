"""The collapse check: a model that forgets because it is broken is named so.

Each of three signs is enough: the forget NLL a token lies above ln V (worse than guessing every
token alike), the predictions on neutral text moved by more than a nat a token and became worse, or
nearly every question gets the same choice. What was so before the training is no sign: it is the
starting model's, not the method's.
"""

import math
from typing import NamedTuple

import torch

from brittle.data.batches import batches
from brittle.data.examples import DEFAULT, encode_rows
from brittle.data.items import read_text_rows, subset
from brittle.data.texts import spread
from brittle.maths.precision import wide
from brittle.metrics import mcq
from brittle.metrics.neutral import LENGTH, LIMIT, kl_of_targets, neutral_file
from brittle.models.architectures import size
from brittle.models.logprobs import masked_mean, mean_nll, target_mask

# Neutral texts: enough for a mean KL, and the start's log-probabilities fit beside a 7B model.
TEXTS = 32
SHARE_LIMIT = 0.9


class NeutralTexts(NamedTuple):
    """Texts that the training should leave as they are, and what they are in words."""

    rows: list  # str, Pair or Chat each
    words: str


def neutral_texts(texts):
    """Neutral texts of the data folder (job.TextSets), else the retain set."""
    path = neutral_file(texts.data)
    if path:
        return NeutralTexts(read_text_rows(path), "neutral text")
    return NeutralTexts(texts.retain, "the retain texts (there is no neutral.txt)")


def neutral_examples(tokenizer, rows, reading):
    """Examples of rows spread over the set, cut at what `eval/` reads of neutral text."""
    whole = encode_rows(tokenizer, spread(rows, TEXTS), 10**9, reading, "neutral texts")
    short = [example.cut(LENGTH) for example in whole]
    return [example for example in short if example is not None and example.counts().targets]


class CollapseCheck:
    """Compares a trained model's predictions on neutral texts with the starting model's."""

    def __init__(
        self,
        model,
        tokenizer,
        rows,
        items,
        words="neutral text",
        forget_nll=None,
        reading=DEFAULT,
    ):
        """rows: neutral ones, which notes call `words`; items: {split: multiple-choice items}.

        forget_nll: of the starting model, a token on the held-out forget texts.
        """
        self.tokenizer, self.reading = tokenizer, reading
        self.items = [item for rows in items.values() for item in subset(rows, 100)]
        self.words = words
        self.examples = neutral_examples(tokenizer, rows, reading)
        self.before = list(self._logprobs(model))
        self.nll_before = self._nll(model)
        self.forget_nll_before = forget_nll
        self.share_before = self.constant_share(model)

    def _nll(self, model):
        """Mean NLL a token on the neutral texts, in nats."""
        return mean_nll(model, self.examples, self.tokenizer.pad_token_id)

    @torch.no_grad()
    def _logprobs(self, model):
        """(batch, log-probabilities [B, T, V] in half precision on CPU) of the neutral texts."""
        for _, batch in batches(self.examples, self.tokenizer.pad_token_id, 8, model.device):
            yield batch, wide(model(**batch).logits).log_softmax(-1).half().cpu()

    def kl(self, model):
        """Mean over predicted tokens of KL(p_start || p), in nats."""
        total = count = 0.0
        for (batch, before), (_, now) in zip(self.before, self._logprobs(model), strict=True):
            mask = target_mask(batch).cpu()
            mean = masked_mean(kl_of_targets(before, now), mask)
            total += mean.item() * batch.n_targets
            count += batch.n_targets
        return total / count

    def constant_share(self, model):
        """The share of the most frequent choice's position over all questions.

        None where there are fewer than 20.
        """
        if len(self.items) < 20:
            return None
        answered = mcq.outcomes(model, self.tokenizer, self.items, reading=self.reading)
        chosen = [outcome.prediction for outcome in answered]
        return max(chosen.count(p) for p in set(chosen)) / len(chosen)

    def check(self, model, forget_nll):
        """(signs of collapse, measures): sentences, and the numbers behind them.

        A sound model has no signs.
        """
        limit = math.log(size(model.config, "vocab_size"))
        measures = {
            "forget_nll": forget_nll,
            "neutral_kl": self.kl(model),
            "constant_share": self.constant_share(model),
        }
        signs = []
        above = forget_nll is not None and forget_nll > limit
        if above and not (self.forget_nll_before or 0) > limit:
            signs.append(f"forget NLL {forget_nll:.2f} a token is above ln V = {limit:.2f}")
        # what moved and became better was learned: the retain texts may be trained on
        if not measures["neutral_kl"] <= LIMIT and not self._nll(model) <= self.nll_before:
            signs.append(
                f"predictions on {self.words} moved by {measures['neutral_kl']:.2f} nats a token"
            )
        constant = (measures["constant_share"] or 0) > SHARE_LIMIT
        if constant and not (self.share_before or 0) > SHARE_LIMIT:
            signs.append(f"{measures['constant_share']:.0%} of all questions get the same choice")
        return signs, measures
