"""The scripts of single attacks on a tiny model: whole CSVs that say what the model is without
attack, figures, mistakes.
"""

import csv
import inspect
import runpy
from types import SimpleNamespace

import pytest

from brittle.attacks import ATTACKS, attack_class
from brittle.attacks.base import Prompt
from brittle.attacks.material import Material
from brittle.attacks.meter import JUDGE, Meter, eval_sets, judging_set
from brittle.attacks.relearn import RelearnBenign
from brittle.base import knobs
from brittle.data.items import SPLITS
from brittle.data.rows import plain
from brittle.metrics import mcq
from brittle.models.load import load_model, load_tokenizer
from support.places import ROOT

SCRIPTS = {
    "quantize": (
        [
            "--bits",
            "16",
            "--bits",
            "3",
            "--group",
            "row",
            "--group",
            "8",
            "--model-base",
            "{filtered}",
        ],
        {"bits": "16"},
        4,
    ),
    "prune": (["--ratio", "0", "--ratio", "0.5", "--texts", "8"], {"ratio": "0.0"}, 4),
    "noise": (["--scale", "0", "--scale", "0.5", "--draws", "2"], {"noise": "0.0"}, 4),
    "soft_prompt": (
        ["--vectors", "2", "--steps", "2", "--every", "1", "--train-batch", "4"],
        None,
        2,
    ),
    "gcg": (["--length", "2", "--steps", "1", "--candidates", "2", "--items", "2"], None, 2),
    "steer": (["--model-base", "{filtered}"], None, 4 * 2 + 3 * 2),  # 2 blocks
}


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts(name, family, data, tmp_path, script, each_figure):
    more, plain, variants = SCRIPTS[name]
    more = [part.format(filtered=family.filtered) for part in more]
    done = script(
        f"eval/{name}.py",
        "--model",
        family.base,
        "--data",
        data,
        "--outdir",
        tmp_path,
        "--max-items",
        "5",
        *more,
    )
    assert done.code == 0, done.err
    assert "half B was not in what the attack read" in done.out
    rows = read(tmp_path / f"{name}.csv")
    # an attack that trains is also asked A2, which chooses among its variants
    splits = 4 + any(row["split"] == JUDGE for row in rows)
    assert splits == 4 + (name in ATTACKS and attack_class(name).HOLDS_OUT)
    assert len(rows) == splits * variants and (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert all(
        float(r["accuracy_low"]) <= float(r["accuracy"]) <= float(r["accuracy_high"]) for r in rows
    )
    if plain:  # the identity: what the model answers without attack
        sets, tokenizer = eval_sets(data, 5), load_tokenizer(family.base)
        for split, items in sets.items():
            outcomes = mcq.outcomes(load_model(family.base, "cpu", "float32"), tokenizer, items)
            row = next(r for r in rows if r["split"] == split and plain.items() <= r.items())
            predicted = [o.prediction == i["answer"] for o, i in zip(outcomes, items, strict=True)]
            assert float(row["accuracy"]) == sum(predicted) / len(items)
            nll = -sum(o.logprobs[i["answer"]] for o, i in zip(outcomes, items, strict=True))
            nll /= len(items)
            assert float(row["answer_nll"]) == pytest.approx(nll) and int(row["n"]) == len(items)


def test_every_attack_with_a_script_is_tried_and_has_its_line_in_the_docs():
    written = {
        path.stem for path in (ROOT / "eval").glob("*.py") if "SingleAttack(" in path.read_text()
    }
    assert written and written <= set(SCRIPTS)
    page = (ROOT / "docs/attacks.md").read_text(encoding="utf-8")
    assert all(f"eval/{name}.py" in page for name in SCRIPTS)


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "steer"])
def test_defaults_are_the_attacks_own(name):
    """Each flag's default is its knob's, and what the scoreboard runs; but for the one strength
    that changes nothing.
    """
    names = runpy.run_path(f"eval/{name}.py", run_name="defaults")
    single, options = names["SCRIPT"], inspect.signature(names["main"]).parameters
    own, scoreboards = knobs.knobs(single.attack), attack_class(name)
    assert single.attack is scoreboards and own and set(own) <= set(options)
    for knob_name, spec in own.items():
        identity = [single.unchanged[knob_name]] if knob_name in single.unchanged else []
        default = options[knob_name].default
        assert default == ((*identity, *spec.default) if identity else spec.default)
    arguments = {key: option.default for key, option in options.items()} | {"seed": 3}
    attack, plain = single.build(arguments), scoreboards(seed=3)
    changed = {key for key, value in vars(plain).items() if getattr(attack, key) != value}
    assert changed == set(single.unchanged) | ({"at"} if single.start else set())
    if "every" in options:
        at = single.build(arguments | {"steps": 7, "every": 3}).at
        assert at == ((0, 3, 6, 7) if single.start else (3, 6, 7))
        assert single.build(arguments | {"steps": 7}).at == ((0, 7) if single.start else (7,))


