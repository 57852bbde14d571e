"""Repair: one corruption of the weights, then retain training (Siddiqui et al. 2025,
arXiv:2505.22310).

    loss = R + l1 mean |theta| after the corruption        R the retain NLL

attenuate    theta = (1 - s) theta_0
dropout      each entry is 0 with the probability s
reset        the last round(s L) of L blocks get initial weights, and they alone train
freeze       they alone train, from what they are
none         retain training alone; with --l1 1 it is the published l1_sparse

What is random follows from --seed. The publication repairs for 100 epochs at a rate of 1e-5 in
batches of 128: a short repair is another method. At s = 0 a corruption is the identity.
"""

from dataclasses import dataclass
from typing import ClassVar

from brittle.base.knobs import knob, linear_range
from brittle.methods.base import WithRetain


@dataclass
class Repair(WithRetain):
    kind: ClassVar[str] = "weight-space"
    reads_forget: ClassVar[bool] = False
    corruption: str = knob(
        "attenuate",
        "What is done to the weights: attenuate, dropout, reset, freeze, none.",
        choices=("attenuate", "dropout", "reset", "freeze", "none"),
    )
    strength: float = knob(
        0.5, "Its strength s, 0 to 1.", low=0, high=1, search=linear_range(0.1, 0.9)
    )
    l1: float = knob(0.0, "Weight of the mean absolute weight.", low=0)

    def last_blocks(self, model):
        """Names of the parameters of the last round(s L) blocks; empty where that is none."""
        from brittle.models.architectures import layer_of
        from brittle.models.blocks import block_count

        count = block_count(model)
        first = count - round(self.strength * count)
        return [name for name, _ in model.named_parameters() if layer_of(name) >= first]

    def trains(self, model):
        names = self.last_blocks(model) if self.corruption in ("reset", "freeze") else []
        return names or None

    def start(self, model, reference, data):
        import torch

        from brittle.models.initial import fresh

        super().start(model, reference, data)
        drawn, names = {}, set()
        if self.corruption == "reset":
            drawn, names = dict(fresh(model, self.seed).named_parameters()), self.last_blocks(model)
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if self.corruption == "attenuate":
                    p.mul_(1 - self.strength)
                elif self.corruption == "dropout":
                    p.mul_((torch.rand(p.shape, generator=generator) >= self.strength).to(p))
                elif name in names:
                    p.copy_(drawn[name])

    def losses(self, forget, retain, progress):
        losses = {"retain": self.retain_term(retain)}
        if self.l1:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            total = sum(p.abs().sum() for p in trained)
            losses["l1"] = self.l1 * total / sum(p.numel() for p in trained)
        return losses
