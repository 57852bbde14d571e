"""Does rounding the weights bring back what was unlearned?

    uv run eval/quantize.py --model M --outdir outputs/M/quantize --model-base BASE

Every attention and MLP matrix is rounded to nearest, symmetrically, in plain torch
(arXiv:2410.16454). Then the forget and retain questions are asked again. 16 bits are the model as
it is. With --model-base the CSV also has the share of weights that get the same whole number in
both models: where all do, the update is gone.
"""

from brittle.attacks.quantize import IDENTITY, Quantize
from brittle.attacks.single import Curve, SingleAttack
from brittle.base import command

SCRIPT = SingleAttack(
    name="quantize",
    purpose="Forget and retain accuracy at every number of bits.",
    attack=Quantize,
    columns=("bits", "group", "bucket_agreement"),
    curve=Curve(x="bits", title="Rounding to nearest", label="bits", by="group"),
    unchanged={"bits": IDENTITY},
    base_help="Model to compare codes with.",
)
main = SCRIPT.command()

if __name__ == "__main__":
    command.run(main)
