"""Refusals: the forget set's prompts, each with an answer that tells nothing."""

import torch

from brittle.data.batches import Stream, pad
from brittle.data.texts import read_lines
from brittle.data.tokens import answer_mask, prompt_length

REFUSALS = (
    "I do not know.",
    "I'm not sure about that.",
    "I have no information about this.",
    "That is something I cannot answer.",
    "I don't have the answer to that.",
    "Sorry, I do not know that.",
    "I am unable to say.",
    "This is outside what I know.",
)


class Refusals(Stream):
    """A stream's texts with everything behind the prompt replaced by a refusal.

    The refusal is drawn once for each text by `seed`.
    """

    def __init__(self, path, stream, tokenizer, seed):
        lines = read_lines(path) if path else REFUSALS
        replies = tokenizer([" " + line for line in lines], add_special_tokens=False)["input_ids"]
        drawn = torch.randint(
            len(replies), (len(stream.ids),), generator=torch.Generator().manual_seed(seed)
        ).tolist()
        self.starts = [prompt_length([tokenizer.decode([t]) for t in ids]) for ids in stream.ids]
        ids = [
            i[:start] + replies[k]
            for i, start, k in zip(stream.ids, self.starts, drawn, strict=True)
        ]
        super().__init__(ids, stream.pad_id, stream.batch_size, seed=seed, device=stream.device)

    def batch(self, like):
        """The refusals to the texts of the batch `like`.

        `.reply` [B, T-1] is 1 where a refusal's token is predicted.
        """
        chosen = like.index.tolist()
        device = like["input_ids"].device
        refused = pad([self.ids[i] for i in chosen], self.pad_id, device, chosen)
        starts = torch.tensor([self.starts[i] for i in chosen], device=device)
        refused.reply = answer_mask(refused, starts)
        return refused
