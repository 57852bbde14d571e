"""Gaussian noise on the weights: what is only just hidden may come back when they are shaken.

    W <- W + scale * rms(W) * e,    e ~ N(0, 1) per entry

in every attention and MLP matrix; rms(W) is the root mean square of that matrix, so one scale suits
all.
"""

from dataclasses import dataclass

from brittle.attacks.base import Attack, kept, matrices
from brittle.base.knobs import knob


def add_noise(model, scale, seed):
    """Noise drawn by (seed, matrix) on the model's device; scale 0 changes nothing."""
    import torch

    from brittle.maths.intervals import generator

    if not scale:
        return
    with torch.no_grad():
        for name, w in matrices(model):
            drawn = torch.randn(
                w.shape, generator=generator(seed, f"noise {name}", w.device), device=w.device
            )
            size = torch.linalg.vector_norm(w.float()) / w.numel() ** 0.5
            w.copy_((w.float() + scale * size * drawn).to(w.dtype))


@dataclass
class Noise(Attack):
    """Every scale, with several draws of the noise."""

    scale: tuple = knob((0.05, 0.1, 0.2, 0.3), "Noise / root mean square of a matrix.", low=0)
    draws: int = knob(1, "Draws of the noise at every scale.", low=1)

    def run(self, model, tokenizer, material, measure):
        for scale in self.scale:
            for draw in range(self.draws):
                name = f"noise {scale:g}"
                if self.draws > 1:
                    name += f", draw {draw}"
                with kept(model):
                    add_noise(model, scale, self.seed * 1009 + draw)
                    measure(name, noise=scale, draw=draw)
