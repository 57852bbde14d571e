"""The search for a filter: its order, its limits, and what it does when checks fail."""

import math
import runpy
from types import SimpleNamespace

import pytest
import torch

from brittle.filters import search, strength, target
from brittle.filters.leaks import LeakTables
from brittle.filters.target import Limits
from brittle.models.filter import Filter
from support.places import ROOT

unchecked = runpy.run_path(str(ROOT / "hooks" / "tune_strength.py"))["unchecked"]


def reading(kl, known, auc=None, **more):
    return {
        "retain_kl": kl,
        "retain_kl_p90": kl,
        "auc": auc,
        "known": known,
        "forget_nll": 1.0,
        **more,
    }


def planted(read):
    """A Tuner whose readings are `read(filter)`; no set has states."""
    return SimpleNamespace(
        read=read,
        curve=lambda chosen: lambda strength: read(chosen.at(strength)),
        quiet_scores=lambda chosen: [],
        is_convex=lambda site: site == "post_norm",
    )


def leaks(**values):
    """Rows of leak checks: {check: (value, limit, which set fails or None)}."""
    return [
        {"check": c, "value": v, "limit": limit, "fails": f} for c, (v, limit, f) in values.items()
    ]


def test_gated_filters_are_searched_only_where_an_ungated_one_does_not_reach_the_target():
    chosen = Filter("post_norm", torch.eye(4)[:, :2])
    candidates = {
        ("post_norm", False): chosen,
        ("post_norm", True): Filter("post_norm", torch.eye(4)[:, :2], gate=torch.ones(4)),
    }
    known = {"retain_kl": 0.0, "retain_kl_p90": 0.0, "auc": None}

    def tuner(share):
        return planted(lambda _: known | {"known": share})

    (choice,) = search.search(tuner(0.0), candidates, Limits())
    assert choice.reached and choice.filter.gate is None
    with pytest.raises(
        ValueError, match="empty"
    ):  # of the gate, which has no states to set its threshold by
        search.search(tuner(1.0), candidates, Limits())


def test_a_strength_within_the_limits_is_looked_for_where_nothing_reaches_the_target():
    def reading(chosen):
        return {
            "retain_kl": 0.1 * chosen.strength,
            "retain_kl_p90": 0.1 * chosen.strength,
            "auc": None,
            "known": 1 - chosen.strength / 2,
        }

    (choice,) = search.search(
        planted(reading),
        {("pre_norm", False): Filter("pre_norm", torch.eye(8))},
        Limits(retain=0.05),
    )
    assert (
        choice.status == "retain-limited"
        and 0.48 < choice.filter.strength <= 0.5
        and not choice.beyond
    )
    assert choice.reading == reading(choice.filter) and choice.filter.k == 4


def test_no_finalist_beyond_the_limits_is_taken_however_little_it_leaks():
    """The target is reached at .78, the limit at .8.

    1.1 times the choice leaks less, and breaks the limit.
    """
    tuner = planted(
        lambda chosen: reading(
            0.05 * (chosen.strength / 0.8) ** 2, 0.0 if chosen.strength >= 0.78 else 1.0
        )
    )

    def check(chosen):
        return leaks(slot_forget=(1 - chosen.strength, 0.0, "forget"))

    choice, checked, _ = search.run_search(
        tuner, {("pre_norm", False): Filter("pre_norm", torch.eye(4))}, Limits(), check
    )
    assert 0.78 <= choice.filter.strength <= 0.8 and choice.status == "matched"
    assert all(Limits().excess(tuner.read(choice.filter.at(a))) <= 0 for a in checked)


def test_where_halving_the_limit_does_not_help_the_next_candidate_is_tried():
    """Both reach the target at strength 1.

    The first fails its retain check at every strength, the second passes.
    """
    cost = {"pre_norm": 0.03, "block:0": 0.04}
    tuner = planted(
        lambda chosen: reading(
            cost[chosen.site] * chosen.strength, 0.0 if chosen.strength > 0.99 else 1.0
        )
    )

    def check(chosen):
        bad = chosen.site == "pre_norm"
        return leaks(mcq_retain=(0.5 if bad else 1.0, 0.95, "retain" if bad else None))

    candidates = {(site, False): Filter(site, torch.eye(4)) for site in cost}
    choice, _, table = search.run_search(tuner, candidates, Limits(), check)
    assert (
        choice.filter.site == "block:0"
        and choice.status == "matched"
        and table[-1]["stage"] == "chosen"
    )


def test_what_matches_never_seen_text_comes_before_what_overshoots_it():
    auc = {"pre_norm": 0.29, "block:0": 0.53}
    tuner = planted(
        lambda chosen: reading(0.01 if chosen.site == "pre_norm" else 0.02, 0.0, auc[chosen.site])
    )
    candidates = {(site, False): Filter(site, torch.eye(4)) for site in auc}
    first, second = search.search(tuner, candidates, Limits())
    assert (first.filter.site, first.status, second.status) == (
        "block:0",
        "matched",
        "over-forgotten",
    )
    assert "never-seen" in second.reason()


def test_a_broken_model_neither_keeps_the_limits_nor_forgets():
    assert Limits().excess(reading(math.nan, 0.0)) == math.inf
    assert Limits().excess(reading(0.01, 0.0, general_kl=math.nan)) == math.inf
    assert target.distance(reading(0.0, 0.0) | {"forget_nll": math.nan}) == math.inf


def test_a_tuned_strength_never_passes_the_grid():
    for target_strength in (0.9995, 0.9999, 0.99997):

        def read(chosen, enough=target_strength):
            return reading(0.01 * chosen.strength, 0.0 if chosen.strength >= enough else 1.0)

        tuner = planted(read)
        choice = target.Choice(
            Filter("post_norm", torch.eye(4)),
            tuner.read(Filter("post_norm", torch.eye(4))),
            Limits(),
        )
        assert target_strength <= strength.tune(tuner, choice).filter.strength <= 1.0


def test_checks_that_cannot_be_made_are_named_in_one_line(tmp_path):
    tables = LeakTables(tmp_path, 4, 0)
    (note,) = unchecked({}, tables, tmp_path)
    assert (
        "no LOSS-AUC without never-seen text" in note
        and "no leak checks without mcq_forget.jsonl, mcq_retain.jsonl" in note
    )
    assert str(tmp_path) in note and "\n" not in note
    tables.missing = ["private.jsonl"]
    (note,) = unchecked({"unseen": tmp_path}, tables, tmp_path)
    assert note == f"note: no leak checks without private.jsonl in {tmp_path}."
    tables.missing = []
    assert unchecked({"unseen": tmp_path}, tables, tmp_path) == []


def test_the_last_that_holds_is_found_wherever_it_is():
    for count in range(7):
        for last in range(-1, count):
            asked = []

            def holds(i, last=last, asked=asked):
                asked.append(i)
                return i <= last

            assert search.last_that(holds, count) == last
            assert len(asked) <= 3 and set(asked) <= set(range(count))
