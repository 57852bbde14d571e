"""LAT: latent adversarial training (Sheshadri et al. 2024, arXiv:2407.15549; Casper et al. 2024,
arXiv:2403.05030).

    loss = w away(delta*) + v R                              R the retain NLL, no adversary
    delta* = argmin over the ball of NLL_forget(delta)

delta is added to the output of block `lat_layer`.

paper    ball ||delta_t||_2 <= lat_eps a token, steps along the normalised gradient;
         away = mean -log(1 - p(token)), which is bounded below.
readme   ball ||delta||_inf <= lat_eps, steps of lat_eps along the gradient's sign;
         away = -NLL_forget, which is not bounded. The loss that this variant follows weighs both
         terms 1. retain_weight keeps its preset (4): give --retain-weight 1 for that loss.

The adversary *helps* the model to recall: it lowers the forget NLL (the README's code had the sign
the other way round). Gradients reach delta only.
"""

from dataclasses import dataclass

from brittle.base.knobs import knob, log_range, one_of
from brittle.methods.base import WithRetain


def perturbation(rule, forget):
    """The context of an adversary's perturbation of the forget texts.

    rule: a method with the knobs lat_* and variant.
    """

    from brittle.methods import adversary
    from brittle.models.hooks import edit

    norm = "l2" if rule.variant == "paper" else "linf"
    delta = adversary.attack(rule.model, forget, rule.lat_layer, rule.lat_eps, rule.lat_steps, norm)
    return edit(rule.model, {rule.lat_layer: lambda h: h + delta.to(h.dtype)})


@dataclass
class LAT(WithRetain):
    forget_weight: float = knob(
        1.0, "Weight of the forget term.", low=0, search=log_range(0.01, 10)
    )
    retain_weight: float = knob(4.0, "Weight of the retain term.", low=0, search=log_range(0.1, 30))
    lat_layer: int = knob(
        7,
        "Block whose output the adversary perturbs.",
        low=0,
        blocks=True,
        search=one_of("0/8", "1/4", "1/2"),
    )
    lat_eps: float = knob(
        2.0,
        "Radius of the adversary's ball (paper: L2, a token; readme: L-infinity).",
        low=0,
        search=log_range(0.1, 10),
    )
    lat_steps: int = knob(6, "Steps of the adversary.", low=0)
    variant: str = knob("paper", "Which definition.", choices=("paper", "readme"))

    def start(self, model, reference, data):
        from brittle.models.blocks import check_blocks

        super().start(model, reference, data)
        check_blocks(model, [self.lat_layer], "--lat-layer")

    def losses(self, forget, retain, progress):
        from brittle.models.logprobs import nll, target_mean, token_logprobs

        with perturbation(self, forget):
            if self.variant == "readme":
                away = -nll(self.model, forget)
            else:
                logprobs = token_logprobs(self.model(**forget).logits, forget["input_ids"])
                # log(1 - p) by expm1. p = 1 would give infinity, so p stays below it.
                away = target_mean(-(-logprobs.clamp_max(-1e-6).expm1()).log(), forget)
        return {"forget": self.forget_weight * away, "retain": self.retain_term(retain)}
