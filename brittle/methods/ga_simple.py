"""GA simple: gradient ascent on the forget set alone (Jang et al. 2022, arXiv:2210.01504).

    loss = -NLL_forget        a token mean

Unbounded below and nothing holds the rest of the model: it is the baseline that breaks. Few steps, a small rate.
"""

from dataclasses import dataclass

import brittle
from brittle.methods.base import Method


@dataclass
class GASimple(Method):
    def losses(self, forget, retain, progress):
        return {"forget": -brittle.losses.nll(self.model, forget)}
