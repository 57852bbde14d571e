"""The search for settings: it finds a planted optimum, gives every method the same budget, goes on
after a kill as if nothing had been, and reads no question of half B.
"""

import csv
import json
import math
import re
import shutil
import tomllib
from functools import partial

import pytest

from brittle.attacks import relearn
from brittle.base.errors import UserError
from brittle.data.items import read_items, subset
from brittle.methods import METHODS
from brittle.metrics import mcq
from brittle.models.load import load_model, load_tokenizer
from brittle.unlearning import bench, rates, search
from brittle.unlearning.goal import BROKEN, TrialMeasures, read_goal
from brittle.unlearning.job import Defaults, assemble, read_defaults
from brittle.unlearning.search import Axis, Budget, Searcher
from support.places import ROOT

LEVELS = {
    "base": {"forget": 1.0, "retain": 1.0, "general": 0.9},
    "filtered": {"forget": 0.3, "retain": 1.0, "general": 0.9},
    "chance": {"forget": 0.25, "retain": 0.25, "general": 0.25},
}
GOAL = read_goal("forget<=filtered+.05", "retain>=.95*base general>=.95*base")


def measures(forget=0.3, retain=1.0, general=0.9, kl=0.1, signs=()):
    return TrialMeasures(
        {"forget": forget, "retain": retain, "general": general}, kl, 1.0, list(signs)
    )


# --- what is wanted


def test_the_target_comes_first_then_the_neutral_text_and_a_collapse_is_none():
    order = [
        measures(kl=0.0),
        measures(kl=0.1),
        measures(forget=0.35, kl=0.5),
        measures(kl=50.0),
        measures(forget=0.36, kl=0.0),
        measures(forget=0.7, kl=0.0),
        measures(signs=["broken"]),
        measures(forget=0.7, signs=["broken"]),
    ]
    scores = [GOAL.score(one, LEVELS) for one in order]
    assert scores == sorted(scores) and len(set(scores)) == len(scores)
    assert [GOAL.reached(one, LEVELS) for one in order] == [True] * 4 + [False] * 4
    assert scores[4] == pytest.approx(1.01) and scores[-1] < BROKEN
    kept = GOAL.score(measures(retain=0.9, general=0.8), LEVELS)
    assert kept == pytest.approx(1 + 0.05 + (0.95 * 0.9 - 0.8))
    assert GOAL.score(measures(kl=math.nan), LEVELS) == BROKEN


def test_under_attack_the_target_holds_for_what_the_attack_brings_back():
    attacked = GOAL.under_attack()
    levels = {name: {**of, "attacked": of["forget"] + 0.1} for name, of in LEVELS.items()}
    one = measures()
    one.accuracy["attacked"] = 0.65
    assert attacked.score(one, levels) == pytest.approx(1 + 0.65 - 0.45)


@pytest.mark.parametrize(
    ("target", "limits", "words"),
    [
        ("forgot<=.3", "", "--target forgot<=.3: 'forgot' is none of forget, retain, general"),
        ("forget<=half", "", "--target forget<=half is not understood. Such as"),
        ("forget<=1.2.3", "", "--target forget<=1.2.3 is not understood"),
        ("", "", "--target '' does not say how far forget is to fall"),
        ("forget>=.3", "", "does not say how far forget is to fall"),
        ("forget<=.3", "kept>=.9", "--limits kept>=.9: 'kept' is none of"),
        ("forget<=.3", "forget>=.4", "forget>=0.4 (that is 0.400) and forget<=0.3 (0.300) contra"),
        ("forget<=.3", "retain>=.9, retain<=.5*base", "retain>=0.9 (that is 0.900) and retain<=0."),
        ("forget<=.3", "retain>=1.1*base", "retain>=1.1*base: no accuracy is above 1"),
        ("forget<=chance-.5", "", "forget<=chance-0.5: no accuracy is below 0"),
        ("forget<=base", "", "--target: the model itself meets forget<=base"),
    ],
)
def test_a_goal_that_makes_no_sense_is_one_line(target, limits, words):
    with pytest.raises(UserError) as refused:
        read_goal(target, limits).check(LEVELS)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_conditions_may_stand_side_by_side_in_any_of_three_ways():
    for between in (" ", ", ", " and ", ";"):
        limits = f"retain >= .95 * base{between}general>=chance + .1"
        goal = read_goal("forget <= filtered + .05", limits)
        bounds = [condition.bound(LEVELS) for condition in goal.conditions]
        assert bounds == pytest.approx([0.35, 0.95, 0.35])


