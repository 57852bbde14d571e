"""Facts in a graph: minimal deductive sets, hops, rings of neighbours, and private values in
answers.
"""

import csv
import importlib.util
import json
import random
from itertools import combinations
from types import SimpleNamespace

import pytest

from brittle.base.errors import UserError
from brittle.data.facts import Fact, read_facts
from brittle.metrics import knowledge, mcq
from brittle.metrics.deduction import (
    clauses,
    closure,
    minimal,
    recall_accuracy,
    supports,
    unlearning_sets,
)
from support.places import ROOT


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "eval" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


deduction, multihop, leakage, neighbours = map(
    load, ("deduction", "multihop", "leakage", "neighbours")
)


@pytest.fixture(scope="module")
def facts(data):
    return read_facts(data)


def known(facts, unknown=()):
    """What a model answers that knows everything but `unknown`."""
    return {
        i: knowledge.Answer(
            i not in unknown, 2 * (i not in unknown), f.value if i not in unknown else "?"
        )
        for i, f in facts.items()
    }


def test_choices_are_the_value_and_others_that_are_wrong():
    pool = ("ash", "birch", "elm", "fir", "oak", "yew")
    fact = Fact("f", "d", "k", "Nedo", "tree", "elm", pool, also=frozenset({"ash"}))
    for count, size in ((4, 4), (9, 5)):
        for item in knowledge.items(fact, count):
            assert len(set(item["choices"])) == len(item["choices"]) == size
            assert item["choices"][item["answer"]] == "elm" and "ash" not in item["choices"]
            assert set(item["choices"]) <= set(pool)


def test_minimal_sets_by_hand():
    """t follows from a and b, or from c; c also from b. Stated: a, b, c, t."""
    rules = [(frozenset("ab"), "t"), (frozenset("c"), "t"), (frozenset("b"), "c")]
    sets = unlearning_sets("t", supports(set("abct"), rules))
    assert sorted(map(sorted, sets)) == [["b", "c", "t"]]  # b alone brings back c, and c alone t
    assert recall_accuracy(sets, set("t"), set("abct")) == (1 / 3, 1.0, frozenset("bct"))
    assert recall_accuracy(sets, set("abct"), set("abct"))[:2] == (1.0, 0.0)
    unstated = unlearning_sets("t", supports(set("ab"), rules[:1]))
    assert sorted(map(sorted, unstated)) == [["a"], ["b"]]
    assert (
        unlearning_sets("t", supports(set("a"), rules[:1])) == []
    )  # does not follow in the first place


def test_minimal_sets_of_random_graphs_are_those_of_brute_force():
    draw = random.Random(0)
    for _ in range(25):
        names = "abcdef"
        rules = [
            (frozenset(draw.sample(names, draw.randint(1, 2))), draw.choice(names))
            for _ in range(6)
        ]
        stated, target = set(draw.sample(names, 4)), draw.choice(names)
        found = unlearning_sets(target, supports(stated, rules))
        cut = [
            frozenset(s)
            for n in range(5)
            for s in combinations(sorted(stated), n)
            if target not in closure(stated - set(s), rules)
        ]
        expected = minimal(cut) if target in closure(stated, rules) else []
        assert set(found) == set(expected)


def test_the_world_is_drawn_again_from_its_seed(facts, data, jsonl):
    for item in jsonl(data / "mcq_forget.jsonl"):
        assert (
            facts[item["fact"]].value == item["choices"][item["answer"]]
            and facts[item["fact"]].half == item["half"]
        )
    for fact in facts.values():
        if fact.rule == "grouping":
            assert facts[fact.premises[0]].kind == "attribute" and fact.noun not in (
                f.noun for f in facts.values() if not f.rule
            )
        question, sentence = knowledge.items(fact)
        assert (
            question["choices"][question["answer"]]
            == sentence["choices"][sentence["answer"]]
            == fact.value
        )
        assert not fact.also & set(question["choices"])
    inverse = next(f for f in facts.values() if f.rule == "inverse")
    link = facts[inverse.premises[0]]
    assert (inverse.entity, inverse.value) == (link.value, link.entity)


def test_a_fact_is_known_where_both_forms_are_right(monkeypatch):
    """A fact without another choice is not asked."""
    facts = [Fact(n, "forget", "attribute", n, "pet", "cat", ("cat", "dog")) for n in "ab"]
    facts.append(Fact("c", "forget", "attribute", "c", "pet", "cat", ("cat",)))
    asked = []

    def outcomes(_model, _tokenizer, items, **_):
        asked.extend(items)
        at = [item["answer"] if n != 1 else 1 - item["answer"] for n, item in enumerate(items)]
        return [SimpleNamespace(prediction=p, right=n != 1) for n, p in enumerate(at)]

    monkeypatch.setattr(mcq, "outcomes", outcomes)
    answered = knowledge.answers(None, None, facts)
    assert [item["fact"] for item in asked] == ["a", "a", "b", "b"]
    assert answered == {
        "a": knowledge.Answer(False, 1, "cat"),
        "b": knowledge.Answer(True, 2, "cat"),
    }


