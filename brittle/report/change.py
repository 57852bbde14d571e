"""What was done to a model, in words, from its weights: how much, where, of what rank, how
selective, and what that is typical of.

It needs no questions and no third model. The first four sentences are clauses of the levels. The
last one goes by RULES, which follow from how each kind of change is made; it names a kind, and no
method.
"""

import math
from pathlib import Path
from typing import NamedTuple

from brittle.base import layout
from brittle.base.tables import number, read_rows
from brittle.report import clauses, levels, page
from brittle.report.clauses import LOW_RANK
from brittle.report.condense import update_size

ANEW = 0.7  # |ΔW|/|W|: two trainings from different starts are 1.4 apart
FEW = 0.5  # share of the blocks
NARROW = 1 / 8  # directions that hold 99 % of ΔW, as a share of a matrix's smaller side
LIKE_NOISE = 0.8  # of the stable rank of Gaussian noise
KINDS = {
    "nothing": (
        "a guard around the model, a run that did nothing, or a copy",
        "no weight changed",
    ),
    "anew": (
        "another training run: a model trained anew, or trained on for long",
        f"ΔW is more than {ANEW:.0%} as long as W",
    ),
    "noise": (
        "noise or rounding: every weight moved a little, in no direction",
        f"in every changed matrix the stable rank of ΔW is more than {LIKE_NOISE:.0%} of that of "
        "Gaussian noise",
    ),
    "adapter": (
        "low-rank adapters (LoRA) that were merged in",
        "in every changed matrix 99 % of ΔW lies in at most an eighth of the directions",
    ),
    "blocks": (
        "training of a few chosen blocks, as RMU does, or of an edit at one place",
        f"at most {FEW:.0%} of the blocks changed, and nothing outside of blocks",
    ),
    "tuned": (
        "fine-tuning of all weights on a narrow set of texts: unlearning such as GA or NPO, or a "
        "fine-tune that unlearned nothing",
        f"the stable rank of ΔW, weighted by |ΔW|², is below {LOW_RANK} of that of noise",
    ),
    "": (
        "no kind that the rules know",
        "anything else; the first of these rules that holds is said",
    ),
}
RULES = [f"typical of {text}: {rule}" for text, rule in KINDS.values()]
# what is said of a change: {question: step of the clause}
ASKED = {"How much": "1", "Where": "6", "Of what rank": "spectrum", "How selective": "11"}
NO_TEXTS = "not told by weights alone: forget and retain texts would tell (--data)"


class Moved(NamedTuple):
    """A matrix that changed: its block (-1: none), |ΔW|, and ranks of ΔW and of noise."""

    block: int
    length: float
    rank: float
    noise_rank: float
    directions: float  # as a share of the smaller side


def moved_matrices(rows):
    """[Moved] from the rows of spectrum_summary.csv."""
    moved = []
    for row in rows:
        length = number(row["fro"])
        if row["matrix"] != "dW" or not length:
            continue
        side = min(number(row["shape0"]), number(row["shape1"]))
        ranks = number(row["stable_rank"]), number(row["null_stable_rank"])
        directions = number(row["empirical_rank"]) / side
        moved.append(Moved(int(number(row["layer"])), length, *ranks, directions))
    return moved


def kind(spectra, matrices):
    """The key of KINDS that holds. Rows of spectrum_summary.csv and of per_matrix.csv."""
    moved = moved_matrices(spectra)
    size, _ = update_size(matrices)
    blocks = {int(number(row["layer"])) for row in matrices} - {-1}
    changed = {matrix.block for matrix in moved}
    if not moved:
        return "nothing"
    if size is not None and size > ANEW:
        return "anew"
    if all(matrix.rank > LIKE_NOISE * matrix.noise_rank for matrix in moved):
        return "noise"
    if all(matrix.directions <= NARROW for matrix in moved):
        return "adapter"
    if -1 not in changed and len(changed) <= FEW * len(blocks):
        return "blocks"
    energy = math.fsum(matrix.length**2 for matrix in moved)
    of_noise = math.fsum(m.length**2 * m.rank / m.noise_rank for m in moved) / energy
    return "tuned" if of_noise < LOW_RANK else ""


def typical(root, base, other):
    """What the change is typical of, in words; None where a step is missing."""
    home = Path(root) / f"{base}__to__{other}"
    spectra = read_rows(layout.step("spectrum").path(home))
    matrices = read_rows(layout.step("1").path(home, "per_matrix.csv"))
    if not spectra or not matrices:
        return None
    return KINDS[kind(spectra, matrices)][0]


def described(root, base, other):
    """{question: answer} about the change from `base` to `other`, names of result folders.

    What was not measured is said to be so.
    """
    answers = {}
    for asked, step in ASKED.items():
        clause = levels.clause_of(step)
        tables = [read_rows(path) for path in clause.paths(root, base, other)]
        missing = NO_TEXTS if step == "11" else f"not measured: run step {step}"
        answers[asked] = clause.say(*tables) if all(tables) else missing
        answers[asked] = answers[asked] or "not defined here"
    answers["Typical of"] = typical(root, base, other) or "not measured: run steps 1 and spectrum"
    return answers


def headline(root, base, others):
    """The page's title where nothing was asked of the models: what was done."""
    if len(others) > 1:
        return f"What was done to {base} in {len(others)} models, by their weights alone"
    (other,) = others
    (path,) = levels.clause_of("1").paths(root, base, other)
    size = clauses.size(read_rows(path))
    likely = typical(root, base, other)
    if not size or not likely:
        return f"{other}: its weights were not compared"
    return f"{other}: {size}, typical of {likely}"


def boxes(root, base, others):
    """A box a comparison, with what was done, and the rules of the last sentence; as HTML."""
    parts = []
    for other in others:
        answers = described(root, base, other).items()
        listed = "".join(
            f"<li><strong>{page.esc(asked)}:</strong> {page.esc(text)}</li>"
            for asked, text in answers
        )
        parts.append(
            f"<div><strong>{page.esc(f'{base} → {other}')}</strong><ul>{listed}</ul></div>"
        )
    rules = "".join(f"<li>{page.esc(rule)}</li>" for rule in RULES)
    return (
        f'<div class="says">{"".join(parts)}</div>'
        "<details><summary>The rules behind what a change is typical of</summary>"
        f"<ul>{rules}</ul></details>"
    )


def weights_alone(root, base, others):
    """The first screen where nothing was asked of the models, as HTML."""
    return (
        '<p class="chance">Nothing was asked of these models and nothing was attacked, so nothing '
        "is said of what they know. What was done to the weights says neither removed nor hidden. "
        "A data folder with questions (--data DIR) would tell what is still known and what comes "
        f"back.</p>{boxes(root, base, others)}"
    )
