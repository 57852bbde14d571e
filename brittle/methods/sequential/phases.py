"""Phases of a training: whose turn it is, how far the phase is, and what the losses weigh then."""

from dataclasses import dataclass

from brittle.base.errors import UserError


def parse_layers(text):
    """[block, ...] of START:END:STEP, deep to shallow.

    END is included where the steps meet it: 28:16:4 is 28, 24, 20, 16.
    """
    try:
        start, end, step = (int(number) for number in text.split(":"))
    except ValueError:
        raise UserError(
            f"--layers {text}: START:END:STEP wanted, deepest block first, such as 28:16:4."
        ) from None
    if step < 1:
        raise UserError(f"--layers {text}: STEP must be at least 1.")
    if start < end or end < 0:
        raise UserError(
            f"--layers {text}: training goes from deep to shallow, so START >= END >= 0, such as "
            "28:16:4."
        )
    return list(range(start, end - 1, -step))


@dataclass
class Phases:
    """Blocks in their order, and the length of each one's phase: optimizer steps, or shares."""

    blocks: list
    lengths: list

    def at(self, progress):
        """(index of the phase, p) at `progress` [0, 1] of the run.

        p in [0, 1) is the share of the phase that is done.
        """
        position, last = progress * sum(self.lengths), len(self.lengths) - 1
        for index, length in enumerate(self.lengths):
            if position < length - 1e-6 or index == last:
                return index, min(max(position / length, 0.0), 1.0)
            position -= length


def depth_factor(scale, block, start):
    """1 + (scale - 1) (start - block) / start: 1 at the first phase's block, `scale` at block 0."""
    return 1 + (scale - 1) * (start - block) / start if start else 1.0


def retain_factor(ramp, p):
    """The retain weight's factor at share p of a phase: zero 0 to 1, quarter 1/4 to 1, const 1."""
    return {"zero": p, "quarter": 0.25 + 0.75 * p, "const": 1.0}[ramp]


def forget_factor(p):
    """The forget weight's factor at share p of a phase: 1 to 3/4."""
    return 1 - 0.25 * p


def budget(phases, streams):
    """One line: what a run will cost, in phases, optimizer steps, examples and tokens.

    Padding is left out.
    """
    steps, costs = sum(phases.lengths), []
    pairs = zip(phases.blocks, phases.lengths, strict=True)
    shown = ", ".join(f"{block} ({length})" for block, length in pairs)
    for name in ("forget", "retain"):
        stream = getattr(streams, name)
        examples = steps * stream.batch_size * stream.micro_batches
        costs.append(f"{examples} {name} examples ({stream.tokens(examples)} tokens)")
    return (
        f"{len(phases.blocks)} phases, block (steps): {shown}; {steps} optimizer steps, "
        f"{' and '.join(costs)}."
    )
