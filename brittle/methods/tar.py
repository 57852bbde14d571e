"""TAR: tamper-resistant training (Tamirisa et al. 2024, arXiv:2408.00761).

    loss = w mean over the adversary's steps i of -entropy(p_theta_i) on forget texts
         + NLL_retain + r mean ||h - h_start||_2 on retain texts (all blocks)

theta_i is theta after i steps of simulated fine-tuning on the forget texts: AdamW at one of the
rates `attack_lr` (drawn from --seed). The tamper loss keeps p high in entropy *under attack*; its
gradient at theta_i is used at theta, a first-order approximation as in the paper. The later a step,
the more it counts: w exp(lambda (i - K + 1)).

Start from a model that was unlearned before (the paper: random mapping), or use many steps. The
paper: 750 steps, K = 64, every 4th step measured. With LoRA the simulated adversary trains the
adapter only, which is weaker than a real one.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from brittle.base.errors import UserError
from brittle.base.knobs import knob, listed, log_range
from brittle.methods.base import Method


@dataclass
class TAR(Method):
    kind: ClassVar[str] = "gradient"
    needs_reference: ClassVar[bool] = True
    tamper_weight: float = knob(
        4.0, "Weight of the tamper resistance term.", low=0, search=log_range(0.5, 50)
    )
    retain_weight: float = knob(
        1.0, "Weight of the retain terms.", low=0, search=log_range(0.1, 30)
    )
    attack_steps: int = knob(64, "Steps K of the simulated adversary.", low=1)
    attack_every: int = knob(4, "Adversary's steps between measurements.", low=1)
    attack_lr: str = knob("2e-6,2e-5,4e-5", "Learning rates of the adversary, with commas.")
    attack_decay: float = knob(0.0625, "How fast early steps lose weight (lambda).", low=0)

    def start(self, model, reference, data):
        super().start(model, reference, data)
        try:
            self.rates = [float(r) for r in listed(self.attack_lr)]
        except ValueError:
            self.rates = []
        if not self.rates:
            raise UserError(
                f"--attack-lr {self.attack_lr}: numbers with commas, such as 2e-6,2e-5."
            )
        self.forget = data.forget

    def losses(self, forget, retain, progress):
        from brittle.methods import terms
        from brittle.models.logprobs import nll

        # first: it moves the weights, which no other term's graph may hold
        tamper = self.tamper(forget)
        kept = nll(self.model, retain) + terms.hidden_distance(self.model, retain, self.reference)
        return {"tamper": tamper, "retain": self.retain_weight * kept}

    def entropy(self, batch):
        from brittle.maths.precision import wide
        from brittle.models.logprobs import token_mean

        logp = wide(self.model(**batch).logits).log_softmax(-1)
        return token_mean(-(logp.exp() * logp).sum(-1), batch)

    def tamper(self, held):
        """The tamper term as a scalar with its first-order gradient.

        The weights are put back to the bit.
        """

        import torch

        from brittle.models.logprobs import nll

        trained = [p for p in self.model.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in trained]
        total, value = [torch.zeros_like(p) for p in trained], 0.0
        noise = torch.Generator().manual_seed(self.seed * 1_000_003 + sum(held.index.tolist()))
        draw = torch.randint(
            1 << 30, (2,), generator=noise
        ).tolist()  # by seed and texts, so that a resumed run draws the same
        optimizer = torch.optim.AdamW(
            trained, lr=self.rates[draw[0] % len(self.rates)], weight_decay=0.0
        )
        at = range(self.attack_every - 1, self.attack_steps, self.attack_every) or [
            self.attack_steps - 1
        ]
        for i in range(self.attack_steps):
            batch = self.forget.batches(draw[1] % 100_003 + i)[0]
            gradients = torch.autograd.grad(nll(self.model, batch), trained, allow_unused=True)
            self.step(optimizer, trained, gradients)
            if i in at:
                weight = (
                    self.tamper_weight
                    * math.exp(self.attack_decay * (i - self.attack_steps + 1))
                    / len(at)
                )
                entropy = self.entropy(held)
                value -= weight * entropy.item()
                for t, g in zip(
                    total,
                    torch.autograd.grad(-weight * entropy, trained, allow_unused=True),
                    strict=True,
                ):
                    t.add_(g if g is not None else 0)
        with torch.no_grad():
            for p, start in zip(trained, before, strict=True):
                p.copy_(start)
        torch.clear_autocast_cache()
        # a linear function of theta with the right value and, by construction, the right gradient
        return value + sum(
            (t * (p - start)).sum() for t, p, start in zip(total, trained, before, strict=True)
        )

    @staticmethod
    def step(optimizer, trained, gradients):
        """One step of the adversary. Gradients of the loop's own accumulation in .grad stay."""
        import torch

        outer = [p.grad for p in trained]
        for p, g in zip(trained, gradients, strict=True):
            p.grad = g
        optimizer.step()
        # autocast keeps bfloat16 copies of the weights, which have just moved
        torch.clear_autocast_cache()
        for p, g in zip(trained, outer, strict=True):
            p.grad = g
