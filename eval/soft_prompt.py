"""Is there a prompt, if not one of words, behind which the model answers again?

    uv run eval/soft_prompt.py --model M --outdir outputs/M/soft_prompt

Vectors in front of every question are trained on the questions and answers of half A with the
weights frozen (arXiv:2402.09063). Half B, which they never saw, is asked behind them.
"""

from brittle.attacks.single import Curve, SingleAttack
from brittle.attacks.soft_prompt import SoftPrompt
from brittle.base import command

SCRIPT = SingleAttack(
    name="soft_prompt",
    purpose="Train a soft prompt on half A, ask half B.",
    attack=SoftPrompt,
    columns=("vectors", "step", "train_nll"),
    curve=Curve(x="step", title="A soft prompt", label="training step"),
)
main = SCRIPT.command()

if __name__ == "__main__":
    command.run(main)
