"""What the numbers of each level say of a comparison, in one sentence, by the rules that stand
beside each clause.

A clause reads one CSV of a step (brittle/report/clauses.py). Its rule is stated once, in CLAUSES,
and shown with the sentence; where the CSV is not there the sentence says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from brittle.base import layout
from brittle.base.tables import read_rows
from brittle.report import clauses
from brittle.report.verdict import NEAR

LEVELS = {  # level: (question, steps)
    "magnitude": ("How much changed?", ("1", "2")),
    "location": ("Where: MLP or attention, and in which blocks?", ("6",)),
    "geometry": (
        "What shape has ΔW: low-rank, aligned with what W hardly uses?",
        ("7", "10", "spectrum"),
    ),
    "function": ("Do activations change, and on which texts?", ("4", "5", "8", "9")),
    "precision": ("Does the change read what forget texts feed it?", ("11",)),
    "stability": ("Is the new behaviour robust or fragile?", ("12", "basin")),
    "localisation": ("Where can a linear readout find the knowledge?", ("13",)),
    "depth": ("At which layer does the model know the answers?", ("14", "14t")),
}


@dataclass(frozen=True)
class Clause:
    """A part of a level's sentence: the step it comes from, how it is made, and the rule behind its
    words.
    """

    level: str
    step: str
    say: Callable
    rule: str
    of_models: bool = False  # reads a CSV of each of both models, not one of the comparison
    before: str = ""
    file: str | None = None  # the CSV, where it is not the step's output but lies beside it

    def paths(self, root, base, other):
        folders = [base, other] if self.of_models else [f"{base}__to__{other}"]
        return [layout.step(self.step).path(Path(root) / folder, self.file) for folder in folders]


CLAUSES = (
    Clause(
        "magnitude",
        "1",
        clauses.size,
        f"|ΔW|/|W| over all matrices: small below {clauses.SMALL:.0%}, "
        f"large above {clauses.LARGE:.0%}",
        file="per_matrix.csv",
    ),
    Clause(
        "location",
        "6",
        clauses.location,
        f"the median over blocks of mlp_attn_ratio: mostly MLP above {clauses.MORE}, "
        f"mostly attention below {1 / clauses.MORE:.2f}",
    ),
    Clause(
        "geometry",
        "7",
        clauses.rank_of_update,
        f"low-rank: mean effective_rank below {clauses.LOW_RANK} of that of Gaussian noise "
        "of the same shape",
    ),
    Clause(
        "geometry",
        "10",
        clauses.nullspace,
        f"share_over_null of the bottom 25 %, both sides: seeks above {clauses.PREFERS}, "
        f"avoids below {clauses.AVOIDS}",
    ),
    Clause(
        "geometry", "spectrum", clauses.out_of_noise, "energy_above_noise of dW, mean over matrices"
    ),
    Clause(
        "function",
        "4",
        clauses.moved_activations,
        "mean_dh_L2 / model_a_norm_L2 over layers from 1 on; mostly on one kind of text beyond a "
        f"ratio of {clauses.MORE}; longer or shorter beyond 10 %",
    ),
    Clause(
        "function",
        "8",
        clauses.apart,
        "cosine_distance at the last layer; a change is one where the 95 % intervals do not "
        "overlap",
    ),
    Clause(
        "function",
        "9",
        clauses.covariance,
        "wasserstein / null_wasserstein of tokens, means over layers from 1 on",
    ),
    Clause(
        "precision",
        "11",
        clauses.targeted,
        "selectivity_ratio at the largest k; targeted where its median is above "
        f"{clauses.TARGETED} and in most matrices its interval lies above that of one half of the "
        "retain texts against the other",
    ),
    Clause(
        "stability",
        "12",
        clauses.sensitivity,
        "jacobian_norm; rougher or smoother where the 95 % intervals do not overlap",
    ),
    Clause(
        "stability",
        "basin",
        clauses.barrier,
        f"a barrier: its 95 % interval lies above {clauses.BARRIER} nats a token at some point "
        "of the line",
    ),
    Clause(
        "localisation",
        "13",
        clauses.probe,
        f"truth_forget and domain: can where the best layer's AUC is above {clauses.READABLE} "
        "and its interval above 0.5",
        of_models=True,
    ),
    Clause(
        "depth",
        "14",
        clauses.lens,
        "a layer knows answers where its interval lies above chance and its accuracy "
        f"{NEAR:.0%} above it",
        of_models=True,
        before="logit lens: ",
    ),
    Clause(
        "depth", "14t", clauses.lens, "as for the logit lens", of_models=True, before="tuned lens: "
    ),
)


def of_level(level, steps):
    return [c for c in CLAUSES if c.level == level and c.step in steps]


def sentence(level, root, base, other, steps):
    """What the CSVs under `root` say of `base` -> `other` (names of result folders) at one level;
    `steps`: those there are.
    """
    parts = []
    for clause in of_level(level, steps):
        tables = [read_rows(path) for path in clause.paths(root, base, other)]
        text = clause.say(*tables) if all(tables) else f"not measured: run step {clause.step}"
        parts.append(clause.before + (text or "not defined here"))
    whole = "; ".join(parts)
    return f"{whole[:1].upper()}{whole[1:]}."


def rules(level, steps):
    """The rules behind the words of a level's sentence."""
    return [f"step {c.step}: {c.rule}" for c in of_level(level, steps)]


def sources(root, base, other):
    """Every CSV that the sentences of one comparison read."""
    return [path for clause in CLAUSES for path in clause.paths(root, base, other)]
