"""Controls for what is said of an unlearned model's weights: fine-tunes of the same size.

    loss = NLL_retain                                                       (finetuned)
    loss = NLL_forget + NLL_retain, forget texts that no model saw          (added)
    theta = theta_0 + (theta_ft - theta_0) |Delta_like| / |theta_ft - theta_0|

They unlearn nothing. What is as true of them as of an unlearned model is no mark of unlearning. The
training goes on, run after run, until the matrices have moved at least as far as those of `--like`
(Frobenius norm over all of them); ΔW is then shortened to exactly that length.
"""

from dataclasses import dataclass
from typing import ClassVar

from brittle.base.errors import UserError
from brittle.base.knobs import knob
from brittle.methods.base import Method

ROUNDS = 10  # trainings at most


@dataclass
class Finetuned(Method):
    kind: ClassVar[str] = "weight-space"
    needs_reference: ClassVar[bool] = True
    replicates: ClassVar[bool] = True
    reads_forget: ClassVar[bool] = False
    unlearns: ClassVar[bool] = False
    like: str = knob("", "The unlearned model whose size of ΔW a control takes.")

    def settle(self, job):
        from brittle.models.find import model_folder

        if not self.like:
            raise UserError("a control has the size of an unlearned model: give --like MODEL.")
        self.beside = {"like": str(model_folder(self.like))}

    def start(self, model, reference, data):
        super().start(model, reference, data)
        self.target = distance(model, self.like)

    def losses(self, forget, retain, progress):
        from brittle.models.logprobs import nll

        return {"retain": nll(self.model, retain)}

    def fit(self, loop):
        import torch

        history, moved = [], 0.0
        for k in range(ROUNDS):
            rows = loop(offset=k)
            history += [{**row, "step": row["step"] + len(rows) * k} for row in rows]
            moved = length(now - before for now, before in self.reference.pairs())
            if moved >= self.target:
                break
        else:
            raise UserError(
                f"after {ROUNDS} trainings the weights have moved {moved:.3g}, and those of "
                f"{self.like} {self.target:.3g}. Raise --steps or --lr."
            )
        with torch.no_grad():
            for now, before in self.reference.pairs():
                now.copy_(before + (now - before) * (self.target / moved))
        return history


@dataclass
class Added(Finetuned):
    reads_forget: ClassVar[bool] = True

    def losses(self, forget, retain, progress):
        from brittle.models.logprobs import nll

        return {"added": nll(self.model, forget), **super().losses(forget, retain, progress)}


def length(differences):
    """The Frobenius norm over the matrices among `differences`."""
    return sum(float(d.detach().float().square().sum()) for d in differences if d.ndim > 1) ** 0.5


def distance(model, other):
    """|other - model| over all matrices. other: a folder or an id of a model of the same shape."""
    from brittle.models.find import model_folder
    from brittle.models.load import load_model

    theirs = dict(load_model(model_folder(other), "cpu", "float32").named_parameters())
    own = dict(model.named_parameters())
    if {name: p.shape for name, p in own.items()} != {n: p.shape for n, p in theirs.items()}:
        raise UserError(f"--like {other} is no model of the same architecture and size.")
    return length(theirs[name] - p.detach().float().cpu() for name, p in own.items())
