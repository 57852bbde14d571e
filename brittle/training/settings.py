"""Settings of a training run, its learning-rate schedule and its optimizers."""

import math
from dataclasses import dataclass, field

import torch

from brittle.base.errors import UserError
from brittle.base.knobs import factors
from brittle.models.blocks import blocks
from brittle.training.optim import Muon


@dataclass
class Settings:
    """How to train. Lengths are in optimizer steps.

    One optimizer step is `batch_size * grad_accum` examples a process. A field may say where a
    search looks for its value (base.knobs.Search).
    """

    steps: int = field(metadata={"search": factors(0.25, 2)})
    lr: float = field(default=1e-5, metadata={"search": factors(0.1, 10)})
    batch_size: int = 4
    grad_accum: int = 1
    # cosine and linear go to zero over the run, trapezoid decays over the last 40 %; or constant
    schedule: str = "cosine"
    # lengths of parts of the run that each have the whole schedule; the run as one where empty
    stretches: tuple = ()
    warmup: int = 0
    weight_decay: float = 0.0
    grad_clip: float = 1.0  # 0 is off
    # adamw; muon: block matrices by Muon at `muon_lr`, the rest by AdamW at `lr`; sgd: plain
    optimizer: str = "adamw"
    muon_lr: float = 0.02
    # recompute activations in the backward pass: less memory, a third more time
    checkpointing: bool = False
    save_every: int = 0  # checkpoint every so many steps; 0 is never
    seed: int = 0


def lr_factor(settings, step):
    """The learning rate's factor in [0, 1] at optimizer step `step` (from 0)."""
    steps = settings.steps
    for length in settings.stretches:
        if step < length:
            steps = length
            break
        step -= length
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    if settings.schedule == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * step / steps))
    if settings.schedule == "linear":
        return warm * (steps - step) / steps
    if settings.schedule == "trapezoid":
        return warm * min(1.0, (steps - step) / (0.4 * steps))
    if settings.schedule != "constant":
        raise UserError(
            f"--schedule {settings.schedule}: choose cosine, linear, constant or trapezoid."
        )
    return warm


def make_optimizers(model, settings):
    """[(optimizer, its full learning rate), ...] over the trainable parameters."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    # fused on GPU: the default there holds temporaries as large as the weights, for which a 7B
    # model has no room
    fused = True if trainable and trainable[0].is_cuda else None
    adamw = {
        "lr": settings.lr,
        "betas": (0.9, 0.95),
        "weight_decay": settings.weight_decay,
        "fused": fused,
    }
    if settings.optimizer == "adamw":
        return [(torch.optim.AdamW(trainable, **adamw | {"betas": (0.9, 0.999)}), settings.lr)]
    if settings.optimizer == "sgd":
        plain = torch.optim.SGD(trainable, lr=settings.lr, weight_decay=settings.weight_decay)
        return [(plain, settings.lr)]
    if settings.optimizer != "muon":
        raise UserError(f"--optimizer {settings.optimizer}: choose adamw, muon or sgd.")
    matrices = [p for p in blocks(model).parameters() if p.requires_grad and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in trainable if id(p) not in chosen]
    optimizers = []
    if matrices:
        muon = Muon(matrices, lr=settings.muon_lr, weight_decay=settings.weight_decay)
        optimizers.append((muon, settings.muon_lr))
    if rest:
        optimizers.append((torch.optim.AdamW(rest, **adamw), settings.lr))
    return optimizers
