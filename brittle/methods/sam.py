"""SAM: NPO in a flat minimum, whose gradient is taken at disturbed weights (Fan et al. 2025,
arXiv:2502.05374).

    g = grad forget(theta + r grad forget / ||grad forget||) + v grad R(theta)

sam       the above: the disturbance of length r that undoes most of the forgetting
rs        random smoothing: the mean gradient at theta + N(0, s^2) over `sam_draws` draws
gradnorm  grad forget + lambda grad ||grad forget||, with lambda ||grad forget|| as penalty. Its
          gradient H g / ||g|| is the difference quotient (grad forget(theta + r g / ||g||) - g) / r
plain     NPO, to the bit; so is r = 0

The disturbance runs over all weights that train. In the public code the penalty of gradnorm is
turned into a number before it is added, and has no gradient. The forget term that is logged is that
at the weights themselves, without the penalty. Each micro-batch has a disturbance of its own.
"""

from dataclasses import dataclass
from typing import ClassVar

from brittle.base.knobs import knob, log_range
from brittle.methods.npo import NPO


@dataclass
class SAM(NPO):
    kind: ClassVar[str] = "gradient"
    smoothing: str = knob(
        "sam",
        "What is flattened: sam, rs (random smoothing), gradnorm, plain.",
        choices=("sam", "rs", "gradnorm", "plain"),
    )
    sam_radius: float = knob(
        0.01, "Length r of the disturbance.", low=0, search=log_range(1e-3, 0.3)
    )
    sam_noise: float = knob(1e-4, "Standard deviation s of the noise (rs).", low=0)
    sam_draws: int = knob(3, "Draws of the noise (rs).", low=1)
    sam_penalty: float = knob(1.0, "Weight lambda of the penalty (gradnorm).", low=0)

    def losses(self, forget, retain, progress):
        if self.smoothing == "plain" or (self.smoothing != "rs" and not self.sam_radius):
            return super().losses(forget, retain, progress)
        # first: it moves the weights, which no other term's graph may hold
        smooth = self.smoothed(forget)
        return {"forget": smooth, "retain": self.retain_term(retain)}

    def smoothed(self, batch):
        """The forget term as a scalar with the smoothed gradient. The weights stay to the bit."""
        import torch

        trained = [p for p in self.model.parameters() if p.requires_grad]
        value, own = self.gradient_at(batch, trained)
        before = [p.detach().clone() for p in trained]
        if self.smoothing == "rs":
            gradient = self.smoothed_at_random(batch, trained, before)
        else:
            size = torch.linalg.vector_norm(torch.stack([g.norm() for g in own])).clamp_min(1e-12)
            gradient = self.at(batch, trained, before, [self.sam_radius * g / size for g in own])
        if self.smoothing == "gradnorm":
            scale = self.sam_penalty / self.sam_radius
            gradient = [g + scale * (there - g) for g, there in zip(own, gradient, strict=True)]
        # a linear function of theta with the right value and, by construction, the right gradient
        return value + sum(
            (g * (p - start)).sum() for g, p, start in zip(gradient, trained, before, strict=True)
        )

    def gradient_at(self, batch, trained):
        """(the forget term, its gradient) at the weights as they are."""
        import torch

        loss = self.forget_term(batch)
        gradient = torch.autograd.grad(loss, trained, allow_unused=True)
        filled = [
            torch.zeros_like(p) if g is None else g for p, g in zip(trained, gradient, strict=True)
        ]
        return loss.detach(), filled

    def at(self, batch, trained, before, step):
        """The gradient at the weights `before` moved by `step`; they are put back."""
        import torch

        with torch.no_grad():
            for p, start, move in zip(trained, before, step, strict=True):
                p.copy_(start + move)
        torch.clear_autocast_cache()
        gradient = self.gradient_at(batch, trained)[1]
        with torch.no_grad():
            for p, start in zip(trained, before, strict=True):
                p.copy_(start)
        torch.clear_autocast_cache()
        return gradient

    def smoothed_at_random(self, batch, trained, before):
        """The mean gradient over draws of noise, which follow from the seed and the texts."""
        import torch

        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + sum(batch.index.tolist()))
        total = [torch.zeros_like(p) for p in trained]
        for _ in range(self.sam_draws):
            noise = [
                self.sam_noise * torch.randn(p.shape, generator=generator).to(p) for p in trained
            ]
            for t, g in zip(total, self.at(batch, trained, before, noise), strict=True):
                t.add_(g / self.sam_draws)
        return total
