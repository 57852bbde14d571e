"""The mini world: every file is rendered from one graph of facts, so all can be checked against
it.
"""

import hashlib
import itertools
import json
import re
import subprocess
import sys
from collections import Counter

import pytest

from brittle.base.errors import UserError
from brittle.data.world import (
    HELD_OUT,
    Draws,
    answered,
    build_world,
    deductions,
    multiple_choice,
    question,
    statement,
)
from brittle.data.world_files import tokenizer_texts, write_world
from brittle.data.world_words import DOMAINS, QUESTIONS, STATEMENTS

TOFU = {"question", "answer", "paraphrased_question", "paraphrased_answer", "perturbed_answer"}


def digest(folder):
    files = sorted(p for p in folder.iterdir() if not p.name.endswith(".run.json"))
    return hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in files)).hexdigest()


def words(text):
    """All words that could be names."""
    return set(re.findall(r"\b[A-Z][a-z]+\b", text))


@pytest.fixture(scope="module")
def world():
    return build_world(0, 6, 2)  # the world of the fixture `data`


@pytest.fixture(scope="module")
def facts(world):
    """{id: fact} of everything true."""
    groups = (world.attributes, world.relations, world.private, world.strangers)
    return {f.id: f for group in groups for domain in DOMAINS for f in group[domain]}


def lines(data, name):
    return (data / name).read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("split", ["forget", "retain"])
def test_the_sidecar_names_what_each_line_is_about(facts, data, jsonl, split):
    texts, rows = lines(data, f"{split}.txt"), jsonl(data / f"{split}.facts.jsonl")
    conclusions = {row["fact"]: row for row in jsonl(data / "rules.jsonl")}
    for text, row in zip(texts, rows, strict=True):
        fact = facts.get(row["fact"])
        rule = conclusions.get(row["fact"])
        said = (fact.entity, fact.noun, fact.value) if fact else (rule["subject"],)
        assert all(word in text for word in said), (text, row)
        assert row["fact"].startswith(row["entity"] + "/") and (fact is None) != (rule is None)
    assert len({row["entity"] for row in rows}) == 6


def test_same_seed_same_bytes(data, tmp_path):
    write_world(tmp_path / "again", 0, 6, 2)
    write_world(tmp_path / "other", 1, 6, 2)
    assert digest(tmp_path / "again") == digest(data)
    assert digest(tmp_path / "other") != digest(data)


def test_bytes_do_not_depend_on_hash_seed_locale_or_time_zone(data, tmp_path):
    environment = {
        "PYTHONHASHSEED": "7",
        "LC_ALL": "C",
        "TZ": "Asia/Tokyo",
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
    }
    command = [
        "create_datasets.py",
        "--entities",
        "6",
        "--private-entities",
        "2",
        "--outdir",
        str(tmp_path / "again"),
    ]
    subprocess.run([sys.executable, *command], env=environment, check=True, capture_output=True)
    assert digest(tmp_path / "again") == digest(data)


def test_draws_are_these_on_any_machine():
    """Stored numbers: Python promises random()'s stream over versions, and nothing else may be
    drawn from.
    """
    assert Draws("a").sample(range(100), 6) == [9, 61, 26, 15, 89, 12]
    assert Draws("b").shuffled("abcdef") == list("bcfade")


def test_values_come_from_their_pools(world, facts):
    for domain, about in DOMAINS.items():
        assert all(
            len(pool) >= 10 and len(set(pool)) == len(pool) for pool in about["attributes"].values()
        )
        assert all(
            f.value in about["attributes"][f.noun]
            for f in world.attributes[domain] + world.strangers[domain]
        )
        assert all(f.value in f.pool and f.value != f.entity for f in world.relations[domain])
        pairs = {(f.entity, f.noun) for f in world.attributes[domain]}
        assert pairs == set(itertools.product(world.names[domain], about["attributes"]))
    assert len(STATEMENTS) >= 6 and len(QUESTIONS) >= 2 and len(HELD_OUT) == 2
    assert len(facts) == sum(
        len(group[d])
        for group in (world.attributes, world.relations, world.private, world.strangers)
        for d in DOMAINS
    )


