"""RepSelect: one step along the forget gradient with its spectrum turned over (Sondej et al. 2026,
arXiv:2606.17168).

    G = gradient of -NLL_forget, one pass, with adapters that recall the texts better;   G = sum_i s_i u_i v_i^T
    G' = G with its q leading directions divided by s_i / s_q on each side;   theta <- theta - c G'

The adapters are low-rank, trained on the forget texts by plain SGD (--lr, --steps: one pass), and
gone afterwards. All matrices of the MLPs move.

soft        divided by s_i / s_q: on one side all q get the weight s_q (an orthogonalised step), on
            both s_q^2 / s_i: the strongest common direction becomes the weakest
quadratic   divided by (s_i / s_q)^2
hard        removed
none        one large step of gradient ascent

Directions are those of G, or with --basis retain those of the retain gradient. s_q is at least 1e-6
s_1. The length c is bracketed and bisected where there is a --kl-budget; the weights are made of
the start's each time.
"""  # noqa: E501  (the formula is one cell of a table)

from dataclasses import dataclass
from typing import ClassVar

from brittle.base.knobs import knob, log_range, one_of
from brittle.methods.base import Method

FLOOR = 1e-6  # of the largest singular value
GRADIENT_BATCH = 16  # texts


def weights_of(s, mode):
    """Factors [q] of the leading directions, whose singular values s [q] fall."""
    import torch

    floored = s.clamp_min(FLOOR * s[0])
    ratio = torch.nan_to_num(floored[-1] / floored, nan=1.0)
    return {
        "soft": ratio,
        "quadratic": ratio.square(),
        "hard": torch.zeros_like(s),
        "none": torch.ones_like(s),
    }[mode]


def turned_over(g, of, count, mode, sides):
    """The matrix g [m, n] with the `count` leading directions of the matrix `of` weighted by
    `mode`, on `sides`: both, output or input. In float32 or wider.
    """
    import torch

    from brittle.maths.linalg import svd

    if mode == "none" or not bool(of.any()):
        return g
    u, s, v = (factor.to(g.dtype) for factor in svd(of, min(count, *of.shape)))
    factors = weights_of(s, mode) - 1
    if sides in ("both", "output"):
        g = g + u @ (factors[:, None] * (u.mT @ g))
    if sides in ("both", "input"):
        g = g + torch.mul(g @ v, factors) @ v.mT
    return g


def gradient_of(model, stream, sign, parameters):
    """Gradients of sign times the NLL a token of all texts of a stream, one pass; zeros where there
    are none.
    """
    import torch

    from brittle.data.batches import batches
    from brittle.models.logprobs import nll

    total = [torch.zeros_like(p) for p in parameters]
    tokens = sum(example.counts().targets for example in stream.examples)
    for _, batch in batches(stream.examples, stream.pad_id, GRADIENT_BATCH, model.device):
        loss = sign * nll(model, batch) * (batch.n_targets / tokens)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for buffer, gradient in zip(total, gradients, strict=True):
            if gradient is not None:
                buffer.add_(gradient)
    return total


@dataclass
class RepSelect(Method):
    kind: ClassVar[str] = "weight-space"
    one_step: ClassVar[bool] = True
    recall_rank: int = knob(8, "Rank of the adapters that recall; 0 leaves them out.", low=0)
    components: int = knob(512, "Leading directions q.", low=1, search=log_range(4, 1024))
    collapse: str = knob(
        "soft",
        "What the leading directions get: soft, quadratic, hard, none.",
        choices=("soft", "quadratic", "hard", "none"),
        search=one_of("soft", "quadratic", "hard"),
    )
    sides: str = knob(
        "both",
        "Sides of the gradient: both, output, input.",
        choices=("both", "output", "input"),
        search=one_of("both", "output", "input"),
    )
    basis: str = knob(
        "forget", "Gradient whose directions count: forget, retain.", choices=("forget", "retain")
    )
    step_length: float = knob(0.05, "Length c of the step, without --kl-budget.", low=0)

    def trains(self, model):
        from brittle.models.blocks import block_count, mlp_matrices

        return mlp_matrices(model, range(block_count(model)))

    def start(self, model, reference, data):
        super().start(model, reference, data)
        self.data = data
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}

    def losses(self, forget, retain, progress):
        from brittle.models.logprobs import nll

        return {"forget": nll(self.model, forget)}

    def fit(self, loop):
        import torch

        from brittle.training.cost import Cost

        history, adapted = self.recall(loop)
        parameters = list(self.trained.values())
        for p in parameters:
            p.requires_grad_()
        self.model.eval()
        cost = Cost()
        with cost:
            of_forget = of_basis = gradient_of(self.model, self.data.forget, -1, parameters)
            if self.basis == "retain":
                of_basis = gradient_of(self.model, self.data.retain, -1, parameters)
        if adapted:
            adapted.unload()
        norm, self.last_step = 0.0, {}
        for (name, p), g, of in zip(self.trained.items(), of_forget, of_basis, strict=True):
            change = self.change(name, g, of)
            norm += float(change.square().sum())
            self.last_step[name] = -self.step_length * change
            with torch.no_grad():
                p.add_(self.last_step[name])
        row = {"step": len(history) + 1, "grad_norm": norm**0.5, "lr": self.step_length}
        return [*history, {**row, "flops": cost.flops}]

    def recall(self, loop):
        """Train adapters on the forget texts: (history, the PEFT model or None)."""
        from brittle.training import adapters

        rank, linear = self.recall_rank, self.linear()
        if not rank or not linear:
            return [], None
        adapted = adapters.add(self.model, linear, rank, rank, "all", self.seed)
        history = loop()
        for p in self.model.parameters():
            p.requires_grad_(requires_grad=False)
        return history, adapted

    def linear(self):
        """Names of what trains of linear modules: stacks of experts take no adapters."""
        import torch
        from transformers.pytorch_utils import Conv1D

        modules = {f"{name}.weight": module for name, module in self.model.named_modules()}
        kinds = torch.nn.Linear | Conv1D
        return [name for name in self.trained if isinstance(modules.get(name), kinds)]

    def change(self, name, g, of):
        """G' of the parameter `name`: of a matrix, or of each of a stack."""
        import torch

        from brittle.models.architectures import as_rows

        config = self.model.config
        pairs = (as_rows(g, name, config), as_rows(of, name, config))
        if g.ndim == 3:
            turned = torch.stack([self.turn(*pair) for pair in zip(*pairs, strict=True)])
        else:
            turned = self.turn(*pairs)
        return as_rows(turned, name, config)

    def turn(self, g, of):
        return turned_over(g, of, self.components, self.collapse, self.sides)