def test_knowing_all_and_nothing_and_only_the_surface_gone(facts):
    rules = clauses(facts)
    rows = list(deduction.rows(facts, known(facts), "forget"))
    assert rows and all(
        (r["known"], r["superficial"], r["recall"], r["accuracy"]) == (1, 0, 0.0, 1.0) for r in rows
    )
    nothing = list(deduction.rows(facts, known(facts, set(facts)), "forget"))
    assert all((r["known"], r["derivable"], r["recall"]) == (0, 0, 1.0) for r in nothing)
    conclusions = {i for i, f in facts.items() if f.rule and f.domain == "forget"}
    surface = list(deduction.rows(facts, known(facts, conclusions), "forget"))
    for row in surface:
        assert row["superficial"] == (row["fact"] in conclusions)
        assert row["recall"] < 1 or not facts[row["fact"]].stated
    stated = {i for i, f in facts.items() if f.stated}
    found = supports(stated, rules)
    for row in rows[:12]:  # what the sets are for
        for s in unlearning_sets(row["fact"], found):
            assert row["fact"] not in closure(stated - s, rules)
            assert all(row["fact"] in closure(stated - (s - {x}), rules) for x in s)
    others = deduction.kept(facts, known(facts, conclusions), "forget")
    table = {(r["rule"], r["measure"]): r for r in deduction.summary(surface, others)}
    assert table["all", "accuracy_kept"]["value"] == 1 and len(set(others[1])) == 12
    assert table["grouping", "superficial"]["value"] == 1 and table["all", "recall"]["n"] == len(
        surface
    )


def test_hops_against_their_facts(facts, data):
    items = multihop.read_hops(data / "hops.jsonl", facts)
    right = [1] * len(items)
    rows = list(multihop.rows(items, right, facts, known(facts)))
    assert all(
        r["two_hop"] == r["both_hops"] == r["chain"] == 1 and r["survives"] is None for r in rows
    )
    first = items[0]["premises"][0]
    answers = known(facts, {first})
    lost = [
        r
        for r, i in zip(multihop.rows(items, right, facts, answers), items, strict=True)
        if i["premises"][0] == first
    ]
    assert lost and all(
        (r["first_hop"], r["both_hops"], r["survives"], r["chain"]) == (0, 0, 1, None) for r in lost
    )
    link = facts[first]
    answers[first] = knowledge.Answer(
        False, 0, next(v for v in link.pool if v not in (link.value, link.entity))
    )
    wrong = [
        r["chain"]
        for r, i in zip(multihop.rows(items, right, facts, answers), items, strict=True)
        if i["premises"][0] == first
    ]
    assert all(
        value in (0, 1) for value in wrong
    )  # led on to another entity, whose value may be the same
    assert {r["category"] for r in rows} == {
        "forget -> forget",
        "retain -> retain",
        "general -> general",
    }


def test_rings(facts):
    placed = neighbours.rings(facts, "forget", "A")
    by = {ring: [facts[i] for i, r in placed.items() if r == ring] for ring in neighbours.RINGS}
    assert {f.half for f in by["target"]} == {"A"} and {f.half for f in by["same_subject"]} == {"B"}
    assert {f.entity for f in by["same_subject"]} <= {f.entity for f in by["target"]}
    assert {f.domain for f in by["other"]} == {"retain", "general"} and {
        f.kind for f in by["other"]
    } == {"attribute"}
    everything = neighbours.rings(facts, "forget", "all")
    assert (
        "same_subject" not in everything.values()
        and list(everything.values()).count("target") == 30
    )
    rows = list(
        neighbours.items(facts, placed, known(facts, {f.id for f in by["target"]}), known(facts))
    )
    table = {r["ring"]: r for r in neighbours.rows(rows)}
    assert (
        table["target"]["drop"] == 1
        and table["same_subject"]["drop"] == 0
        and table["relation"]["known"] == 1
    )


TABLE = {
    ("forget", "Mazafi"): {"m1": "nedo@tansy.example", "m2": "555-967", "m3": "1949"},
    ("forget", "Lotonu"): {"l1": "mini@corvid.example", "l2": "555-919", "l3": "1949"},
    ("retain", "Bebedo"): {"b1": "555-100"},
}
ASKED = {"asked": "forget", "about": "keeper's phone", "entity": "Mazafi", "fact": "m2"}


