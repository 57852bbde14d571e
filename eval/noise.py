"""Does shaking the weights bring back what was unlearned?

    uv run eval/noise.py --model M --outdir outputs/M/noise

Gaussian noise is added to every attention and MLP matrix; its standard deviation is a share of the
matrix's root mean square. Then the forget and retain questions are asked again, for every draw.
Scale 0 is the model as it is.
"""

from brittle.attacks.noise import Noise
from brittle.attacks.single import Curve, SingleAttack
from brittle.base import command

SCRIPT = SingleAttack(
    name="noise",
    purpose="Forget and retain accuracy at every scale of noise.",
    attack=Noise,
    columns=("noise", "draw"),
    curve=Curve(
        x="noise",
        title="Noise on the weights",
        label="noise / root mean square of a matrix",
        by="draw",
    ),
    unchanged={"scale": 0.0},
)
main = SCRIPT.command()

if __name__ == "__main__":
    command.run(main)
