"""NegMerge: subtract what several fine-tunings agree on (Kim et al. 2024, arXiv:2410.05583).

    tau_k = theta_k - theta_0;   tau = mean_k tau_k where all n have one sign, else 0;   theta = theta_0 - lambda tau

The fine-tunings on the forget set differ in the learning rate (lr (1 + k) / n) and in the order of
the texts (--seed). n = 1 is `task_vector`. The share of entries that agree is printed.
"""  # noqa: E501  (the formula is one cell of a table)

from dataclasses import dataclass

from brittle.base.knobs import knob
from brittle.methods.task_vector import TaskVector


@dataclass
class NegMerge(TaskVector):
    tunings: int = knob(3, "Fine-tunings to merge.", low=1)

    def fit(self, loop):
        import torch

        pairs = self.reference.pairs()
        total = [torch.zeros_like(before) for _, before in pairs]
        signs = [torch.zeros_like(before, dtype=torch.int8) for _, before in pairs]
        history = []
        for k in range(self.tunings):
            with torch.no_grad():
                for p, before in pairs:
                    p.copy_(before)
            rows = loop(lr_scale=(1 + k) / self.tunings, offset=k)
            history += [{"tuning": k, **row, "step": row["step"] + len(rows) * k} for row in rows]
            with torch.no_grad():
                for (p, before), t, s in zip(pairs, total, signs, strict=True):
                    t.add_(p - before)
                    s.add_((p - before).sign().to(torch.int8))
        with torch.no_grad():
            agree = [s.abs() == self.tunings for s in signs]
            for (p, before), t, same in zip(pairs, total, agree, strict=True):
                p.copy_(before - self.task_scale * t / self.tunings * same)
        share = sum(int(a.sum()) for a in agree) / sum(a.numel() for a in agree)
        print(
            f"negmerge: {share:.1%} of the entries have one sign in all {self.tunings} fine-tunings"
        )
        return history
