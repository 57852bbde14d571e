"""The presets of the mini family against the table of the settings that were tried."""

import csv
from collections import defaultdict

import pytest

from brittle.base.knobs import knobs
from brittle.methods import METHODS, method_class
from brittle.unlearning.job import read_defaults
from support.places import ROOT

AS_THEY_WERE = "preset at 2563514"  # of a commit; these methods have the same preset today
UNCHANGED = {"rmu", "cb", "sequential", "wt_dist_reg"}
BREAKS = {"ga_simple"}  # the baseline that breaks the model
# they have Base's own training, wt_dist's or npo's settings as their preset; none was searched
BORROWED = {"distill", "undo", "oracle_match", "repair", "sam"}


def is_preset(text, preset):
    """Do the settings of a row, `name=value; ...`, stand in the preset?"""
    pairs = (setting.split("=", 1) for setting in text.split("; "))
    return all(name in preset and same(preset[name], value) for name, value in pairs)


def same(have, text):
    if isinstance(have, (list, tuple)):
        have = ",".join(map(str, have))
    try:
        return float(have) == float(text)
    except (TypeError, ValueError):
        return str(have) == text


@pytest.fixture(scope="module")
def tried():
    """{method: its rows}"""
    rows = defaultdict(list)
    with (ROOT / "tests/bench/preset_search.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            rows[row["method"]].append(row)
    return rows


@pytest.mark.parametrize("method", [name for name in METHODS if name not in BREAKS | BORROWED])
def test_every_preset_passed_the_collapse_check_on_three_seeds(method, tried):
    own = {name: spec.default for name, spec in knobs(method_class(method)).items()}
    defaults = read_defaults(ROOT / "unlearn/presets.toml", "mini", method)
    preset = own | defaults.settings | defaults.knobs
    signs = {}
    for row in tried[method]:
        as_it_was = row["settings"] == AS_THEY_WERE and method in UNCHANGED
        if as_it_was or (row["settings"] != AS_THEY_WERE and is_preset(row["settings"], preset)):
            signs[row["seed"]] = row["signs_of_collapse"]
    assert signs.keys() >= {"0", "1", "2"} and not any(signs.values())