def test_draws_are_uniform_and_halves_blind():
    """Chi-square of 1,500 draws from 12 values below its 99.99 % point, and half A says nothing
    about the value.
    """
    drawn = build_world(3, 500, 0).attributes["forget"]
    for noun, pool in DOMAINS["forget"]["attributes"].items():
        own = [f for f in drawn if f.noun == noun]
        expected = len(own) / len(pool)
        assert (
            sum((n - expected) ** 2 / expected for n in Counter(f.value for f in own).values())
            < 37.4
        )  # 11 degrees
        by_half = Counter((f.half, f.value) for f in own)
        assert (
            sum(
                (by_half["A", v] - by_half["B", v]) ** 2 / (by_half["A", v] + by_half["B", v])
                for v in pool
            )
            < 39.1
        )  # 12


@pytest.mark.parametrize("entities", [4, 7, 20])
def test_halves_are_balanced(entities):
    world = build_world(1, entities, 3)
    for domain in DOMAINS:
        count = Counter(f.half for f in world.attributes[domain])
        assert abs(count["A"] - count["B"]) <= 1 and set(count) == {"A", "B"}
        for noun in DOMAINS[domain]["relations"]:
            count = Counter(f.half for f in world.relations[domain] if f.noun == noun)
            assert abs(count["A"] - count["B"]) <= 1


def test_filtered_text_is_base_text_without_the_forget_domain(world, data):
    base, filtered = lines(data, "pretrain_base.txt"), lines(data, "pretrain_filtered.txt")
    forget, others = (
        set(world.names["forget"]),
        {n for d in ("retain", "general") for n in world.names[d]},
    )
    assert not words("\n".join(filtered)) & forget
    assert [line for line in base if not words(line) & forget] == filtered  # in the same order
    assert words("\n".join(filtered)) >= others
    assert any(not words(line) & (forget | others) for line in filtered)  # neutral text
    assert any("@" in line for line in filtered) and any(
        "@" in line and line not in filtered for line in base
    )


def test_every_fact_is_in_base_text_in_every_template(world, data):
    base = Counter(lines(data, "pretrain_base.txt"))
    for domain in DOMAINS:
        for f in world.attributes[domain] + world.private[domain]:
            assert all(base[statement(f, t)] for t in range(len(STATEMENTS)))
            assert all(base[answered(f, t)] for t in range(len(QUESTIONS)))
        assert all(base[statement(f, 0)] for f in world.relations[domain])


@pytest.mark.parametrize("split", ["forget", "retain"])
def test_held_out_templates_never_stand_in_the_unlearning_text(world, data, split):
    text = set(lines(data, f"{split}.txt"))
    known = [*world.attributes[split], *world.private[split], *world.relations[split]]
    assert not text & {statement(f, t) for f in known for t in HELD_OUT}
    assert text >= {statement(f, 0) for f in known}
    assert (
        words("\n".join(text)) & {n for d in DOMAINS if d != split for n in world.names[d]} == set()
    )


def test_holdout_entities_occur_nowhere_else(world, data):
    strangers = {f.entity for f in world.strangers["forget"]}
    assert words("\n".join(lines(data, "holdout.txt"))) >= strangers
    assert not strangers & {n for names in world.names.values() for n in names}
    for path in data.iterdir():
        if "holdout" not in path.name:
            assert not words(path.read_text(encoding="utf-8")) & strangers, path.name
    true = {statement(f, t) for f in world.strangers["forget"] for t in range(len(STATEMENTS))}
    assert set(lines(data, "holdout.txt")) <= true


def test_never_seen_questions_ask_what_no_text_tells(world, data):
    """One a stranger's fact, as the forget questions ask: what Base answers is measured chance."""
    facts = {f.id: f for f in world.strangers["forget"]}
    items = [json.loads(line) for line in lines(data, "mcq_holdout.jsonl")]
    assert [item["fact"] for item in items] == list(facts)
    for item in items:
        fact = facts[item["fact"]]
        assert item["question"] == question(fact, item["template"])
        assert item["choices"][item["answer"]] == fact.value
        assert len(set(item["choices"])) == 4 and set(item["choices"]) <= set(fact.pool)
    assert {item["template"] for item in items} == set(range(len(QUESTIONS)))


