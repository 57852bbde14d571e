"""Gaussian noise on the weights: what is only just hidden may come back when the weights are shaken.

    W <- W + scale * rms(W) * e,    e ~ N(0, 1) per entry

in every attention and MLP matrix; rms(W) is the root mean square of that matrix, so one scale suits all.
"""

from dataclasses import dataclass

import torch

from brittle.attacks.base import Attack, kept, matrices
from brittle.maths.intervals import generator


@torch.no_grad()
def add_noise(model, scale, seed):
    """Noise drawn by (seed, matrix) on the model's device; scale 0 changes nothing."""
    if not scale:
        return
    for name, w in matrices(model):
        drawn = torch.randn(
            w.shape, generator=generator(seed, f"noise {name}", w.device), device=w.device
        )
        size = torch.linalg.vector_norm(w.float()) / w.numel() ** 0.5
        w.copy_((w.float() + scale * size * drawn).to(w.dtype))


@dataclass
class Noise(Attack):
    scales: tuple = (0.05, 0.1, 0.2, 0.3)
    draws: int = 1

    def run(self, model, tokenizer, material, measure):
        for scale in self.scales:
            for draw in range(self.draws):
                with kept(model):
                    add_noise(model, scale, self.seed * 1009 + draw)
                    measure(
                        f"noise {scale:g}" + f", draw {draw}" * (self.draws > 1),
                        noise=scale,
                        draw=draw,
                    )
