"""A soft prompt: vectors before the question, trained on half A until the model answers.

The attack is that of Schwinn et al. 2024 (arXiv:2402.09063).
The weights stay; only the vectors [k, D] learn, by Adam on the mean NLL of the answer's tokens.
Half B is asked behind the same vectors.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from brittle.attacks.base import Attack, encode_right_answers, frozen
from brittle.base.errors import UserError
from brittle.base.knobs import knob


@contextmanager
def prompted(model, vectors):
    """Forward passes of `model` on input_ids go through `vectors` [k, D] first; their logits are
    left out.
    """
    import torch

    from brittle.models.architectures import context_length

    embed, k = model.get_input_embeddings(), len(vectors)

    def before(module, args, kwargs):
        ids, mask = kwargs.pop("input_ids"), kwargs.pop("attention_mask")
        if ids.size(1) + k > context_length(model.config):
            raise UserError(
                f"a prompt of {k} vectors and {ids.size(1)} tokens are more than the model's "
                "context."
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


def start_vectors(model, count, seed):
    """[count, D] float32: the embeddings of tokens drawn by `seed`."""
    import torch

    from brittle.maths.intervals import generator

    weight = model.get_input_embeddings().weight
    drawn = torch.randint(len(weight), (count,), generator=generator(seed, "soft prompt"))
    return weight[drawn.to(weight.device)].detach().float()


@dataclass
class SoftPrompt(Attack):
    """The prompt is measured after each number of steps in `at`."""

    HOLDS_OUT: ClassVar[bool] = True
    vectors: int = knob(8, "Vectors in front of the question.", low=1)
    steps: int = knob(60, "Optimizer steps.", low=1)
    lr: float = knob(0.3, "Length of a step / root mean square of the embeddings.", low=1e-9)
    train_batch: int = knob(32, "Questions a training step.", low=1)
    at: tuple = (20, 60)

    def run(self, model, tokenizer, material, measure):
        import torch

        from brittle.data.batches import Stream
        from brittle.models.architectures import context_length
        from brittle.models.logprobs import answer_nll

        limit = context_length(model.config) - self.vectors
        known = material.forget_to_train()
        ids, starts = encode_right_answers(tokenizer, known, limit, self.reading)
        stream = Stream(ids, tokenizer.pad_token_id, self.train_batch, 1, self.seed, model.device)
        vectors = start_vectors(model, self.vectors, self.seed).requires_grad_()
        embeddings = model.get_input_embeddings().weight.detach().float()
        rate = self.lr * float(embeddings.pow(2).mean().sqrt())
        optimizer = torch.optim.Adam([vectors], lr=rate)
        with frozen(model), prompted(model, vectors):
            for step in range(1, self.steps + 1):
                batch = stream.batches(step - 1)[0]
                begins = [starts[i] for i in batch.index.tolist()]
                loss = answer_nll(model, batch, torch.tensor(begins, device=model.device))
                name = f"{self.vectors} vectors, step {step}"
                columns = {"vectors": self.vectors, "step": step}
                if not torch.isfinite(loss):
                    measure.broken(name, f"the loss is {loss.item()}", **columns)
                    return
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if step in self.at:
                    measure(name, **columns, train_nll=loss.item())