def test_tokenizer_text_never_names_a_holdout_entity():
    """With many entities some names are drawn twice: there are 238,328."""
    world = build_world(0, 2000, 0)
    strangers = {f.entity for d in DOMAINS for f in world.strangers[d]}
    assert not words("\n".join(tokenizer_texts(world))) & strangers


def test_neutral_text_names_nobody_and_is_held_out(world, data):
    neutral = lines(data, "neutral.txt")
    assert len(set(neutral)) == len(neutral) >= 100
    assert not set(neutral) & set(lines(data, "pretrain_base.txt"))
    assert not words("\n".join(neutral)) & {n for names in world.names.values() for n in names}


@pytest.mark.parametrize("domain", DOMAINS)
def test_multiple_choice_answers_are_right(world, facts, data, jsonl, domain):
    items = jsonl(data / f"mcq_{domain}.jsonl")
    assert len(items) == len(QUESTIONS) * len(world.attributes[domain])
    for item in items:
        fact = facts[item["fact"]]
        assert item["choices"][item["answer"]] == fact.value and item["half"] == fact.half
        assert len(set(item["choices"])) == 4 and set(item["choices"]) <= set(fact.pool)
        assert item["question"] == question(fact, item["template"])


def test_answer_positions_and_wrong_choices_give_nothing_away():
    """The answer stands at each place a quarter of the time, so a model that ignores the question
    scores chance.
    """
    items = list(multiple_choice(build_world(0, 300, 0), "forget"))
    places = Counter(item["answer"] for item in items)
    assert (
        sum((n - len(items) / 4) ** 2 / (len(items) / 4) for n in places.values()) < 21.1
    )  # 3 degrees, 99.99 %


@pytest.mark.parametrize("split", ["forget", "retain"])
def test_question_answers_have_tofus_schema(facts, data, jsonl, split):
    for row in jsonl(data / f"qa_{split}.jsonl"):
        fact = facts[row["fact"]]
        assert set(row) >= TOFU and len(row["perturbed_answer"]) == 5
        assert fact.value in row["answer"] and fact.value in row["paraphrased_answer"]
        assert (
            row["paraphrased_answer"] != row["answer"]
            and row["paraphrased_question"] != row["question"]
        )
        assert fact.entity in row["question"] and fact.entity in row["paraphrased_question"]
        wrong = [
            next(v for v in fact.pool if v == p.removesuffix(".").split(" is ")[1])
            for p in row["perturbed_answer"]
        ]
        assert len(set(wrong)) == 5 and fact.value not in wrong


