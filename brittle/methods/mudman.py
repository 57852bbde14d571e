"""MUDMAN: meta-unlearning with disruption masking and normalisation (Sondej et al. 2025,
arXiv:2506.12484).

    m <- mu m + (1 - mu) g_retain;   a <- a - eta_a grad NLL_forget(a), from theta every k steps
    g = grad at a of the forget loss, 0 where sign g differs from sign m;   theta <- theta - lr (g / ||g|| + v m)

a is an adversary that relearns the forget texts. The forget loss is the negative entropy of the
predictions, or -NLL. The norm is that of g before the mask, so the step shrinks as the mask closes:
--norm masked takes the norm behind it. So lr is the length of the forget step, at most. One matrix
of each MLP trains, the one that leads in (gate_proj, dense_h_to_4h).

The published retain rate is lr v. With several micro-batches a step the adversary takes a step on
each. A resumed run begins with m = 0 and a new adversary. Stop by --kl-budget.
"""  # noqa: E501  (the formula is one cell of a table)

from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from brittle.base.knobs import knob, log_range, one_of
from brittle.methods.base import Method


def leading_in(model):
    """The name of one matrix a block: of those of its MLP that lead in, the largest, the first of
    equals.
    """
    from brittle.models.architectures import layer_of
    from brittle.models.blocks import block_count, down_projections, mlp_matrices

    layers = range(block_count(model))
    names = set(mlp_matrices(model, layers)) - set(down_projections(model, layers))
    chosen = {}
    for name, p in model.named_parameters():
        if name in names:
            _, largest = chosen.get(layer_of(name), (name, 0))
            if p.numel() > largest:
                chosen[layer_of(name)] = name, p.numel()
    return [name for name, _ in chosen.values()]


@dataclass
class MUDMAN(Method):
    kind: ClassVar[str] = "weight-space"
    forget_loss: str = knob(
        "entropy",
        "Forget loss at the adversary: entropy (negative entropy), nll (-NLL).",
        choices=("entropy", "nll"),
        search=one_of("entropy", "nll"),
    )
    retain_weight: float = knob(
        0.01, "Weight v of the retain average.", low=0, search=log_range(1e-3, 10)
    )
    retain_memory: float = knob(0.9, "Share mu of the average that is kept.", low=0, high=1)
    adversary_lr: float = knob(1e-3, "Rate of the adversary.", low=0, search=log_range(3e-4, 1))
    adversary_steps: int = knob(32, "Steps k after which the adversary starts anew.", low=1)
    mask: str = knob("sign", "Entries that move: sign (as above), none.", choices=("sign", "none"))
    norm: str = knob(
        "whole", "Norm of g: whole (before the mask), masked.", choices=("whole", "masked")
    )

    def trains(self, model):
        return leading_in(model)

    def start(self, model, reference, data):
        super().start(model, reference, data)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.average, self.adversary, self.calls = None, None, 0

    @contextmanager
    def as_adversary(self):
        """In the block the model has the adversary's weights, and its own are with the adversary.

        They are copied: autocast keeps bfloat16 copies of parameters.
        """
        import torch

        def swap():
            for k, p in enumerate(self.trained):
                p.data, self.adversary[k] = self.adversary[k], p.data
            torch.clear_autocast_cache()

        swap()
        try:
            yield
        finally:
            swap()

    def forget_term(self, forget):
        """The forget loss at the weights that the model has."""
        from brittle.maths.precision import wide
        from brittle.models.logprobs import nll, token_mean

        if self.forget_loss == "nll":
            return -nll(self.model, forget)
        logp = wide(self.model(**forget).logits).log_softmax(-1)
        return token_mean((logp.exp() * logp).sum(-1), forget)

    def at_adversary(self, forget):
        """(value, gradients [tensor, ...]) of the forget loss at the adversary, after its step."""
        import torch

        from brittle.models.logprobs import nll

        if self.calls % self.adversary_steps == 0:
            self.adversary = [p.detach().clone() for p in self.trained]
        self.calls += 1
        with self.as_adversary():
            own = torch.autograd.grad(nll(self.model, forget), self.trained)
            with torch.no_grad():
                for p, gradient in zip(self.trained, own, strict=True):
                    p.sub_(gradient, alpha=self.adversary_lr)
            torch.clear_autocast_cache()
            term = self.forget_term(forget)
            return term.item(), torch.autograd.grad(term, self.trained)

    def losses(self, forget, retain, progress):
        from brittle.models.logprobs import nll

        value, gradients = self.at_adversary(forget)
        # linear in the weights, with the right value and the gradient of the adversary
        forget_term = value + sum(
            (g * (p - p.detach())).sum() for g, p in zip(gradients, self.trained, strict=True)
        )
        return {"forget": forget_term, "retain": nll(self.model, retain)}

    def combine(self, gradients, lr):
        from brittle.maths.linalg import norm_of

        forget, retain = gradients.pop("forget"), gradients.pop("retain")
        if self.average is None:
            self.average = [r.new_zeros(r.shape) for r in retain]
        for m, r in zip(self.average, retain, strict=True):
            m.lerp_(r, 1 - self.retain_memory)
        size = norm_of(forget).item()
        if self.mask == "sign":
            for g, m in zip(forget, self.average, strict=True):
                g.mul_(g.sign() == m.sign())
        size = norm_of(forget).item() if self.norm == "masked" else size
        scale = 1 / size if size > 0 else 0.0
        return [
            g.mul_(scale).add_(m, alpha=self.retain_weight)
            for g, m in zip(forget, self.average, strict=True)
        ]
