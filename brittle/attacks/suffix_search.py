"""The search of GCG: a suffix of tokens that makes the right answers likely.

It is the algorithm of Zou et al. 2023 (arXiv:2307.15043), with one suffix for all questions.
Each step takes the gradient of the answers' mean NLL with respect to the suffix's one-hot rows,
draws single-token swaps from the `top` most promising tokens of each position, and keeps the best
one if the loss falls: it never rises. Only suffixes that a tokenizer makes again from their own
text are tried, so they can be typed.
"""

from dataclasses import dataclass, field

import torch

from brittle.attacks.base import Prompt
from brittle.data.batches import pad
from brittle.data.tokens import answer_mask
from brittle.maths.intervals import generator
from brittle.models.logprobs import answer_nll, token_logprobs

DRAWS = 500  # random suffixes to try until one can be typed


@dataclass
class Suffix(Prompt):
    """Tokens behind the question: before its answer, or before a chat template ends the user's
    message.
    """

    ids: list = field(default_factory=list)

    def tokens(self, ids, slot):
        return [*ids[:slot], *self.ids, *ids[slot:]], slot + len(self.ids)


def can_be_typed(tokenizer, suffix):
    """Does the suffix's own text give the same tokens again?"""
    text = tokenizer.decode(suffix)
    return tokenizer(text, add_special_tokens=False)["input_ids"] == list(suffix)


def allowed_tokens(tokenizer, size):
    """[size] bool: tokens with printable text that are not special."""
    special = set(tokenizer.all_special_ids)
    texts = [tokenizer.decode([t]) if t < len(tokenizer) else "" for t in range(size)]
    plain = [bool(s.strip()) and s.isprintable() and "�" not in s for s in texts]
    return torch.tensor([fine and t not in special for t, fine in enumerate(plain)])


class SuffixSearch:
    """The suffix search on fixed questions. pairs: [data.asking.Told] of questions with their
    right answers.
    """

    def __init__(self, model, tokenizer, pairs, length, candidates, top, seed):
        self.model, self.tokenizer, self.pairs = model, tokenizer, pairs
        self.candidates, self.top = candidates, top
        self.draw = generator(seed, "gcg")
        self.allowed = allowed_tokens(tokenizer, model.get_input_embeddings().weight.size(0))
        self.suffix = self.first(length)
        self.loss = self.losses([self.suffix])[0]

    def first(self, length):
        """A random suffix that can be typed, if one of DRAWS can."""
        tokens = self.allowed.nonzero().flatten()
        for _ in range(DRAWS):
            suffix = tokens[torch.randint(len(tokens), (length,), generator=self.draw)].tolist()
            if can_be_typed(self.tokenizer, suffix):
                break
        return suffix

    def batch(self, suffixes):
        """Every suffix with every question: (batch, where the suffixes start [B], where the answers
        start [B]).
        """
        device = self.model.device
        prompted = [one.put(Suffix(suffix)) for suffix in suffixes for one in self.pairs]
        batch = pad([one.ids for one in prompted], self.tokenizer.pad_token_id, device)
        ends = torch.tensor([one.slot for one in prompted], device=device)
        starts = torch.tensor([one.start for one in prompted], device=device)
        return batch, ends - len(suffixes[0]), starts

    @torch.no_grad()
    def losses(self, suffixes):
        """Mean over the questions of the answers' summed NLL, one number a suffix."""
        batch, _, starts = self.batch(suffixes)
        logprobs = token_logprobs(self.model(**batch).logits, batch["input_ids"]).double()
        summed = -(logprobs * answer_mask(batch, starts)).sum(1)
        return summed.view(len(suffixes), -1).mean(1).tolist()

    def gradient(self):
        """[length, V]: of the loss, with respect to one-hot rows of the suffix."""
        embed = self.model.get_input_embeddings()
        batch, slots, starts = self.batch([self.suffix])
        suffix = torch.tensor(self.suffix, device=slots.device)
        hot = torch.nn.functional.one_hot(suffix, len(embed.weight)).to(embed.weight.dtype)
        hot.requires_grad_()
        position = torch.arange(batch["input_ids"].size(1), device=slots.device)
        offset = position - slots[:, None]  # [B, T]: place in the suffix
        inside = ((offset >= 0) & (offset < len(self.suffix)))[..., None]
        soft = (hot @ embed.weight)[offset.clamp(0, len(self.suffix) - 1)]
        inputs = torch.where(inside, soft, embed(batch["input_ids"]))

        def forward(input_ids, attention_mask):
            return self.model(inputs_embeds=inputs, attention_mask=attention_mask)

        return torch.autograd.grad(answer_nll(forward, batch, starts), hot)[0].float()

    def swaps(self):
        """At most `candidates` suffixes that differ from the current one in one token, drawn from
        the promising ones.
        """
        scores = (-self.gradient().cpu()).masked_fill(~self.allowed, -torch.inf)
        best = scores.topk(min(self.top, int(self.allowed.sum())), -1).indices
        tried = []
        for _ in range(4 * self.candidates):
            place, rank = (int(torch.randint(n, (1,), generator=self.draw)) for n in best.shape)
            suffix = [*self.suffix[:place], int(best[place, rank]), *self.suffix[place + 1 :]]
            new = suffix not in tried and suffix != self.suffix
            if new and can_be_typed(self.tokenizer, suffix):
                tried.append(suffix)
            if len(tried) == self.candidates:
                break
        return tried

    def step(self):
        """One swap, if one lowers the loss. Returns the loss."""
        tried = self.swaps()
        if tried:
            losses = self.losses(tried)
            lowest = min(range(len(losses)), key=losses.__getitem__)
            if losses[lowest] < self.loss:
                self.suffix, self.loss = tried[lowest], losses[lowest]
        return self.loss
