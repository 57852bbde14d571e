"""A soft prompt: vectors before the question, trained on half A until the model answers (Schwinn et al. 2024, arXiv:2402.09063).

The weights stay; only the vectors [k, D] learn, by Adam on the mean NLL of the answer's tokens. Half B is asked behind the
same vectors.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import torch

from brittle.attacks.base import Attack, frozen
from brittle.base.errors import UserError
from brittle.data.batches import Stream
from brittle.maths.intervals import generator
from brittle.metrics import mcq
from brittle.models.architectures import context_length
from brittle.models.logprobs import token_logprobs


@contextmanager
def prompted(model, vectors):
    """Forward passes of `model` on input_ids go through `vectors` [k, D] first; their logits are left out."""
    embed, k = model.get_input_embeddings(), len(vectors)

    def before(module, args, kwargs):
        ids, mask = kwargs.pop("input_ids"), kwargs.pop("attention_mask")
        if ids.size(1) + k > context_length(model.config):
            raise UserError(
                f"a prompt of {k} vectors and {ids.size(1)} tokens are more than the model's context."
            )
        front = vectors.to(model.dtype).expand(len(ids), -1, -1)
        kwargs["inputs_embeds"] = torch.cat([front, embed(ids)], 1)
        kwargs["attention_mask"] = torch.cat([mask.new_ones(len(ids), k), mask], 1)
        return args, kwargs

    def after(module, args, output):
        output.logits = output.logits[:, k:]
        return output

    handles = [
        model.register_forward_pre_hook(before, with_kwargs=True),
        model.register_forward_hook(after),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def answer_nll(model, batch, starts):
    """Mean over the batch of the answers' summed NLL; `starts` [B]: where each answer's tokens begin."""
    logprobs = token_logprobs(model(**batch).logits, batch["input_ids"])
    position = torch.arange(1, batch["input_ids"].size(1), device=starts.device)
    answer = (position >= starts[:, None]) & (batch["attention_mask"][:, 1:] == 1)
    return -(logprobs * answer).sum(1).mean()


def answered(tokenizer, items, limit):
    """(ids, starts) of every item with its right answer."""
    right = [{**item, "choices": [item["choices"][item["answer"]]]} for item in items]
    pairs = mcq.encode_items(tokenizer, right, limit)
    return [ids for ids, _ in pairs], [start for _, start in pairs]


def start_vectors(model, count, seed):
    """[count, D] float32: the embeddings of tokens drawn by `seed`."""
    weight = model.get_input_embeddings().weight
    drawn = torch.randint(len(weight), (count,), generator=generator(seed, "soft prompt"))
    return weight[drawn.to(weight.device)].detach().float()


@dataclass
class SoftPrompt(Attack):
    """`lr` is the length of a step as a share of the embeddings' root mean square."""

    count: int = 8
    steps: int = 60
    at: tuple = (20, 60)
    lr: float = 0.3
    batch_size: int = 32

    def run(self, model, tokenizer, material, measure):
        ids, starts = answered(
            tokenizer, material.forget(), context_length(model.config) - self.count
        )
        stream = Stream(ids, tokenizer.pad_token_id, self.batch_size, 1, self.seed, model.device)
        vectors = start_vectors(model, self.count, self.seed).requires_grad_(True)
        rate = self.lr * float(
            model.get_input_embeddings().weight.detach().float().pow(2).mean().sqrt()
        )
        optimizer = torch.optim.Adam([vectors], lr=rate)
        with frozen(model), prompted(model, vectors):
            for step in range(1, self.steps + 1):
                batch = stream.batches(step - 1)[0]
                loss = answer_nll(
                    model,
                    batch,
                    torch.tensor([starts[i] for i in batch.index.tolist()], device=model.device),
                )
                if not torch.isfinite(loss):
                    measure.broken(
                        f"{self.count} vectors, step {step}",
                        f"the loss is {loss.item()}",
                        vectors=self.count,
                        step=step,
                    )
                    return
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if step in self.at:
                    columns = {"vectors": self.count, "step": step, "train_nll": loss.item()}
                    measure(f"{self.count} vectors, step {step}", **columns)