def test_extract(family, data, tmp_path, script):
    command = [
        "eval/extract.py",
        "--model",
        family.base,
        "--data",
        data,
        "--max-items",
        "5",
        "--templates",
        "plain,few-shot",
        "--samples",
        "2",
        "--tokens",
        "3",
        "--forget",
        data / "forget.txt",
        "--retain",
        data / "retain.txt",
        "--max-texts",
        "20",
    ]
    done = script(*command, "--outdir", tmp_path)
    assert done.code == 0, done.err
    rows = read(tmp_path / "extract.csv")
    of = {(r["template"], r["split"]): r for r in rows}
    shares = {
        t: [float(of[t, s]["greedy_leak"]) for s in ("forget_a", "forget_b")]
        for t in ("plain", "few-shot")
    }
    told = [line.partition(" leaks ") for line in done.out.splitlines()]
    for (about, _, words), template in zip(told, shares, strict=False):
        a, b = shares[template]
        assert about.split() == [template, "greedy", "answer"] and words.startswith(
            f"{a:.2f} of half A, {b:.2f} of half B"
        )
        assert ("any of 2 samples" in words) == (template == "plain")
    assert len(told) == 3 and str(tmp_path / "extract.csv") in done.out.splitlines()[-1]
    assert [(r["template"], r["split"]) for r in rows] == [
        (t, s) for t in ("plain", "few-shot") for s in eval_sets(data)
    ]
    assert all(
        (r["any_leak"] == "") == (r["template"] == "few-shot") == (r["n_samples"] == "0")
        for r in rows
    )
    assert all(float(r["sample_leak"]) <= float(r["leak_bound"]) for r in rows[:3])
    prefixes = read(tmp_path / "prefix.csv")
    assert [(r["split"], r["prefix"]) for r in prefixes] == [
        (s, p) for s in ("forget", "retain") for p in ("0.1", "0.25", "0.5")
    ]


def test_collapse(family, data, tmp_path, script):
    done = script(
        "experiment/collapse.py",
        "--model",
        family.base,
        "--data",
        data,
        "--forget",
        data / "forget.txt",
        "--retain",
        data / "retain.txt",
        "--outdir",
        tmp_path,
        "--steps",
        "2",
        "--every",
        "1",
        "--seeds",
        "0,1",
        "--max-items",
        "20",
        "--batch-size",
        "2",
    )
    assert done.code == 0, done.err
    rows, ends = read(tmp_path / "collapse.csv"), read(tmp_path / "collapse_steps.csv")
    assert len(rows) == 2 * 2 * 3 and [r["method"] for r in ends] == ["ga_simple", "npo"] * 2
    starts = {(r["retain_accuracy"], r["forget_nll"]) for r in rows if r["step"] == "0"}
    assert len(starts) == 1  # the same model, whatever method and seed


