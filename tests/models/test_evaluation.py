"""The opening of evaluations: what is recorded, which models are loaded, and around which the guard
stands.
"""

import json

import pytest

from brittle.base.errors import UserError
from brittle.models.evaluation import Subject, evaluation


def test_models_guard_and_record(family, data, tmp_path):
    subject = Subject(family.base, data, device="cpu", seed=3, wrapper="rag")
    other = {"reference": family.filtered, "absent": None}
    inputs = [data / "private.jsonl"]
    with evaluation(tmp_path, subject, inputs, {"domain": "forget"}, **other) as opened:
        assert list(opened.folders) == ["model", "reference"]
        assert opened.load()[0].guard is opened.guard
        assert getattr(opened.load("reference")[0], "guard", None) is None
        opened.run.csv("table.csv", ["a"], [{"a": 1}])
    record = json.loads((tmp_path / "table.run.json").read_text())
    assert record["seed"] == 3 and set(record["models"]) == {"model", "reference"}
    assert record["settings"]["domain"] == "forget" and record["settings"]["wrapper"] == "rag"
    guarded_by = {str(data / f"mcq_{split}.jsonl") for split in ("forget", "retain")}
    assert {str(data / "private.jsonl"), *guarded_by} <= set(record["inputs"])


def test_without_a_guard_and_without_a_model(family, data, tmp_path):
    with evaluation(tmp_path, Subject(family.base, data, device="cpu"), []) as opened:
        assert opened.guard is None and getattr(opened.load()[0], "guard", None) is None
        assert opened.title == opened.name
        opened.run.csv("table.csv", ["a"], [{"a": 1}])
    with (
        pytest.raises(UserError),
        evaluation(tmp_path, Subject(str(tmp_path / "nothing"), data), []),
    ):
        raise AssertionError("an evaluation without a model has begun")