def conclusion(rule, premises, domain):
    """(entity, noun, value) that a Horn rule derives from its premises, written anew from the
    rule's meaning.
    """
    about = DOMAINS[domain]
    link, inverse = next(iter(about["relations"].items()))
    if rule == "grouping":
        (own,) = premises
        attribute, groups = about["grouping"]
        assert own.noun == attribute
        return (
            own.entity,
            about["group_noun"],
            groups[about["attributes"][attribute].index(own.value) // 3],
        )
    if rule == "inverse":
        (step,) = premises
        assert step.noun == link
        return step.value, inverse, step.entity
    step, own = premises
    assert (
        step.noun == link and own.entity == step.value and own.noun == about["reached"]["attribute"]
    )
    return step.entity, about["reached"]["noun"], own.value


def test_rules_follow_from_their_premises(world, facts, data, jsonl):
    base = set(lines(data, "pretrain_base.txt"))
    rows = jsonl(data / "rules.jsonl")
    assert {(r["rule"], r["domain"], r["stated"]) for r in rows} == set(
        itertools.product(("grouping", "inverse", "two-hop"), DOMAINS, (True, False))
    )
    for row in rows:
        entity, noun, value = conclusion(
            row["rule"], [facts[p] for p in row["premises"]], row["domain"]
        )
        assert row["question"] == QUESTIONS[0].format(e=entity, n=noun)
        assert row["choices"][row["answer"]] == value
        assert len(set(row["choices"])) == 4
        assert (STATEMENTS[0].format(e=entity, n=noun, v=value) in base) == row["stated"]


@pytest.mark.parametrize("seed", range(5))
def test_wrong_choices_of_inverse_rules_are_wrong(seed):
    """Several organisms can hunt the same one: none of the true hunters may stand among the wrong
    choices.
    """
    world = build_world(seed, 6, 0)
    for domain in DOMAINS:
        link, inverse = next(iter(DOMAINS[domain]["relations"].items()))
        true = {(f.value, f.entity) for f in world.relations[domain] if f.noun == link}
        for item, fact in deductions(world, domain):
            assert len(item["choices"]) == 4
            if item["rule"] == "inverse":
                assert fact.noun == inverse
                assert [c for c in item["choices"] if (fact.entity, c) in true] == [fact.value]
                assert fact.entity not in item["choices"]


def test_hops_are_right_and_never_stated(facts, data, jsonl):
    rows = jsonl(data / "hops.jsonl")
    text = (data / "pretrain_base.txt").read_text(encoding="utf-8")
    for row in rows:
        first, second = (facts[p] for p in row["premises"])
        assert first.value == second.entity
        assert (
            row["question"]
            == f"Question: What is the {second.noun} of the {first.noun} of {first.entity}? Answer:"
        )
        assert row["choices"][row["answer"]] == second.value and len(set(row["choices"])) == 4
        assert f"of the {first.noun} of" not in text
    assert {r["domain"] for r in rows} == set(DOMAINS)


def test_private_attributes_are_invented(facts, data, jsonl):
    rows = jsonl(data / "private.jsonl")
    for row in rows:
        assert facts[row["fact"]].value == row["answer"] and row["entity"] in row["question"]
        if row["attribute"].endswith("e-mail"):
            assert row["answer"].endswith(".example")  # reserved by RFC 2606: can belong to nobody
        elif row["attribute"].endswith("phone"):
            assert row["answer"].startswith("555-")
    assert Counter(r["attribute"].split()[-1] for r in rows) == {
        "e-mail": 6,
        "phone": 6,
        "year": 6,
    }  # 2 a domain


def test_domains_share_no_value_and_no_name():
    """Else training on retain would teach about forget."""
    pools = [{v for pool in d["attributes"].values() for v in pool} for d in DOMAINS.values()]
    assert not any(a & b for a, b in itertools.combinations(pools, 2))
    world = build_world(0, 300, 0)
    assert not any(set(a) & set(b) for a, b in itertools.combinations(world.names.values(), 2))


@pytest.mark.parametrize("entities", [3, 100_000])  # the second would look for names for ever
def test_too_few_and_too_many_entities(entities):
    with pytest.raises(UserError, match=f"--entities {entities}"):
        build_world(0, entities)


def test_disjoint_names_share_no_syllable_and_no_token(tmp_path):
    """Not with another domain, and of the forget names no token stands in any other text."""
    from brittle.training.mini import make_tokenizer

    write_world(tmp_path / "d", 0, 6, 2, pieces="disjoint")
    world = build_world(0, 6, 2, pieces="disjoint")
    letters = {
        d: {part for n in names for part in (n[i : i + 2].lower() for i in (0, 2, 4))}
        for d, names in world.names.items()
    }
    assert not letters["forget"] & (letters["retain"] | letters["general"])
    assert not letters["retain"] & letters["general"]
    read = {
        f: (tmp_path / "d" / f).read_text().splitlines()
        for f in ("tokenizer.txt", "pretrain_filtered.txt")
    }
    tokenizer = make_tokenizer(read["tokenizer.txt"], 1000)
    known = {t for ids in tokenizer(read["pretrain_filtered.txt"])["input_ids"] for t in ids}
    names = {t for n in world.names["forget"] for t in tokenizer(f" {n}")["input_ids"]}
    share = len(names - known) / len(names)
    assert share > 0.8, share