def test_relearning_on_other_texts(family, data, tmp_path, script):
    tamper = runpy.run_path("eval/tamper.py", run_name="tamper")
    texts = {on: set(map(plain, tamper["attack_rows"](data, on))) for on in tamper["TRAINED"]}
    assert (
        len(texts["half-a"]) == 24  # 80 % of the facts: the others choose
        and len(texts["half-b"]) == 30
        and not texts["half-a"] & texts["half-b"]
    )
    assert not texts["benign"] & (texts["half-a"] | texts["half-b"])
    done = script(
        "eval/tamper.py",
        "--model",
        family.base,
        "--data",
        data,
        "--steps",
        "1",
        "--lr",
        "1e-3",
        "--max-items",
        "5",
        "--batch-size",
        "2",
        "--on",
        "benign",
        "--lora-rank",
        "2",
        "--seeds",
        "0",
        "--outdir",
        tmp_path,
    )
    assert done.code == 0 and len(read(tmp_path / "tamper_items.csv")) == 2 * 30, done.err
    model, tokenizer = load_model(family.base, "cpu", "float32"), load_tokenizer(family.base)
    sets = judging_set(data, 0) | tamper["eval_sets"](data, 5, 0)
    rows = read(tmp_path / "tamper.csv")
    for split, items in sets.items():
        outcomes = mcq.outcomes(model, tokenizer, items, Prompt())
        right, nlls = [o.right for o in outcomes], [o.answer_nll for o in outcomes]
        (row,) = [r for r in rows if (r["split"], r["step"]) == (split, "0")]
        measured = float(row["accuracy"]), float(row["answer_nll"])
        assert measured == pytest.approx((sum(right) / len(right), sum(nlls) / len(nlls)), rel=1e-4)
    # behind a step it is the scoreboard's attack with the same settings
    meter = Meter(model, tokenizer, sets, tamper["BATCH_SIZE"], everything=True)
    settings = {"rates": (1e-3,), "steps": 1, "at": (1,), "batch_size": 2, "lora_rank": 2}
    RelearnBenign(0, **settings).run(model, tokenizer, Material(data), meter)
    attacked = [r for r in rows if r["step"] == "1"]
    assert len(attacked) == len(meter.rows) == len(sets)
    for row, wanted in zip(attacked, meter.rows, strict=True):
        assert row["split"] == wanted["split"]
        assert float(row["accuracy"]) == wanted["accuracy"]
        assert float(row["answer_nll"]) == wanted["answer_nll"]


MISTAKES = {
    "quantize": (["--bits", "1"], "--bits 1: must be between 2 and 16"),
    "prune": (["--ratio", "1"], "--ratio 1:"),
    "noise": (["--scale=-1"], "--scale -1.0: must be at least 0"),
    "extract": (["--templates", "x"], "--templates x"),
    "tamper": (["--on", "x"], "--on x"),
    "attack": (["--attacks", "x"], "no attack 'x'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name, family, data, tmp_path, script):
    more, words = MISTAKES[name]
    done = script(
        f"eval/{name}.py",
        "--model",
        family.base,
        "--data",
        data,
        "--outdir",
        tmp_path / "out",
        *more,
    )
    assert (
        done.code == 2
        and words in done.err
        and len(done.err.splitlines()) == 1
        and not (tmp_path / "out").exists()
    )


def test_too_few_questions(family, data, tmp_path, script, jsonl):
    for split in SPLITS:
        rows = jsonl(data / f"mcq_{split}.jsonl")
        some = {half: [r for r in rows if r["half"] == half] for half in "AB"}
        jsonl(tmp_path / f"mcq_{split}.jsonl", some["A"] + some["B"][:4])
    done = script(
        "eval/noise.py", "--model", family.base, "--data", tmp_path, "--outdir", tmp_path / "out"
    )
    assert done.code == 2 and "4 questions of half B" in done.err


def test_default_rates_depend_on_the_family_alone_and_help_says_which(script):
    """First use 12: the mini family's rates destroyed another Base, and help did not say them."""
    from brittle.attacks.relearn import default_rates

    assert default_rates(mini=True, lora=False) == (1e-3, 3e-3)
    other = default_rates(mini=False, lora=False)
    assert min(other) <= 1e-5 and max(other) >= 1e-3
    text = " ".join(script("eval/tamper.py", "--help").out.split())
    assert "1e-3, 3e-3 for the mini family" in text and "1e-5, 1e-4, 1e-3 for any other" in text
    assert "breaks Base" in text


def test_a_rate_that_takes_half_b_from_the_model_is_named():
    tamper = runpy.run_path("eval/tamper.py", run_name="tamper")

    def measured(*accuracies):
        rows = [
            {"split": "forget_b", "step": step, "accuracy": accuracy}
            for step, accuracy in zip((0, 5, 20), accuracies, strict=True)
        ]
        return SimpleNamespace(rows=rows)

    done = [
        tamper["Attacked"](0, 1e-3, measured(0.53, 0.40, 0.20)),
        tamper["Attacked"](0, 1e-4, measured(0.53, 0.53, 0.34)),
        tamper["Attacked"](1, 1e-4, measured(0.53, 0.0, 0.0)),
    ]
    assert tamper["breaking"](done) == {1e-3: 20}
    assert tamper["breaking"]([tamper["Attacked"](0, 1e-2, measured(0.53, None, None))]) == {}