# --- the search itself, with an objective whose optimum is known

SPACE = [
    Axis("lr", "log", 1e-5, 1e-1, (), 1e-4),
    Axis("steps", "log", 10, 1000, (), 100),
    Axis("kind", "choices", 0, 0, ("nll", "kl"), "nll"),
]


def planted(method, values, report):
    """Best at lr 1e-2 with kl: forget falls as lr comes near it."""
    off = abs(math.log10(values["lr"]) + 2)
    forget = min(1.0, 0.3 + 0.3 * max(0.0, off - 0.3))
    outcome = measures(forget=forget, kl=0.1 * off + 0.2 * (values["kind"] == "nll"))
    report(1, outcome)
    return outcome


def searcher(file=None, objective=planted, names=("npo", "rmu"), **more):
    return Searcher(
        file=file,
        spaces=dict.fromkeys(names, SPACE),
        objective=objective,
        score=lambda outcome: GOAL.score(outcome, LEVELS),
        **more,
    )


def test_it_finds_the_planted_optimum_and_every_method_has_the_same_budget():
    listed = searcher().run(Budget(trials=30))
    assert [row["method"] for row in listed].count("npo") == 30 and len(listed) == 60
    for row in search.best(listed).values():
        assert abs(math.log10(float(row["values"]["lr"])) + 2) < 0.35
        assert row["values"]["kind"] == "kl" and row["score"] < 0.05
    first = listed[0]
    assert first["values"] == {"lr": "0.0001", "steps": "100", "kind": "nll"}
    assert first["state"] == "complete"  # the defaults are never pruned
    assert {row["state"] for row in listed} == {"complete", "pruned"}


def test_minutes_are_shared_out_evenly(monkeypatch):
    """A clock that each method's trials move at a pace of their own."""
    now = [0.0]
    monkeypatch.setattr(search.time, "monotonic", lambda: now[0])

    def slow(method, values, report):
        now[0] += {"npo": 10, "rmu": 25}[method]
        return measures()

    listed = searcher(None, slow).run(Budget(seconds=100))
    names = [row["method"] for row in listed]
    assert (names.count("npo"), names.count("rmu")) == (10, 4)


def timeless(listed):
    return [{**row, "seconds": 0} for row in listed]


def test_a_killed_search_goes_on_as_if_it_had_not_stopped(tmp_path):
    class Killed(BaseException):
        pass

    file = tmp_path / "search.db"
    expected = searcher(seed=3).run(Budget(trials=4))
    calls = []

    def dies(method, values, report):
        calls.append(method)
        if len(calls) == 5:
            raise Killed
        return planted(method, values, report)

    with pytest.raises(Killed):
        searcher(file, dies, seed=3).run(Budget(trials=4))
    ran = []

    def again(method, values, report):
        ran.append(method)
        return planted(method, values, report)

    resumed = searcher(file, again, seed=3).run(Budget(trials=4))
    assert len(ran) == 8 - 4  # what had ended is not done again
    assert timeless(resumed) == timeless(expected)
    with pytest.raises(UserError, match=r"search\.db holds trials of npo of another search: seed"):
        searcher(file, seed=4).run(Budget(trials=4))


