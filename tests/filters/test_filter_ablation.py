"""Ablations of the filter: mixed sets, intervals, mismatched anonymisers, membership, costs."""

import csv

import pytest
import torch

from brittle.data.items import groups_of, read_items, read_splits, subset
from brittle.data.texts import read_jsonl, read_lines
from brittle.filters.ablation import anonymisers, overlap, published
from brittle.filters.blind import anonymise
from brittle.filters.blind.fit import BlindSetup
from brittle.maths import intervals
from brittle.models.load import load_model, load_tokenizer

SCRIPT = "hooks/ablate_filter.py"


def owners(items):
    return {item["fact"].rpartition("/")[0] for item in items}


def test_mixed_sets_share_entities_and_no_fact(data, tmp_path):
    """One size at every share, nested levels, and never one fact in both sets.

    The nominal share of entities is in both.
    """
    before, sizes = set(), set()
    for share in (0, 50, 100):
        folder = tmp_path / str(share)
        words = overlap.write_mixed(data, folder, share)["words"]
        forget, retain = (read_items(folder / f"mcq_{s}.jsonl") for s in ("forget", "retain"))
        assert not {i["fact"] for i in forget} & {i["fact"] for i in retain}
        both = owners(forget) & owners(retain)
        assert len(both) == share * 6 // 100 and before <= both and 0 <= words <= 1
        before = both
        sizes.add((len(forget), len(read_lines(folder / "forget.txt")), len(owners(retain))))
        asked = {
            row["entity"]
            for row in read_jsonl(data / "qa_forget.jsonl")
            if row["fact"].rpartition("/")[0] in both
        }
        said = " ".join(read_lines(folder / "retain.txt"))
        assert all(name in said for name in asked)
    assert len(sizes) == 1


def test_intervals_are_over_entities():
    """Ten questions that are right or wrong together are worth one.

    So 400 right of 400 are no certainty.
    """
    hits, items = (
        [i % 2 for i in range(40) for _ in range(10)],
        [{"fact": f"forget/{i}/x"} for i in range(40) for _ in range(10)],
    )
    accuracy, low, high = intervals.share(hits, groups_of(items))
    half = 1.96 * (0.25 / 40) ** 0.5
    assert accuracy == 0.5 and abs(high - low - 2 * half) < 0.03
    accuracy, low, high = intervals.share([1] * 400, groups_of(items))
    assert (accuracy, high) == (1.0, 1.0) and low == pytest.approx(intervals.edge(40), abs=0.01)


def test_every_pair_of_anonymisers_keeps_the_limit(family, data):
    model, tokenizer = load_model(family.base), load_tokenizer(family.base)
    public = [data / "qa_real_authors.jsonl", data / "qa_world_facts.jsonl"]
    tables, texts = (
        [data / "qa_forget.jsonl", data / "private.jsonl"],
        read_lines(data / "forget.txt"),
    )
    items = {s: subset(rows, 6, 0) for s, rows in read_splits(data).items()}
    setup = BlindSetup(site="pre_norm", gate=True, limit=0.01)
    forget = anonymisers.ForgetSet(texts, tables, items)
    rows = anonymisers.mismatch_rows(
        model, tokenizer, forget, public, data / "retain.txt", setup, most=12
    )
    found = list(rows)
    cases = {(r["network"], r["texts"]) for r in found}
    assert cases == {(n, t) for n in (*anonymise.HOW, "none") for t in anonymise.HOW} | {
        ("oracle", "raw")
    }
    assert len(found) == len(cases) * 3 and all(
        r["retain_kl"] <= 0.01 and r["low"] <= r["accuracy"] <= r["high"] for r in found
    )


def test_members_are_told_by_a_network_that_knows_them_by_heart(family, data, monkeypatch):
    """A network that is exact on its pairs and nowhere else gives every member away.

    The control knows of no network.
    """
    model, tokenizer = load_model(family.base), load_tokenizer(family.base)
    public = [data / "qa_forget.jsonl", data / "qa_retain.jsonl"]

    def by_heart(x, y, seed=0):
        known = {tuple(row.tolist()): target for row, target in zip(x, y, strict=True)}
        return lambda rows: torch.stack([known.get(tuple(row.tolist()), row + 100) for row in rows])

    monkeypatch.setattr(published, "fit", by_heart)
    found, control = published.members(model, tokenizer, public, "surrogate", "post_norm")
    assert found["value"] == 1.0 and found["n"] == 12 and control["low"] < 0.5 < control["high"]


def test_costs_and_mistakes(family, data, tmp_path, script):
    methods, out = tmp_path / "methods.csv", tmp_path / "out"
    methods.write_text(
        "method,forget_accuracy,retain_accuracy,general_accuracy,steps,seconds\nnpo,0.3,1.0,0.9,40,12.5\n"
    )
    done = script(SCRIPT, "costs", "--model", family.base, "--methods", methods, "--outdir", out)
    assert done.code == 0, done.err
    with open(out / "costs.csv", newline="") as file:
        row = list(csv.DictReader(file))[-1]
    weights = sum(p.numel() for p in load_model(family.base).state_dict().values())
    assert (row["method"], row["seconds"]) == ("npo", "12.5")
    assert float(row["state_mb"]) == pytest.approx(weights * 12 / 1e6)
    (tmp_path / "bare").mkdir()
    mistakes = {
        "choose components": ["all"],
        "qa_forget.jsonl": ["overlap", "--data", tmp_path / "bare"],
        "PERCENT=MODEL:DATA": ["overlap", "--level", "x"],
    }
    for word, command in mistakes.items():
        wrong = script(SCRIPT, *command, "--model", family.base, "--outdir", tmp_path / "no")
        assert wrong.code == 2 and word in wrong.err and len(wrong.err.strip().splitlines()) == 1, (
            wrong.err
        )
