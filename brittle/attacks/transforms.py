"""Adaptive attackers: a selective method's own transform, turned on the attack's gradients.

The attacker knows the method. What RepSelect, CIR and MUDMAN take out of their updates, they leave
in the model, and a plain attack moves it first. These attackers leave it alone as well.

TurnedOver         the gradient of every MLP matrix with its spectrum turned over (RepSelect)
WithoutShared      gradients of MLP matrices without the directions that the attack's texts share
                   (CIR), measured again every RENEW steps
AgreeingWithRetain the entries whose sign agrees with that of the average retain gradient (MUDMAN)

Only what the method trains, trains. What is left has no scale of its own: it is scaled to length 1.
"""

from contextlib import contextmanager, nullcontext

import torch

from brittle.data.batches import Stream, batches
from brittle.maths.linalg import norm_of
from brittle.methods import directions
from brittle.methods.mudman import leading_in
from brittle.methods.repselect import turned_over
from brittle.models.architectures import as_rows
from brittle.models.blocks import block_count, mlp_matrices, train_only
from brittle.models.logprobs import nll
from brittle.training.steps import StepHook

RENEW = 50  # steps after which shared directions are measured again
SHARE = 1 / 8  # of a matrix's smaller side: directions that count as shared
MEMORY = 0.9  # of the average retain gradient
TEXTS = 32  # a batch


class Transform(StepHook):
    """Changes the gradients before each step, and scales them to length 1.

    pad_id, examples: of the attack's texts.
    """

    def __init__(self, model, pad_id, examples):
        self.model, self.pad_id, self.examples = model, pad_id, examples
        train_only(model, self.names())
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}

    def names(self):
        """Names of the parameters that train: all matrices of the MLPs."""
        return mlp_matrices(self.model, range(block_count(self.model)))

    def around(self, batch):
        """The context of a forward pass."""
        return nullcontext()

    def change(self):
        """Change what is in .grad."""

    def before_step(self):
        with torch.no_grad():
            self.change()
            gradients = [p.grad for p in self.trained.values() if p.grad is not None]
            size = norm_of(gradients)
            if size > 0:
                for gradient in gradients:
                    gradient.div_(size)


class TurnedOver(Transform):
    """As `repselect` by default: soft, both sides, directions of the gradient itself."""

    def change(self):
        for name, p in self.trained.items():
            if p.grad is None:
                continue
            rows = as_rows(p.grad, name, self.model.config)
            for matrix in rows if rows.ndim == 3 else [rows]:
                count = max(1, round(SHARE * min(matrix.shape)))
                matrix.copy_(turned_over(matrix, matrix, count, "soft", "both"))


class WithoutShared(Transform):
    """As `cir`: its directions are those of the attack's own texts and loss."""

    def __init__(self, model, pad_id, examples):
        super().__init__(model, pad_id, examples)
        self.modules = directions.linear_modules(model, range(block_count(model)))
        self.steps = 0

    def measure(self):
        """Shared directions of inputs and output gradients on the attack's texts."""
        observer, weights = directions.Observer(self.modules), list(self.trained.values())
        for _, batch in batches(self.examples, self.pad_id, TEXTS, self.model.device):
            with observer.watch(batch["attention_mask"].bool()):
                loss = nll(self.model, batch) * batch.n_targets
                torch.autograd.grad(loss, weights, allow_unused=True)
        count = max(1, round(SHARE * self.model.config.hidden_size))
        self.bases = observer.bases(count, count, self.model.device)

    @contextmanager
    def around(self, batch):
        if self.steps % RENEW == 0:
            self.measure()
        self.steps += 1
        with directions.collapsed(self.modules, self.bases, batch["attention_mask"]):
            yield


class AgreeingWithRetain(Transform):
    """As `mudman`: one matrix of each MLP trains."""

    def __init__(self, model, pad_id, examples, retain, seed):
        """retain: Examples of the retain questions."""
        super().__init__(model, pad_id, examples)
        self.stream = Stream(retain, pad_id, TEXTS, 1, seed, model.device)
        self.average, self.steps = None, 0

    def names(self):
        return leading_in(self.model)

    def change(self):
        weights = list(self.trained.values())
        with torch.enable_grad():
            loss = nll(self.model, self.stream.batches(self.steps)[0])
            retain = torch.autograd.grad(loss, weights)
        self.steps += 1
        self.average = self.average or [torch.zeros_like(p) for p in weights]
        for p, m, r in zip(weights, self.average, retain, strict=True):
            m.lerp_(r, 1 - MEMORY)
            p.grad.mul_(p.grad.sign() == m.sign())