def test_what_is_refused_costs_no_budget_and_what_breaks_does():
    refused = []

    def picky(method, values, report):
        if values["kind"] == "kl" and len(refused) < 3:
            refused.append(values)
            raise search.Refused("no kl")
        if len(refused) == 3 and values["lr"] > 1e-3:
            raise search.Broken("the loss is nan")
        return measures()

    listed = searcher(None, picky, names=("npo",)).run(Budget(trials=12))
    states = [row["state"] for row in listed]
    assert states.count("refused") == 3 == len(refused)
    assert len(states) - 3 == 12 and states.count("broken") >= 1
    assert all(row["measures"] is None for row in listed if row["state"] in ("refused", "broken"))

    def never(method, values, report):
        raise search.Refused("nothing fits")

    with pytest.raises(UserError, match=r"npo refused 20 combinations in a row.*nothing fits"):
        searcher(None, never, names=("npo",)).run(Budget(trials=1))


def test_a_collapse_on_the_way_ends_a_trial_and_so_does_falling_behind():
    measured = []

    def objective(method, values, report):
        number = len(measured)
        measured.append(number)
        broken = measures(signs=["it says one thing"]) if number == 2 else None
        slow = measures(forget=0.9) if number == 5 else None
        report(1, broken or slow or measures(kl=0.1 + number / 100))
        measured[number] = "ended"
        return measures()

    listed = searcher(None, objective, names=("npo",)).run(Budget(trials=6))
    states = [row["state"] for row in listed]
    assert states[2] == states[5] == "pruned" and listed[2]["quarter"] == 1
    assert states[0] == states[1] == "complete" and measured[2] == 2 and measured[5] == 5


def test_ranges_take_in_the_defaults_and_name_blocks_that_there_are():
    defaults = Defaults({"lr": 1e-3}, {"layer_id": [2], "alpha": 9000.0})
    by_name = {axis.name: axis for axis in search.axes("rmu", defaults, 2, one_pass=6)}
    assert by_name["layer_id"].choices == ("0", "1") and by_name["layer_id"].default == "0"
    of_four = search.axes("rmu", defaults, 4, one_pass=6)
    assert next(a for a in of_four if a.name == "layer_id").choices == ("2", "0", "1", "3")
    assert by_name["alpha"].high == 9000.0 and by_name["alpha"].low == 0.1
    assert (by_name["lr"].low, by_name["lr"].high) == pytest.approx((1e-4, 1e-2))
    assert (by_name["steps"].low, by_name["steps"].high, by_name["steps"].default) == (6, 60, 6)
    a_phase = Defaults({"lr": 1e-3}, {"steps_per_layer": 10})
    assert "steps" not in {axis.name for axis in search.axes("sequential", a_phase, 4, one_pass=6)}


# --- the command, on a model that knows its facts


@pytest.fixture(scope="module")
def command(knowing, data):
    def arguments(outdir, *more, data=data):
        call = ["unlearn/search.py", "--model", knowing, "--data", data, "--outdir", outdir]
        return [*call, "--max-items", "16", "--device", "cpu", *more]

    return arguments


def read_table(folder):
    with open(folder / "search.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_best_settings_make_the_model_that_was_measured(
    command, script, knowing, data, tmp_path, monkeypatch
):
    """--config makes the same weights."""
    monkeypatch.setattr(relearn, "Relearn", partial(relearn.Relearn, steps=4, at=(2, 4)))
    small = ("--methods", "ga_simple", "--robust")
    done = script(*command(tmp_path / "out", "--trials", "1", *small))
    assert done.code == 0, done.err
    assert "base: forget" in done.out and "misses the target" in done.out
    (first,) = read_table(tmp_path / "out")
    assert first["state"] == "complete" and float(first["attacked_accuracy"]) >= 0
    assert first["best"] == "1" and (tmp_path / "out" / "search.png").is_file()
    tables = tomllib.loads((tmp_path / "out" / "best.toml").read_text(encoding="utf-8"))
    assert tables["ga_simple"]["steps"] == 20
    made = script(
        *("unlearn/unlearn.py", "--model", knowing, "--method", "ga_simple", "--data", data),
        *("--config", tmp_path / "out" / "best.toml", "--root", tmp_path, "--device", "cpu"),
    )
    assert made.code == 0, made.err
    home = tmp_path / "base__ga_simple" / "unlearned_model"
    items = bench.of_half_a(read_items(data / "mcq_forget.jsonl"))
    model, tokenizer = load_model(str(home)), load_tokenizer(str(home))
    accuracy = mcq.accuracy(model, tokenizer, subset(items, 16, 0))
    assert accuracy == pytest.approx(float(first["forget_accuracy"]))


