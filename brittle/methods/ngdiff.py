"""NGDiff: normalised gradient difference with an adaptive rate (Bu et al. 2024, arXiv:2410.22086).

    g = g_retain / ||g_retain|| - g_forget / ||g_forget||        of the NLLs over the whole step
    theta <- theta - lr s g

So <g, g_retain> >= 0 and <g, g_forget> <= 0 always, whatever the scale of either loss. The rate's
factor s is measured every `lr_probe_every` steps (0: never): a parabola is laid through the retain
loss at theta and theta -+ lr s g, and where it opens upward s is multiplied by its minimiser, at
most 2. Meant for plain SGD without clipping (as the defaults have it); AdamW would undo the scale.
"""

from dataclasses import dataclass
from typing import ClassVar

from brittle.base.knobs import knob
from brittle.methods.base import Method


def parabola_minimum(left, middle, right):
    """Where the parabola through (-1, left), (0, middle), (1, right) is least.

    None where it opens downward, or is least at or left of 0.
    """
    a, b = (left + right) / 2 - middle, (right - left) / 2
    return -b / (2 * a) if a > 0 and b < 0 else None


@dataclass
class NGDiff(Method):
    kind: ClassVar[str] = "gradient"
    lr_probe_every: int = knob(10, "Steps between measurements of the rate; 0 keeps it.", low=0)

    def start(self, model, reference, data):
        super().start(model, reference, data)
        self.state.update(scale=1.0, calls=0)

    def losses(self, forget, retain, progress):
        from brittle.models.logprobs import nll

        self.batch = retain
        return {"forget": nll(self.model, forget), "retain": nll(self.model, retain)}

    def combine(self, gradients, lr):
        import torch

        from brittle.maths.linalg import norm_of

        size = {term: norm_of(g).item() + 1e-12 for term, g in gradients.items()}
        # in place: a 7B model has no room for a third set
        g, away = gradients.pop("retain"), gradients.pop("forget")
        for r, f in zip(g, away, strict=True):
            r.div_(size["retain"]).sub_(f, alpha=1 / size["forget"])
        del away, f
        if self.lr_probe_every and self.state["calls"] % self.lr_probe_every == 0 and lr:
            with torch.no_grad():
                step = -lr * self.state["scale"]
                best = parabola_minimum(*(self.retain_loss_at(g, step * t) for t in (-1, 0, 1)))
            # a parabola is not known far beyond its points
            self.state["scale"] *= min(best or 1.0, 2.0)
        self.state["calls"] += 1
        return [x.mul_(self.state["scale"]) for x in g]

    def retain_loss_at(self, g, shift):
        """The retain NLL with theta + shift g, theta put back to the bit."""

        from brittle.models.logprobs import nll

        trained = [p for p in self.model.parameters() if p.requires_grad]
        kept = [p.detach().clone() for p in trained] if shift else []
        for p, x in zip(trained, g, strict=True):
            p.add_(x, alpha=shift)
        loss = nll(self.model, self.batch).item()
        for p, before in zip(trained, kept, strict=False):
            p.copy_(before)
        return loss
