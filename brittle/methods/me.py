"""ME: maximum entropy, the model is to be undecided on forget texts (Yuan et al. 2024,
arXiv:2410.08109).

    forget = w mean over tokens of KL(uniform || p) = w mean [logsumexp(z) - mean(z) - ln V],   plus a retain term

The direction is that of the paper's released code. The other one, KL(p || uniform) = ln V - H(p),
also is 0 at the uniform distribution alone, but nearly flat where p is certain, where it has to
begin. All real tokens count, prompt included. It is 0 exactly where every token is equally likely;
it is bounded below, unlike GA.
"""  # noqa: E501  (the formula is one cell of a table)

import math
from dataclasses import dataclass

from brittle.base.knobs import knob, log_range
from brittle.methods.base import WithRetain


@dataclass
class ME(WithRetain):
    forget_weight: float = knob(
        0.1, "Weight of the forget term.", low=0, search=log_range(0.01, 10)
    )

    def losses(self, forget, retain, progress):
        from brittle.maths.precision import wide
        from brittle.models.logprobs import token_mean

        logits = wide(self.model(**forget).logits)
        from_uniform = logits.logsumexp(-1) - logits.mean(-1) - math.log(logits.size(-1))  # [B, T]
        return {
            "forget": self.forget_weight * token_mean(from_uniform, forget),
            "retain": self.retain_term(retain),
        }