def test_half_b_is_not_asked_and_more_trials_go_on(command, script, data, tmp_path, monkeypatch):
    """Every question that is asked is noted, and with other questions in the place of half B's the
    search is the same to the last digit. No file that tells half B's answers is read.
    """
    rows = read_items(data / "mcq_forget.jsonl")
    half_b = {row["question"] for row in rows if row["half"] == "B"}
    questions, real = [], mcq.outcomes

    def outcomes(model, tokenizer, items, *more, **named):
        questions.extend(item["question"] for item in items)
        return real(model, tokenizer, items, *more, **named)

    monkeypatch.setattr(mcq, "outcomes", outcomes)
    own = tmp_path / "own"
    shutil.copytree(data, own)
    with open(own / "mcq_forget.jsonl", "w", encoding="utf-8") as file:
        for row in rows:
            other = {"question": f"Is {len(row['question'])} odd?", "answer": 0}
            print(json.dumps({**row, **other} if row["half"] == "B" else row), file=file)
    for name in ("qa_forget.jsonl", "facts.jsonl", "pretrain_base.txt"):
        (own / name).unlink(missing_ok=True)
    small = ("--methods", "ga_simple", "--trials", "1")
    tables = []
    for folder in (data, own):
        done = script(*command(tmp_path / folder.name / "out", *small, data=folder))
        assert done.code == 0, done.err
        tables.append([{**row, "seconds": 0} for row in read_table(tmp_path / folder.name / "out")])
    assert tables[0] == tables[1] and len(tables[0]) == 1
    assert questions and not half_b & set(questions)
    assert not any(question.startswith("Is ") for question in questions)
    record = json.loads((tmp_path / data.name / "out" / "search.run.json").read_text())
    read = {path.rpartition("/")[2] for path in record["inputs"]}
    assert {name for name in read if not name.endswith((".json", ".safetensors"))} == {
        "presets.toml",
        "forget.txt",
        "retain.txt",
        "neutral.txt",
        "forget.facts.jsonl",
        "retain.facts.jsonl",
        *(f"mcq_{split}.jsonl" for split in ("forget", "retain", "general")),
    }
    # more trials go on from these, and another search does not mix with them
    out, first = tmp_path / data.name / "out", tables[0][0]
    done = script(*command(out, "--methods", "ga_simple", "--trials", "2"))
    assert done.code == 0 and "ga_simple complete: forget" in done.out, done.err
    again, second = read_table(out)
    assert again | {"best": first["best"], "seconds": 0} == first and second["trial"] == "1"
    done = script(
        *command(out, "--methods", "ga_simple", "--trials", "3", "--limits", "retain>=.2")
    )
    assert done.code == 2 and "trials of ga_simple of another search: goal differed" in done.err
    assert len(read_table(out)) == 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--methods", "nop", "--trials", "1"], "no method 'nop'. Methods: "),
        ([], "--trials N or --minutes T is wanted, one of them"),
        (["--trials", "1", "--minutes", "1"], "one of them: the budget of a method"),
        (
            ["--trials", "1", "--target", "forgot<=.3"],
            "'forgot' is none of forget, retain, general",
        ),
        (["--trials", "1", "--target", "forget<=filtered"], "give the filtered model with --filte"),
        (["--trials", "1", "--limits", "retain>=.9 retain<=.5"], "contradict each other"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(more, words, command, script, tmp_path):
    done = script(*command(tmp_path / "out", *more))
    assert done.code == 2 and words in done.err.splitlines()[-1], done.err
    assert "Traceback" not in done.err and not (tmp_path / "out").exists()


# --- defaults in units of the model


@pytest.mark.parametrize(
    ("width", "blocks", "lr", "layer"), [(4096, 32, 5e-5, (7,)), (128, 4, 1.6e-3, (1,))]
)
def test_defaults_are_in_units_of_the_model(width, blocks, lr, layer, tmp_path):
    """At the size they are stated for they are the publication's numbers; --config-preset keeps
    those everywhere, and the mini family's are as they stand in the file.
    """
    presets = ROOT / "unlearn" / "presets.toml"
    config = {"hidden_size": width, "num_hidden_layers": blocks}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    own = read_defaults(presets, "default", "rmu").fitted(config)
    rule, _ = assemble("rmu", own.knobs, tmp_path, 0)
    assert own.settings["lr"] == lr and "lr_width" not in own.settings
    assert (rule.layer_id, rule.steering_unit, rule.steering_coeff) == (layer, "norm", 5.0)
    published = read_defaults(presets, "default", "rmu", "rmu-zephyr").fitted(config)
    rule, _ = assemble("rmu", published.knobs, tmp_path, 0)
    assert published.settings["lr"] == 5e-5
    assert (rule.layer_id, rule.steering_unit, rule.steering_coeff) == ((7,), "absolute", 6.5)
    mini = read_defaults(presets, "mini", "rmu")
    assert mini.fitted(config) == mini


def test_every_default_builds_on_a_model_of_any_depth(tmp_path):
    presets = ROOT / "unlearn" / "presets.toml"
    for blocks in (1, 2, 4, 12, 36):
        config = json.dumps({"hidden_size": 64, "num_hidden_layers": blocks})
        (tmp_path / "config.json").write_text(config, encoding="utf-8")
        for name in METHODS:
            rule, _ = assemble(name, read_defaults(presets, "default", name).knobs, tmp_path, 0)
            layers = [*getattr(rule, "layer_id", ()), getattr(rule, "lat_layer", 0)]
            assert max(layers) < blocks and getattr(rule, "lat_layer", 0) <= min(layers)


# --- a scan of three rates


def test_a_scan_takes_the_rate_that_forgets_most_and_breaks_nothing():
    def scanned(*measured):
        return rates.choose([rates.Scanned(lr, one) for lr, one in enumerate(measured, 1)])

    assert scanned(measures(0.9), measures(0.4), measures(0.2, signs=["broken"])) == 2
    assert scanned(measures(0.9), measures(0.4), measures(0.3)) == 3
    more = measures(0.9)._replace(forget_nll=2.0)
    assert scanned(measures(0.9), more, None) == 2  # accuracy alike: by the NLL
    assert scanned(None, measures(signs=["broken"]), None) == 1


def test_a_run_goes_on_with_the_rate_of_its_scan(script, knowing, data, tmp_path):
    call = ("unlearn/unlearn.py", "--model", knowing, "--method", "ga_simple", "--data", data)
    call += ("--root", tmp_path, "--device", "cpu", "--steps", "4", "--batch-size", "8")
    done = script(*call, "--lr", "1e-3", "--lr-scan")
    assert done.code == 0, done.err
    for lr in ("0.00025", "0.001", "0.004"):
        assert f"--lr-scan {lr}, 1 steps: forget " in done.out
    (taken,) = re.findall(r"^lr (\S+) is taken$", done.out, re.M)
    home = tmp_path / "base__ga_simple" / "unlearned_model"
    record = json.loads((home / "training_history.run.json").read_text(encoding="utf-8"))
    assert record["settings"]["lr"] == float(taken) and record["settings"]["steps"] == 4
