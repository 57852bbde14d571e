"""Does pruning bring back what was unlearned?

    uv run eval/prune.py --model M --outdir outputs/M/prune

A share of the weights of every attention and MLP matrix is set to 0: the smallest (magnitude), or
in every row those that matter least to its output on benign texts (WANDA, arXiv:2306.11695). Then
the forget and retain questions are asked again. Ratio 0 is the model as it is.
"""

from brittle.attacks.prune import Prune
from brittle.attacks.single import Curve, SingleAttack
from brittle.base import command

SCRIPT = SingleAttack(
    name="prune",
    purpose="Forget and retain accuracy at every ratio.",
    attack=Prune,
    columns=("scheme", "ratio"),
    curve=Curve(x="ratio", title="Pruning", label="share set to 0", by="scheme"),
    unchanged={"ratio": 0.0},
)
main = SCRIPT.command()

if __name__ == "__main__":
    command.run(main)
