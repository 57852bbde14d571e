"""GradDiff: gradient difference (Maini et al. 2024, arXiv:2401.06121).

    loss = R - w NLL_forget        R the retain NLL

The same loss as `ga`, under the name and with the weight `--forget-weight` by which benchmarks know
it.
"""

from dataclasses import dataclass

from brittle.methods.ga import GA


@dataclass
class GradDiff(GA):
    pass
