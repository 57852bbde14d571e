"""Token ids, padded batches and endless seeded streams of batches. Padding is always masked."""

import sys

from brittle.base.errors import UserError


def encode(tokenizer, texts, max_length, name="texts"):
    """Token ids of each text, cut at `max_length` tokens.

    Prints on stderr how many texts were cut. Raises UserError where no text has two tokens: then
    there is nothing to predict.
    """
    ids = tokenizer(list(texts), add_special_tokens=True)["input_ids"]
    cut = sum(len(i) > max_length for i in ids)
    if cut:
        shortened = f"{cut} of {len(ids)} {name} are longer than {max_length} tokens"
        print(f"note: {shortened} and are cut there.", file=sys.stderr)
    if not any(len(i) > 1 for i in ids):
        raise UserError(f"the {name} hold no tokens to predict (each has fewer than two).")
    return [i[:max_length] for i in ids]


class Batch(dict):
    """{input_ids, attention_mask} [B, T], plus what losses may need beside them:

    index: the numbers of the examples in their set. n_tokens, n_targets: what a sum over the real
    tokens, or over the predicted tokens, is divided by. A batch that stands alone has its own
    counts. A micro-batch has the counts of its whole step, divided by the number of micro-batches.
    So accumulated gradients equal those of one large batch.
    """

    index, n_tokens, n_targets = None, None, None


def pad(ids, pad_id, device="cpu", index=None):
    """A `Batch` of token id lists, padded on the right."""
    import torch

    longest = max(map(len, ids))
    batch = Batch(
        input_ids=torch.tensor([i + [pad_id] * (longest - len(i)) for i in ids]).to(device),
        attention_mask=torch.tensor([[1] * len(i) + [0] * (longest - len(i)) for i in ids]).to(
            device
        ),
    )
    batch.index = torch.tensor(index if index is not None else range(len(ids)))
    batch.n_tokens = max(1, sum(map(len, ids)))
    batch.n_targets = max(1, sum(len(i) - 1 for i in ids))
    return batch


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
    """An endless, seeded order over token id lists: epoch after epoch, each a new permutation.

    `batches(step)` depends on the seed and the step alone, so a resumed run goes on exactly where
    it stopped.
    """

    def __init__(self, ids, pad_id, batch_size, micro_batches=1, seed=0, device="cpu"):
        self.ids, self.pad_id, self.device = ids, pad_id, device
        self.batch_size, self.micro_batches, self.seed, self.epochs = (
            batch_size,
            micro_batches,
            seed,
            {},
        )

    def order(self, epoch):
        """The examples of one epoch, as a list of indices."""
        import torch

        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.ids), generator=generator).tolist()

    def _at(self, position):
        epoch, offset = divmod(position, len(self.ids))
        if epoch not in self.epochs:
            self.epochs = {epoch: self.order(epoch)}  # only the current epoch's order is kept
        return self.epochs[epoch][offset]

    def tokens(self, count):
        """Tokens of the first `count` examples of the order."""
        return sum(len(self.ids[self._at(i)]) for i in range(count))

    def batches(self, step):
        """The `micro_batches` batches of optimizer step `step`, each of `batch_size` texts."""
        size = self.batch_size * self.micro_batches
        chosen = [self._at(i) for i in range(step * size, (step + 1) * size)]
        micro_batches = []
        for start in range(0, size, self.batch_size):
            indices = chosen[start : start + self.batch_size]
            ids = [self.ids[i] for i in indices]
            micro_batches.append(pad(ids, self.pad_id, self.device, indices))
        tokens = sum(len(self.ids[i]) for i in chosen)
        targets = max(1, tokens - len(chosen))
        for batch in micro_batches:
            batch.n_tokens = tokens / len(micro_batches)
            batch.n_targets = targets / len(micro_batches)
        return micro_batches
