"""GA simple: gradient ascent on the forget set alone (Jang et al. 2022, arXiv:2210.01504).

    loss = -NLL_forget        a token mean

Unbounded below, and nothing holds the rest of the model: it is the baseline that breaks. Use few
steps and a small rate.
"""

from dataclasses import dataclass

from brittle.methods.base import Method


@dataclass
class GASimple(Method):
    def losses(self, forget, retain, progress):
        from brittle.models.logprobs import nll

        return {"forget": -nll(self.model, forget)}
