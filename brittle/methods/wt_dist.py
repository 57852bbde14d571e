"""Weight distortion: noise on every weight, then retain training (Siddiqui et al. 2025,
arXiv:2505.22310).

    loss = R after theta = theta_0 + N(0, s^2)        R the retain NLL

The noise is drawn from --seed. `absolute` takes s = wt_noise_std for every weight, as in the
README. At width 4096 weights are about 0.01 to 0.02 themselves, so `rms` takes s = wt_noise_std
times each tensor's root mean square.
"""

from dataclasses import dataclass
from typing import ClassVar

from brittle.base.knobs import factors, knob
from brittle.methods.base import WithRetain


@dataclass
class WtDist(WithRetain):
    kind: ClassVar[str] = "weight-space"
    reads_forget: ClassVar[bool] = False
    wt_noise_std: float = knob(
        0.02, "Standard deviation of the noise.", low=0, search=factors(0.1, 10)
    )
    wt_noise_unit: str = knob(
        "absolute",
        "Unit of the noise: absolute, or rms (of each tensor).",
        choices=("absolute", "rms"),
    )

    def start(self, model, reference, data):
        import torch

        super().start(model, reference, data)
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for p in model.parameters():
                noise = torch.randn(p.shape, generator=generator).to(p)
                unit = p.pow(2).mean().sqrt() if self.wt_noise_unit == "rms" else 1.0
                p.add_(noise * self.wt_noise_std * unit)

    def losses(self, forget, retain, progress):
        return {"retain": self.retain_term(retain)}
