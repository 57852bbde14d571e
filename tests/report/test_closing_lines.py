"""The line at the end of a script: the main numbers of its step."""

import pytest

from brittle.base import layout
from brittle.base.record import closing_lines
from brittle.base.tables import write_csv
from brittle.pipeline import steps
from brittle.report import results
from support.places import ROOT


@pytest.fixture(autouse=True)
def nothing_said():
    closing_lines()
    yield
    closing_lines()


def test_a_clause_of_the_report_is_the_line(tmp_path):
    row = {"name": "a", "dW_fro": 1.0, "W_fro": 10.0, "dW_stable_rank": 2.0}
    write_csv(tmp_path / "per_matrix.csv", list(row), [row])
    results.say("1", tmp_path)
    (line,) = closing_lines()
    assert line.startswith(f"{tmp_path}/per_layer.csv: the weights moved by 10") and "%" in line


def test_what_is_not_defined_is_said(tmp_path):
    results.say("9", tmp_path)
    assert closing_lines() == [f"{tmp_path}/covariance.csv: not defined for this model"]


def test_of_one_model_the_best_layer_is_said():
    probe = [
        {"task": "domain", "layer": k, "auc": auc, "auc_low": auc - 0.1, "auc_high": auc + 0.1}
        for k, auc in enumerate((0.6, 0.9, 0.7))
    ]
    assert results.probes(probe) == "best layer's AUC: domain 0.90 [0.80, 1.00]"
    assert results.probes([]) is None
    row = {"split": "forget", "accuracy_low": 0.1, "accuracy_high": 0.9, "chance": 0.25}
    layers = [row | {"layer": k, "accuracy": share} for k, share in enumerate((0.3, 0.75, 0.5))]
    said = results.lens(layers)
    assert said.startswith("forget questions: 50") and "75" in said and said.endswith("layer (1)")
    assert results.lens([]) is None


def test_every_diagnostic_that_has_a_sentence_says_it():
    """A script whose step the report has a clause for ends with that clause."""
    from brittle.report.levels import CLAUSES

    scripts = {row["step"]: row["script"] for row in steps.read_steps()}
    for clause in CLAUSES:
        text = (ROOT / scripts[clause.step]).read_text(encoding="utf-8")
        step = "14" if clause.step == "14t" else clause.step
        calls = (f'results.say("{step}", {folder})' for folder in ("outdir", "pair.outdir"))
        assert any(call in text for call in calls), scripts[clause.step]
        assert layout.step(clause.step).output
