"""Names of a step's folder and files stand in experiment/steps.csv alone."""

import ast
from pathlib import Path

import pytest

from brittle.base import layout
from brittle.pipeline.steps import read_steps
from support.places import ROOT


def test_a_step_says_where_its_results_lie():
    statistics = layout.step("1")
    assert statistics.script == "experiment/collect_param_stats.py"
    assert statistics.path("out/a__to__b") == Path("out/a__to__b/param_stats/per_layer.csv")
    spectra = statistics.path("out/a__to__b", "spectra.safetensors")
    assert spectra == Path("out/a__to__b/param_stats/spectra.safetensors")
    assert layout.step("report").path("out") == Path("out/summary.csv")  # it has no folder
    with pytest.raises(KeyError):
        layout.step("99")


def test_no_code_repeats_the_folder_of_a_step():
    """Folders of one plain word (harness, recovery) have other meanings too and are not looked
    for.
    """
    folders = {row["folder"] for row in read_steps() if "_" in row["folder"]}
    assert "param_stats" in folders
    files = [*(ROOT / "brittle").rglob("*.py"), *ROOT.glob("*.py")]
    files += [f for name in ("experiment", "eval", "unlearn") for f in (ROOT / name).glob("*.py")]
    named = [
        (file.name, node.value)
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.partition("/")[0] in folders
    ]
    assert named == []
