"""The search for a filter's site, gate and strength: its order, its limits, and what it does when checks fail."""

import importlib.util
import math
from types import SimpleNamespace

import pytest
import torch
from support.places import ROOT
from support.tiny_models import make_model

from brittle.base.errors import UserError
from brittle.filters import search
from brittle.filters.tuning import Limits
from brittle.models.architectures import check_logits
from brittle.models.filter import Filter

spec = importlib.util.spec_from_file_location("tune_strength", ROOT / "hooks" / "tune_strength.py")
tune_strength = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tune_strength)


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
    """A Tuner whose readings are `read(made)`."""
    return SimpleNamespace(caches={}, read=read, curve=lambda made: lambda a: read(made.at(a)))


def leaks(**values):
    """Rows of leak checks: {check: (value, limit, which set fails or None)}."""
    return [
        {"check": c, "value": v, "limit": limit, "fails": f} for c, (v, limit, f) in values.items()
    ]


def test_gated_filters_are_searched_only_where_an_ungated_one_does_not_reach_the_target():
    made = Filter("post_norm", torch.eye(4)[:, :2])
    candidates = {
        ("post_norm", False): made,
        ("post_norm", True): Filter("post_norm", torch.eye(4)[:, :2], gate=torch.ones(4)),
    }
    known = {"retain_kl": 0.0, "retain_kl_p90": 0.0, "auc": None}

    def tuner(share):
        return SimpleNamespace(caches={}, read=lambda _: known | {"known": share})

    (choice,) = search.search(tuner(0.0), candidates, Limits())
    assert choice.reached and choice.made.gate is None
    with pytest.raises(
        ValueError, match="empty"
    ):  # of the gate, which has no states to set its threshold by
        search.search(tuner(1.0), candidates, Limits())


def test_a_strength_within_the_limits_is_looked_for_where_nothing_reaches_the_target():
    def reading(made):
        return {
            "retain_kl": 0.1 * made.strength,
            "retain_kl_p90": 0.1 * made.strength,
            "auc": None,
            "known": 1 - made.strength / 2,
        }

    tuner = SimpleNamespace(
        caches={}, read=reading, curve=lambda made: lambda a: reading(made.at(a))
    )
    (choice,) = search.search(
        tuner, {("pre_norm", False): Filter("pre_norm", torch.eye(8))}, Limits(retain=0.05)
    )
    assert (
        choice.status == "retain-limited"
        and 0.48 < choice.made.strength <= 0.5
        and not choice.beyond
    )
    assert choice.reading == reading(choice.made) and choice.made.k == 4


def test_no_finalist_beyond_the_limits_is_taken_however_little_it_leaks():
    """The target is reached at .78, the limit at .8: 1.1 times the choice leaks less and breaks the limit."""
    tuner = planted(
        lambda made: reading(
            0.05 * (made.strength / 0.8) ** 2, 0.0 if made.strength >= 0.78 else 1.0
        )
    )

    def check(made):
        return leaks(slot_forget=(1 - made.strength, 0.0, "forget"))

    choice, checked, _ = tune_strength.run_search(
        tuner, {("pre_norm", False): Filter("pre_norm", torch.eye(4))}, Limits(), False, check
    )
    assert 0.78 <= choice.made.strength <= 0.8 and choice.status == "matched"
    assert all(Limits().excess(tuner.read(choice.made.at(a))) <= 0 for a in checked)


def test_where_halving_the_limit_does_not_help_the_next_candidate_is_tried():
    """Both reach the target at strength 1; the first fails its retain check at every strength, the second passes."""
    cost = {"pre_norm": 0.03, "block:0": 0.04}
    tuner = planted(
        lambda made: reading(cost[made.site] * made.strength, 0.0 if made.strength > 0.99 else 1.0)
    )

    def check(made):
        bad = made.site == "pre_norm"
        return leaks(mcq_retain=(0.5 if bad else 1.0, 0.95, "retain" if bad else None))

    candidates = {(site, False): Filter(site, torch.eye(4)) for site in cost}
    choice, _, table = tune_strength.run_search(tuner, candidates, Limits(), False, check)
    assert (
        choice.made.site == "block:0"
        and choice.status == "matched"
        and table[-1]["stage"] == "chosen"
    )


def test_what_matches_never_seen_text_comes_before_what_overshoots_it():
    auc = {"pre_norm": 0.29, "block:0": 0.53}
    tuner = planted(
        lambda made: reading(0.01 if made.site == "pre_norm" else 0.02, 0.0, auc[made.site])
    )
    candidates = {(site, False): Filter(site, torch.eye(4)) for site in auc}
    first, second = search.search(tuner, candidates, Limits())
    assert (first.made.site, first.status, second.status) == (
        "block:0",
        "matched",
        "over-forgotten",
    )
    assert "never-seen" in second.reason()


def test_a_broken_model_neither_keeps_the_limits_nor_forgets():
    assert Limits().excess(reading(math.nan, 0.0)) == math.inf
    assert Limits().excess(reading(0.01, 0.0, general_kl=math.nan)) == math.inf
    assert search.distance(reading(0.0, 0.0) | {"forget_nll": math.nan}) == math.inf


def test_a_tuned_strength_never_passes_the_grid():
    for target in (0.9995, 0.9999, 0.99997):
        tuner = planted(
            lambda made, target=target: reading(
                0.01 * made.strength, 0.0 if made.strength >= target else 1.0
            )
        )
        choice = search.Choice(
            Filter("post_norm", torch.eye(4)),
            tuner.read(Filter("post_norm", torch.eye(4))),
            Limits(),
        )
        assert target <= search.tune(tuner, choice).made.strength <= 1.0


@pytest.mark.parametrize(
    "change", [{"logit_scale": 0.06}, {"final_logit_softcapping": 30.0}, {"logits_scaling": 8.0}]
)
def test_logits_that_are_scaled_behind_the_unembedding_are_refused(change):
    config = make_model("llama").config
    check_logits(config)
    for key, value in change.items():
        setattr(config, key, value)
    with pytest.raises(UserError, match=next(iter(change))):
        check_logits(config)


def test_checks_that_cannot_be_made_are_named_in_one_line(tmp_path):
    tables = SimpleNamespace(files=[])
    (note,) = tune_strength.unchecked({}, tables, tmp_path)
    assert (
        "no LOSS-AUC without never-seen text" in note
        and "no leak checks without mcq_forget.jsonl, mcq_retain.jsonl" in note
    )
    assert str(tmp_path) in note and "\n" not in note
    tables.files = [
        tmp_path / f"{name}.jsonl" for name in ("mcq_forget", "mcq_retain", "qa_forget")
    ]
    (note,) = tune_strength.unchecked({"unseen": tmp_path}, tables, tmp_path)
    assert note == f"note: no leak checks without private.jsonl in {tmp_path}."
    tables.files.append(tmp_path / "private.jsonl")
    assert tune_strength.unchecked({"unseen": tmp_path}, tables, tmp_path) == []
