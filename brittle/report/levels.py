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
# What a level's numbers cannot show; stands below its sentences.
RETRAINED = (
    "Filtered is another training run, so its ΔW is large and of many directions whatever it "
    "knows. Beside it any fine-tune looks small and of low rank: the size and the rank of ΔW say "
    "nothing of removed or hidden."
)
CAUTIONS = {"magnitude": RETRAINED, "geometry": RETRAINED}  # where Filtered is there


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
        "spectrum",
        clauses.rank_of_update,
        "rank is stable rank, mean over matrices weighted by |ΔW|² as on the first screen; "
        f"low-rank below {clauses.LOW_RANK} of that of Gaussian noise of the same shape; "
        "energy_above_noise: mean over matrices",
    ),
    Clause(
        "geometry",
        "7",
        clauses.directions,
        "effective_rank, another count: the directions that hold 99 % of the energy, mean over "
        "matrices; a flat rest of little energy counts in full",
    ),
    Clause(
        "geometry",
        "10",
        clauses.nullspace,
        f"share_over_null of the bottom 25 %, both sides: seeks above {clauses.PREFERS}, "
        f"avoids below {clauses.AVOIDS}",
    ),
    Clause(
        "function",
        "4",
        clauses.moved_activations,
        "mean_dh_L2 / model_a_norm_L2 over layers from 1 on; mostly on one kind of text beyond a "
        f"ratio of {clauses.MORE}; longer or shorter beyond 10 %; means over the texts read, "
        "without intervals",
    ),
    Clause(
        "function",
        "8",
        clauses.apart,
        "cosine_distance at the last layer; a change is one where the 95 % intervals do not "
        f"overlap; none where both ends of both lie within {clauses.ALIKE:.0%}",
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
        "selectivity_ratio at the largest k, of each matrix: aimed at forget texts where its 95 % "
        f"interval lies above {clauses.TARGETED} and above that of one half of the retain texts "
        f"against the other, not aimed where it lies below {clauses.TARGETED}; targeted, or not, "
        "where that holds of more than half of the matrices",
    ),
    Clause(
        "stability",
        "12",
        clauses.sensitivity,
        "jacobian_norm; rougher or smoother where the 95 % intervals do not overlap; as before "
        f"where both ends of both lie within {clauses.ALIKE:.0%}",
    ),
    Clause(
        "stability",
        "basin",
        clauses.barrier,
        f"a barrier: its 95 % interval lies above {clauses.BARRIER} nats a token at some point of "
        "the line; none: it lies below at every point",
    ),
    Clause(
        "localisation",
        "13",
        clauses.probe,
        f"truth_forget and domain: can where the 95 % interval of some layer's AUC lies above "
        f"{clauses.READABLE}, cannot where those of all layers lie below",
        of_models=True,
    ),
    Clause(
        "depth",
        "14",
        clauses.lens,
        "above chance: the 95 % interval lies above it, and of a layer inside also the accuracy by "
        f"more than {NEAR:.0%}; more than the output: the interval lies above the output's; no "
        f"layer: all intervals end within {NEAR:.0%} of chance",
        of_models=True,
        before="logit lens: ",
    ),
    Clause(
        "depth", "14t", clauses.lens, "as for the logit lens", of_models=True, before="tuned lens: "
    ),
)


def clause_of(step):
    """The first clause that reads a step."""
    return next(clause for clause in CLAUSES if clause.step == step)


def of_level(level, steps):
    return [c for c in CLAUSES if c.level == level and c.step in steps]


def compares(level):
    """Whether a sentence of the level is about two models, and not about models one by one."""
    return any(clause.level == level and not clause.of_models for clause in CLAUSES)


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
