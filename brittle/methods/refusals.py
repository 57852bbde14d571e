"""Refusals: the forget set's prompts, each with an answer that tells nothing."""

import torch

from brittle.data.batches import Stream, pad
from brittle.data.examples import Example, TrainingReading
from brittle.data.texts import read_lines
from brittle.data.tokens import prompt_length

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
WHOLE = TrainingReading(loss_on="all", positions="all")


def replaced(example, start, reply):
    """A text without a known answer, with the tokens `reply` from `start` on."""
    answer = [False] * start + [True] * len(reply)
    return Example(example.ids[:start] + reply, answer, WHOLE)


class Refusals(Stream):
    """A stream's examples, each with a refusal in place of its answer.

    The refusal is drawn once for each example by `seed`, and rendered as the answer was. A text
    without a known answer keeps what stands before its last token ending in "?" or ":", else its
    first half.
    """

    def __init__(self, path, stream, tokenizer, seed):
        lines = read_lines(path) if path else REFUSALS
        replies = tokenizer([" " + line for line in lines], add_special_tokens=False)["input_ids"]
        drawn = torch.randint(
            len(replies), (len(stream.examples),), generator=torch.Generator().manual_seed(seed)
        ).tolist()
        examples = []
        for example, k in zip(stream.examples, drawn, strict=True):
            if example.row is not None:
                examples.append(example.reply(tokenizer, lines[k]))
                continue
            start = prompt_length([tokenizer.decode([t]) for t in example.ids])
            examples.append(replaced(example, start, replies[k]))
        super().__init__(
            examples, stream.pad_id, stream.batch_size, seed=seed, device=stream.device
        )

    @property
    def starts(self):
        """Where each refusal begins."""
        return [example.start for example in self.examples]

    def batch(self, like):
        """The refusals to the examples of the batch `like`.

        `.reply` [B, T-1] is 1 where a refusal's token is predicted.
        """
        chosen = like.index.tolist()
        device = like["input_ids"].device
        refused = pad([self.examples[i] for i in chosen], self.pad_id, device, chosen)
        refused.reply = refused.answer[:, 1:] == 1
        return refused