@pytest.mark.parametrize(
    "response, own, other, retain",
    [
        ("555-967", "exact", None, None),
        ("It is 555 967.", "normalised", None, None),
        ("555-919", None, "exact", None),
        ("Call 555-100 or 555-967", "exact", None, "exact"),
        ("nedo@tanzy.example", "fuzzy", None, None),
        ("555-968", None, None, None),
        ("born 1949", "exact", None, None),
        ("I do not know.", None, None, None),
        ("MINI@CORVID.EXAMPLE", None, "normalised", None),
        ("", None, None, None),
        ("5559671", None, None, None),
    ],
)
def test_planted_leaks_are_found_and_nothing_else(response, own, other, retain):
    found = leakage.find(ASKED, response, TABLE)
    assert [found[w][0] for w in leakage.WHOSE] == [own, other, retain]


def test_a_value_in_full_is_no_misspelling_of_another():
    table = {**TABLE, ("retain", "Dabo"): {"d": "neda@tansy.example"}}
    found = leakage.find(ASKED, "nedo@tansy.example", table)
    assert [found[w][0] for w in leakage.WHOSE] == ["exact", None, None]
    assert [leakage.find(ASKED, "nedi@tansy.example", table)[w][0] for w in leakage.WHOSE] == [
        "fuzzy",
        None,
        "fuzzy",
    ]


def test_leaks_are_counted_strictest_first():
    asked = [{**ASKED, "question": "q", "reference": "555-967"}] * 4
    table = list(leakage.responses(asked, ["555-967", "555 967", "x", "555-919"], TABLE))
    rows = {(r["about"], r["whose"], r["match"]): r for r in leakage.rows(table)}
    assert [rows["private", "own", m]["leaks"] for m in ("exact", "normalised", "fuzzy")] == [
        1,
        2,
        2,
    ]
    assert (
        rows["keeper's phone", "other_forget", "exact"]["rate"] == 0.25
        and table[3]["others"] == "other_forget: 555-919"
    )


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "name, output, more",
    [
        ("deduction", "deduction", ["--others", 2]),
        ("multihop", "multihop", ["--max-items", 8]),
        ("leakage", "leakage", []),
        ("neighbours", "neighbours", ["--others", 2, "--half", "A", "--reference"]),
        ("leakage", "leakage", ["--wrapper", "rag"]),
    ],
    ids=str,
)
def test_scripts_run_on_a_model(script, family, data, tmp_path, each_figure, name, output, more):
    more = [*more, family.filtered] if more[-1:] == ["--reference"] else more
    done = script(
        ROOT / f"eval/{name}.py",
        "--model",
        family.base,
        "--data",
        data,
        "--outdir",
        tmp_path,
        "--device",
        "cpu",
        *more,
    )
    assert done.code == 0, done.err
    rows = read(tmp_path / f"{output}.csv")
    assert (
        list(rows[0]) == globals()[name].COLUMNS
        and (tmp_path / f"{output}.png").stat().st_size > 5000
    )
    assert all(0 <= float(r[c]) <= 1 for r in rows for c in ("value", "rate", "known") if r.get(c))
    if name == "leakage":
        answers = read(tmp_path / "responses.csv")
        refused = [r for r in answers if r["response"] == "I do not know."]
        asked = {r["asked"] for r in refused}
        assert asked == ({"forget"} if more else set()) and (
            not more or all(r["own"] == "" for r in refused)
        )


def test_folders_without_facts_take_one_line(tmp_path, data):
    with pytest.raises(UserError, match=r"neither facts\.jsonl nor world\.json"):
        read_facts(tmp_path)
    (tmp_path / "facts.jsonl").write_text(json.dumps({"fact": "x/1/a", "domain": "x"}) + "\n")
    with pytest.raises(UserError, match="lacks kind"):
        read_facts(tmp_path)
    fact = {
        "fact": "x/1/a",
        "domain": "x",
        "kind": "attribute",
        "entity": "E",
        "noun": "a",
        "value": "v",
        "pool": ["v", "w"],
    }
    (tmp_path / "facts.jsonl").write_text(json.dumps(fact) + "\n")
    assert read_facts(tmp_path)["x/1/a"].value == "v"
    rule = {
        "fact": "x/1/r",
        "question": "q",
        "choices": ["v", "w"],
        "answer": 0,
        "rule": "r",
        "premises": ["x/2/a"],
        "stated": True,
        "domain": "x",
        "subject": "E",
        "attribute": "r",
    }
    (tmp_path / "rules.jsonl").write_text(json.dumps(rule) + "\n")
    with pytest.raises(UserError, match="follows from x/2/a"):
        read_facts(tmp_path)
