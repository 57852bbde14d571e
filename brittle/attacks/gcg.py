"""GCG: one suffix of real tokens behind every question, searched by gradient (Zou et al. 2023, arXiv:2307.15043).

Each step takes the gradient of the answers' mean NLL with respect to the suffix's one-hot rows, draws single-token swaps
from the `top` most promising tokens of each position, and keeps the best one if the loss falls: it never rises. The
questions searched with are of half A; the suffix is universal, half B is asked with the same one. Only suffixes that a
tokenizer makes again from their own text are tried, so they can be typed.
"""

from dataclasses import dataclass, field

import torch

from brittle.attacks.base import Attack, Prompt, frozen
from brittle.attacks.soft_prompt import answer_nll, answered
from brittle.data.batches import pad
from brittle.maths.intervals import generator
from brittle.models.architectures import context_length
from brittle.models.logprobs import token_logprobs


@dataclass
class Suffix(Prompt):
    """Tokens between the question and its answer."""

    ids: list = field(default_factory=list)

    def tokens(self, ids, start):
        return [*ids[:start], *self.ids, *ids[start:]], start + len(self.ids)


def typed(tokenizer, suffix):
    """Does the suffix's own text give the same tokens again?"""
    return tokenizer(tokenizer.decode(suffix), add_special_tokens=False)["input_ids"] == list(
        suffix
    )


def allowed_tokens(tokenizer, size):
    """[size] bool: tokens with printable text that are not special."""
    special = set(tokenizer.all_special_ids)
    texts = [tokenizer.decode([t]) if t < len(tokenizer) else "" for t in range(size)]
    plain = [bool(s.strip()) and s.isprintable() and "�" not in s for s in texts]
    return torch.tensor([fine and t not in special for t, fine in enumerate(plain)])


class Search:
    """The suffix search on fixed questions. pairs: [(ids, start)] of questions with their right answers."""

    def __init__(self, model, tokenizer, pairs, length, candidates, top, seed):
        self.model, self.tokenizer, self.pairs = model, tokenizer, pairs
        self.candidates, self.top = candidates, top
        self.draw = generator(seed, "gcg")
        self.allowed = allowed_tokens(tokenizer, model.get_input_embeddings().weight.size(0))
        self.suffix = self.first(length)
        self.loss = self.losses([self.suffix])[0]

    def first(self, length):
        tokens = self.allowed.nonzero().flatten()
        for _ in range(500):
            suffix = tokens[torch.randint(len(tokens), (length,), generator=self.draw)].tolist()
            if typed(self.tokenizer, suffix):
                break
        return suffix

    def batch(self, suffixes):
        """Every suffix with every question: (batch, where the suffixes start, where the answers start)."""
        made, slots = [], []
        for suffix in suffixes:
            for ids, start in self.pairs:
                made.append(Suffix(suffix).tokens(ids, start)[0])
                slots.append(start)
        slots = torch.tensor(slots, device=self.model.device)
        return (
            pad(made, self.tokenizer.pad_token_id, self.model.device),
            slots,
            slots + len(suffixes[0]),
        )

    @torch.no_grad()
    def losses(self, suffixes):
        """Mean over the questions of the answers' summed NLL, one number a suffix."""
        batch, _, starts = self.batch(suffixes)
        logprobs = token_logprobs(self.model(**batch).logits, batch["input_ids"]).double()
        position = torch.arange(1, batch["input_ids"].size(1), device=self.model.device)
        answer = (position >= starts[:, None]) & (batch["attention_mask"][:, 1:] == 1)
        return (-(logprobs * answer).sum(1)).view(len(suffixes), -1).mean(1).tolist()

    def gradient(self):
        """[length, V]: of the loss, with respect to one-hot rows of the suffix."""
        embed = self.model.get_input_embeddings()
        batch, slots, starts = self.batch([self.suffix])
        hot = torch.nn.functional.one_hot(
            torch.tensor(self.suffix, device=slots.device), len(embed.weight)
        ).to(embed.weight.dtype)
        hot.requires_grad_(True)
        offset = (
            torch.arange(batch["input_ids"].size(1), device=slots.device) - slots[:, None]
        )  # [B, T]: place in the suffix
        inside = ((offset >= 0) & (offset < len(self.suffix)))[..., None]
        soft = (hot @ embed.weight)[offset.clamp(0, len(self.suffix) - 1)]
        inputs = torch.where(inside, soft, embed(batch["input_ids"]))

        def forward(input_ids, attention_mask):
            return self.model(inputs_embeds=inputs, attention_mask=attention_mask)

        return torch.autograd.grad(answer_nll(forward, batch, starts), hot)[0].float()

    def step(self):
        """One swap, if one lowers the loss. Returns the loss."""
        scores = (-self.gradient().cpu()).masked_fill(~self.allowed, -torch.inf)
        best = scores.topk(min(self.top, int(self.allowed.sum())), -1).indices
        tried = []
        for _ in range(4 * self.candidates):
            place, rank = (int(torch.randint(n, (1,), generator=self.draw)) for n in best.shape)
            suffix = [*self.suffix[:place], int(best[place, rank]), *self.suffix[place + 1 :]]
            if suffix not in tried and suffix != self.suffix and typed(self.tokenizer, suffix):
                tried.append(suffix)
            if len(tried) == self.candidates:
                break
        if tried:
            found = self.losses(tried)
            lowest = min(range(len(found)), key=found.__getitem__)
            if found[lowest] < self.loss:
                self.suffix, self.loss = tried[lowest], found[lowest]
        return self.loss


@dataclass
class GCG(Attack):
    length: int = 8
    steps: int = 20
    candidates: int = 32
    top: int = 64
    items: int = 12
    at: tuple = (20,)

    def run(self, model, tokenizer, material, measure):
        from brittle.data.items import subset

        items = subset(material.forget(), self.items, self.seed)
        pairs = list(
            zip(
                *answered(tokenizer, items, context_length(model.config) - self.length), strict=True
            )
        )
        with frozen(model):
            search = Search(
                model, tokenizer, pairs, self.length, self.candidates, self.top, self.seed
            )
            for step in range(self.steps + 1):
                if step:
                    search.step()
                if step in self.at:
                    columns = {
                        "step": step,
                        "loss": search.loss,
                        "suffix": tokenizer.decode(search.suffix),
                    }
                    measure(f"{self.length} tokens, step {step}", Suffix(search.suffix), **columns)
