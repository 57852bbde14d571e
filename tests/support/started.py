"""Methods started on tiny models, and their batches, losses and gradients."""

import torch

from brittle.base.knobs import build, knobs
from brittle.methods import method_class
from brittle.models.blocks import train_only
from brittle.training.reference import Frozen
from support import tiny

SMALL = {
    "layer_id": (1,),
    "lat_layer": 0,
    "lat_eps": 0.3,
    "lat_steps": 3,
    "attack_steps": 3,
    "attack_every": 2,
    "attack_lr": "0.01",
    "layers": "2:0:1",
    "adversary_steps": 1,
    "retain_layer": 1,
    "activation_components": 2,
    "gradient_components": 2,
    "representation_components": 2,
}


def start(name, model, seed=0, data=None, **given):
    """The method `name`, started on `model`, with knobs that fit three blocks."""
    cls = method_class(name)
    rule = build(
        cls, name, {**{k: v for k, v in SMALL.items() if k in knobs(cls)}, **given}, seed=seed
    )
    names = rule.trains(model)
    if names is not None:
        train_only(model, names)
    rule.start(model, Frozen(model) if rule.needs_reference else None, data or tiny.Data())
    return rule


def start_sequential(model, **given):
    return start("sequential", model, **given)


def batches(rule_data, rows=slice(0, 4), **padding):
    made = []
    for stream in (rule_data.forget, rule_data.retain):
        picked = list(range(len(stream.ids)))[rows]
        batch = tiny.batch([stream.ids[i] for i in picked], **padding)
        batch.index = torch.tensor(picked)
        made.append(batch)
    return made


def moved(model, size=0.05):
    """The model a little off its start, so that no term sits at a special point."""
    g = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(size * torch.randn(p.shape, generator=g).to(p.dtype))


def total(terms):
    return sum(terms.values())


def gradients(model, loss):
    trained = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, trained, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(trained, found, strict=True)]
