"""The main numbers of a step in one line, said at the end of its script.

They are the clause of the report's sentence (levels.CLAUSES), or, of a step that looks at one model
alone, the best layer. Scripts import this behind their run: the words are no part of a result's
code.
"""

from pathlib import Path

from brittle.base import layout
from brittle.base.record import say as say_at_the_end
from brittle.base.tables import read_rows
from brittle.report import clauses
from brittle.report.levels import CLAUSES


def say(step, outdir):
    """Say at the end of the command what the step's output in `outdir` shows, and where it is."""
    output = layout.step(step).output
    said = [
        clause.say(read_rows(Path(outdir) / (clause.file or output)))
        for clause in CLAUSES
        if clause.step == step and not clause.of_models
    ]
    if step in OF_ONE_MODEL:
        said.append(OF_ONE_MODEL[step](read_rows(Path(outdir) / output)))
    text = "; ".join(clause for clause in said if clause)
    say_at_the_end(Path(outdir) / output, text or "not defined for this model")


def probes(rows):
    """The best layer's AUC of each task."""
    best = {}
    for row in rows:
        auc = clauses.bounds(row, "auc")
        if auc is not None:
            best[row["task"]] = max(auc, best.get(row["task"], auc))
    said = [f"{task} {auc.value:.2f} [{auc.low:.2f}, {auc.high:.2f}]" for task, auc in best.items()]
    return f"best layer's AUC: {', '.join(said)}" if said else None


def lens(rows):
    """The accuracy on forget questions at the output and at the best layer."""
    known = clauses.forget_accuracies(rows)
    if not known:
        return None
    best, last = max(known, key=lambda layer: layer.value), max(known)
    return (
        f"forget questions: {clauses.percent(last.value)} at the output, "
        f"{clauses.percent(best.value)} at the best layer ({best.layer:.0f})"
    )


OF_ONE_MODEL = {"13": probes, "14": lens, "14t": lens}
