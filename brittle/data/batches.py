"""Token ids, padded batches and endless seeded streams of batches. Padding is always masked.

What is batched is a list of Examples (brittle/data/examples.py), or of token id lists, in which
every token counts.
"""

import sys

from brittle.base.errors import UserError
from brittle.data.examples import DEFAULT, as_example, encode_whole


def encode(tokenizer, rows, max_length, name="texts", reading=DEFAULT):
    """Token ids of each row (str, Pair or Chat), up to its answer's end, cut at `max_length`
    tokens. A chat model's prompts and answers go through its template.

    Prints on stderr how many texts were cut. Raises UserError where no text has two tokens: then
    there is nothing to predict.
    """
    ids = [example.told for example in encode_whole(tokenizer, list(rows), reading, name)]
    cut = sum(len(i) > max_length for i in ids)
    if cut:
        shortened = f"{cut} of {len(ids)} {name} are longer than {max_length} tokens"
        print(f"note: {shortened} and are cut there.", file=sys.stderr)
    if not any(len(i) > 1 for i in ids):
        raise UserError(f"the {name} hold no tokens to predict (each has fewer than two).")
    return [i[:max_length] for i in ids]


class Batch(dict):
    """{input_ids, attention_mask} [B, T], plus what losses may need beside them:

    index: the numbers of the examples in their set.

    targets, predicting, states: [B, T], 1 at the tokens whose prediction a loss counts, at the
    positions that predict them, and at the positions whose states a method looks at; None where
    they are all real tokens. answer: [B, T], 1 at the tokens of the answer; None where no example
    has one.

    n_targets, n_tokens, n_states: what a sum over the predicted tokens, over those positions, or
    over states is divided by. A batch that stands alone has its own counts. A micro-batch has the
    counts of its whole step, divided by the number of micro-batches. So accumulated gradients equal
    those of one large batch.
    """

    index, targets, predicting, states, answer = None, None, None, None, None
    n_tokens, n_targets, n_states = None, None, None


def pad(examples, pad_id, device="cpu", index=None):
    """A `Batch` of examples or token id lists, padded on the right."""
    import torch

    examples = [as_example(example) for example in examples]
    longest = max(map(len, examples))

    def rows(lists, fill):
        return torch.tensor([row + [fill] * (longest - len(row)) for row in lists]).to(device)

    batch = Batch(
        input_ids=rows([example.ids for example in examples], pad_id),
        attention_mask=rows([[1] * len(example) for example in examples], 0),
    )
    for name in ("targets", "predicting", "states", "answer"):
        masks = [getattr(example, name) for example in examples]
        if any(mask is not None for mask in masks):
            filled = [
                [1] * len(example) if mask is None else [int(marked) for marked in mask]
                for example, mask in zip(examples, masks, strict=True)
            ]
            setattr(batch, name, rows(filled, 0))
    batch.index = torch.tensor(index if index is not None else range(len(examples)))
    set_counts(batch, examples)
    return batch


def set_counts(batch, examples, parts=1):
    """Give a batch the counts of `examples`, each divided by `parts`."""
    counts = [example.counts() for example in examples]
    tokens, targets, states = map(sum, zip(*counts, strict=True))
    batch.n_tokens = max(1, tokens) / parts
    batch.n_targets = max(1, targets) / parts
    batch.n_states = max(1, states) / parts


def by_length(ids, batch_size, tokens=None):
    """Lists of at most `batch_size` indices of `ids`. Texts of like length share a list.

    With `tokens`, a list holds at most that many tokens, padding included, but always one text.
    """
    lists, current = [], []
    # the texts come sorted by length, so the newest one is the longest of its list
    for i in sorted(range(len(ids)), key=lambda i: len(ids[i])):
        too_large = tokens and (len(current) + 1) * len(ids[i]) > tokens
        if not current or len(current) == batch_size or too_large:
            current = []
            lists.append(current)
        current.append(i)
    return lists


def batches(ids, pad_id, batch_size, device="cpu", tokens=None):
    """Yield (indices, batch) over all texts, sorted by length; see `by_length`."""
    for indices in by_length(ids, batch_size, tokens):
        yield indices, pad([ids[i] for i in indices], pad_id, device, indices)


class Stream:
    """An endless, seeded order over examples: epoch after epoch, each a new permutation.

    `batches(step)` depends on the seed and the step alone, so a resumed run goes on exactly where
    it stopped.
    """

    def __init__(self, examples, pad_id, batch_size, micro_batches=1, seed=0, device="cpu"):
        self.examples = [as_example(example) for example in examples]
        self.pad_id, self.device = pad_id, device
        self.batch_size, self.micro_batches, self.seed, self.epochs = (
            batch_size,
            micro_batches,
            seed,
            {},
        )

    @property
    def ids(self):
        """The token ids of each example."""
        return [example.ids for example in self.examples]

    def order(self, epoch):
        """The examples of one epoch, as a list of indices."""
        import torch

        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.examples), generator=generator).tolist()

    def _at(self, position):
        epoch, offset = divmod(position, len(self.examples))
        if epoch not in self.epochs:
            self.epochs = {epoch: self.order(epoch)}  # only the current epoch's order is kept
        return self.epochs[epoch][offset]

    def tokens(self, count):
        """Tokens of the first `count` examples of the order."""
        return sum(len(self.examples[self._at(i)]) for i in range(count))

    def read(self, indices):
        """Which of the examples of a batch are read: all of them."""
        return indices

    def batches(self, step):
        """The `micro_batches` batches of optimizer step `step`, each of `batch_size` texts.

        Averages divide by the counts of all the step's texts, read or not.
        """
        size = self.batch_size * self.micro_batches
        chosen = [self._at(i) for i in range(step * size, (step + 1) * size)]
        micro_batches = []
        for start in range(0, size, self.batch_size):
            indices = self.read(chosen[start : start + self.batch_size])
            examples = [self.examples[i] for i in indices]
            micro_batches.append(pad(examples, self.pad_id, self.device, indices))
        for batch in micro_batches:
            set_counts(batch, [self.examples[i] for i in chosen], len(micro_batches))
        return micro_batches
