"""Is there a suffix of real tokens behind which the model answers again?

    uv run eval/gcg.py --model M --outdir outputs/M/gcg

GCG (arXiv:2307.15043) searches one universal suffix behind every question, by gradient on questions
of half A; half B is asked with the same suffix. The loss on the questions searched with never
rises. `suffix` is the text found; at step 0 it is the random one that the search starts with.
"""

from brittle.attacks.gcg import GCG
from brittle.attacks.single import Curve, SingleAttack
from brittle.base import command

SCRIPT = SingleAttack(
    name="gcg",
    purpose="Search a suffix on half A, ask half B.",
    attack=GCG,
    columns=("step", "loss", "suffix"),
    curve=Curve(x="step", title="A suffix (GCG)", label="step of the search"),
    start=True,
)
main = SCRIPT.command()

if __name__ == "__main__":
    command.run(main)
