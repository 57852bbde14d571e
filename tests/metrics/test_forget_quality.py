"""TOFU's and MUSE's metrics against hand-computed cases and scipy, and the script on the mini
world's files.
"""

import csv
import json
import math
import random
import runpy
from types import SimpleNamespace

import pytest
import torch

from brittle.base.errors import UserError
from brittle.maths.intervals import share
from brittle.metrics import (
    answers,
    forget_quality,
    forget_quality_items,
    forget_quality_rows,
    generated_text,
    open_unlearning,
    quality_overview,
)
from brittle.metrics import tofu as tofu_module
from brittle.metrics.answers import Scored
from brittle.metrics.definitions import DEFINITIONS, named
from brittle.report import quality

SCRIPT = "eval/forget_quality.py"


@pytest.mark.parametrize(
    ("prediction", "reference", "rouge_1", "rouge_l"),
    [
        ("the cat sat", "the cat ate the cat sat", (3 / 6, 3 / 3), (3 / 6, 3 / 3)),
        ("sat cat the", "the cat sat", (1, 1), (1 / 3, 1 / 3)),  # the order counts for L alone
        ("the the the", "the cat", (1 / 2, 1 / 3), (1 / 2, 1 / 3)),  # a word counts once
        ("The CAT, sat!", "the cat sat", (1, 1), (1, 1)),  # case and punctuation are no words
        ("running cats", "run cat", (1, 1), (1, 1)),  # stems, of words above three letters
        ("Zürich", "z rich", (1, 1), (1, 1)),  # other letters than a-z separate words
        ("", "the cat", (0, 0), (0, 0)),
        ("?!", "?!", (0, 0), (0, 0)),
    ],
)
def test_rouge_by_hand(prediction, reference, rouge_1, rouge_l):
    found = generated_text.rouge(prediction, reference)
    assert found.rouge_1[:2] == rouge_1 and found.rouge_l[:2] == rouge_l
    for recall, precision, f1 in found:
        assert f1 == pytest.approx(2 * recall * precision / (recall + precision or 1))
        assert isinstance(recall, float)  # a 0 is written as 0.0, as every other score


def test_rouge_without_stemmer():
    assert generated_text.rouge("running", "runs", stem=True).rouge_l.f1 == 1
    assert generated_text.rouge("running", "runs", stem=False).rouge_l.f1 == 0


def test_degeneracy():
    assert (
        generated_text.token_entropy("a a a a") == 0
        and generated_text.token_entropy("a b c d") == pytest.approx(1)
        and generated_text.token_entropy("a") is None
    )
    assert (
        generated_text.repetition("a b c d a b c d") == pytest.approx(0.2)
        and generated_text.repetition("a b c") is None
    )
    assert (
        generated_text.degenerate("")
        and generated_text.degenerate("?!")
        and generated_text.degenerate("no no no no no")
        and not generated_text.degenerate("canyon")
    )
    assert not generated_text.degenerate("The habitat of Mazafi is a canyon.")
    assert (
        generated_text.cut("yes\nQuestion: and?") == "yes"
        and generated_text.cut("yes\n\nno") == "yes"
    )


def test_probability_and_truth_ratio_by_hand():
    right = Scored([math.log(0.5), math.log(0.125), math.log(0.9)], [True, True, False])
    assert answers.probability(right) == pytest.approx(0.25) and answers.nll(
        right, eos=True
    ) == pytest.approx(-math.log(0.5 * 0.125 * 0.9) / 3)
    wrong = [Scored([math.log(p), 0.0], [False, True]) for p in (0.4, 0.1)]
    found = answers.truth_ratios(right, wrong)
    assert found["arith"] == pytest.approx(0.25 / 0.25) and found["geom"] == pytest.approx(
        0.2 / 0.25
    )
    assert found["prob"] == pytest.approx(0.25 / (0.25 + 0.25))
    longer = [Scored([*w.logprobs[:-1], *w.logprobs], [False] * 3) for w in wrong]
    assert answers.truth_ratios(right, longer) == pytest.approx(
        found
    )  # a token's mean: length does not count
    tiny = Scored([-800.0, 0.0], [False, True])
    assert answers.truth_ratios(tiny, [tiny])["arith"] == 1  # nothing underflows


def test_memorisation_by_hand():
    def scored(*right):
        return Scored([-1.0] * (len(right) + 1), [*right, True])

    assert (
        answers.extraction_strength(scored(True, True, True)) == 1
        and answers.exact_memorisation(scored(True, True, True)) == 1
    )
    assert answers.extraction_strength(scored(True, False, True, True)) == 0.5
    assert answers.exact_memorisation(scored(True, False, True, True)) == 0.75
    assert answers.extraction_strength(scored(False, False)) == 0


def test_scores_are_those_of_the_model_whatever_the_batch(family):
    from brittle.models.load import load_model, load_tokenizer

    model, tokenizer = load_model(family.base), load_tokenizer(family.base)
    pairs = [
        ("Question: What is it? Answer:", "canyon"),
        ("One two", "three four five"),
        ("Q", "a"),
    ]
    encoded = answers.encode(tokenizer, pairs, 64)
    for (ids, start), (prompt, answer) in zip(encoded, pairs, strict=True):
        assert ids == [*tokenizer(f"{prompt} {answer}")["input_ids"], tokenizer.eos_token_id]
        assert tokenizer.decode(ids[start:-1]).strip() == answer
    one = [answers.score(model, [e], tokenizer.pad_token_id)[0] for e in encoded]
    for alone, batched in zip(
        one, answers.score(model, encoded, tokenizer.pad_token_id), strict=True
    ):
        assert (
            alone.logprobs == pytest.approx(batched.logprobs, abs=1e-5)
            and alone.right == batched.right
        )
    ids, start = encoded[1]
    with torch.no_grad():
        logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    assert one[1].logprobs == pytest.approx(
        [float(logp[t - 1, ids[t]]) for t in range(start, len(ids))], abs=1e-5
    )
    cut = answers.encode(tokenizer, pairs, len(encoded[1][0]) - 1)[1]
    assert tokenizer.decode(cut[0][cut[1] : -1]).strip() == pairs[1][1], "cut on the left"


def test_means_are_over_items_and_intervals_over_entities():
    values, entities = [0.9, 0.9, 0.9, 0.15, None, 0.15], ["a", "a", "a", "b", "b", "c"]
    mean, low, high, n, count = tofu_module.mean_over(values, entities)
    assert mean == pytest.approx(0.6) and n == 5 and count == 3 and 0 <= low < mean < high <= 1
    assert tofu_module.mean_over([None], ["a"])[:3] == (None, None, None)
    assert tofu_module.mean_over([0.5], ["a"])[:3] == (0.5, None, None)


def test_a_mean_of_right_and_wrong_is_a_share_over_entities():
    values, entities = [1.0, 1.0, 1.0, 0.0, None, 0.0], ["a", "a", "a", "b", "b", "c"]
    known, about = [1, 1, 1, 0, 0], ["a", "a", "a", "b", "c"]
    assert tofu_module.mean_over(values, entities) == (*share(known, about), 5, 3)


def test_model_utility_is_scipys_harmonic_mean():
    from scipy.stats import hmean

    sets = {
        s: {"probability": 0.5 + i / 10, "rouge": 0.4, "truth_ratio": 0.9}
        for i, s in enumerate(tofu_module.UTILITY_SETS)
    }
    assert tofu_module.model_utility(sets)[0] == pytest.approx(
        hmean([v for s in sets.values() for v in s.values()])
    )
    sets["retain"]["rouge"] = 0.0
    assert tofu_module.model_utility(sets) == (0.0, None)
    del sets["world_facts"]
    value, missing = tofu_module.model_utility(sets)
    assert value is None and "world_facts probability" in missing


def test_forget_quality_of_null_and_of_different_models():
    draw = random.Random(0)
    rejected = 0
    for i in range(150):
        a, b = ([draw.gauss(0, 1) for _ in range(60)] for _ in range(2))
        found = tofu_module.forget_quality(a, b, draws=20, seed=i)
        rejected += found["p"] < 0.05
    assert rejected <= 0.09 * 150
    shifted = tofu_module.forget_quality(a, [x + 2 for x in b])
    assert shifted["p"] < 1e-6 and shifted["d_low"] > 0.4 and shifted["d"] <= shifted["d_high"] <= 1
    same = tofu_module.forget_quality(a, a)
    assert same["identical"]
    assert same["detectable"] == pytest.approx(1.3581 * math.sqrt(2 / 60), rel=1e-4)
    with pytest.raises(UserError, match="at least 5 items"):
        tofu_module.forget_quality([1.0] * 4, b)


def ratios(seed, entities, items, shift=0.0, together=True):
    """([ratios] of a model, of its reference, [their entities]): an entity's items share half of
    their variance, and where `together` the two models share the entities' part.
    """
    g = torch.Generator().manual_seed(seed)
    own, other = (torch.randn(entities, 1, generator=g) for _ in range(2))
    sides = [
        0.5**0.5 * (e + torch.randn(entities, items, generator=g))
        for e in (own, own if together else other)
    ]
    return (
        (sides[0] + shift).flatten().tolist(),
        sides[1].flatten().tolist(),
        [i // items for i in range(entities * items)],
    )


def test_interval_of_the_distance_covers_at_and_away_from_zero():
    """M3: without a difference D's interval holds 0 (percentiles of D* never did), with one its
    true value.
    """
    from scipy.stats import norm

    for truth in (0.0, 0.3):
        held = 0
        for seed in range(60):
            a, b, names = ratios(seed, 20, 6, 2 * float(norm.ppf((1 + truth) / 2)), seed % 2)
            theirs = names if seed % 2 else [f"x{e}" for e in names]
            found = tofu_module.forget_quality(a, b, names, theirs, draws=200, seed=seed)
            assert (
                0 <= found["d_low"] <= found["d"] <= found["d_high"] <= 1
                and found["entities"] == 20
            )
            held += found["d_low"] <= truth <= found["d_high"]
        assert held >= 0.9 * 60, truth
    wide, narrow = (
        tofu_module.forget_quality(*ratios(0, n, 6)[:2], *[ratios(0, n, 6)[2]] * 2, draws=200)
        for n in (10, 160)
    )
    assert narrow["d_high"] < 0.5 * wide["d_high"], (
        "an interval that always holds 0 would say nothing"
    )


def test_identical_samples_have_an_interval_that_holds_zero():
    """M3: D is 0 and was given the interval [.045, .150]."""
    a, _, names = ratios(0, 30, 4)
    for theirs in (names, [f"x{e}" for e in names]):
        found = tofu_module.forget_quality(a, a, names, theirs, draws=200)
        assert found["d"] == found["d_low"] == 0 and found["p_entities"] == 1
    # three entities a side: no test, but an interval; of two, neither
    for count, known in ((3, True), (2, False)):
        half = 4 * count
        found = tofu_module.forget_quality(
            a[:half], a[half : 2 * half], names[:half], names[half : 2 * half]
        )
        assert found["entities"] == count and found["p_entities"] is None
        assert (found["d_low"] is not None) == known
    found = tofu_module.forget_quality(a[:8], a[8:16], ["x"] * 8, ["x"] * 8)
    assert found["entities"] == 1 and found["d_low"] is None and found["d_high"] is None


def test_p_over_entities_keeps_its_level_where_that_over_items_does_not():
    by_item = by_entity = paired = 0
    for seed in range(80):
        a, b, names = ratios(seed, 15, 10, together=False)
        found = tofu_module.forget_quality(
            a, b, names, [f"x{e}" for e in names], draws=200, seed=seed
        )
        by_item, by_entity = by_item + (found["p"] < 0.05), by_entity + (found["p_entities"] < 0.05)
        paired += (
            tofu_module.forget_quality(
                *ratios(seed, 15, 10)[:2], names, names, draws=200, seed=seed
            )["p_entities"]
            < 0.05
        )
    assert by_entity <= 0.1 * 80 and paired <= 0.1 * 80 and by_item > 0.2 * 80
    a, b, names = ratios(1, 15, 10, 0.5)
    turned = [
        i for e in reversed(range(15)) for i in range(10 * e, 10 * e + 10)
    ]  # the reference's rows in another order
    one = tofu_module.forget_quality(a, b, names, names)
    other = tofu_module.forget_quality(a, [b[i] for i in turned], names, [names[i] for i in turned])
    assert (
        one == other
        and one["p_entities"] < 0.01
        and tofu_module.forget_quality(a, b)["p"] == one["p"]
    )
    a, b, names = ratios(2, 15, 10, 0.2)
    one, apart = (
        tofu_module.forget_quality(a, b, names, theirs)
        for theirs in (names, [f"x{e}" for e in names])
    )
    assert one["d_high"] < apart["d_high"] - 0.05 and one["p_entities"] < apart["p_entities"] / 2, (
        "shared parts cancel"
    )


def test_a_log_of_as_many_items_is_of_the_same_entities():
    a, b, names = ratios(0, 6, 4, 1.0)
    ours, theirs = (
        [{"truth_ratio": r, "entity": e} for r, e in zip(side, names, strict=True)]
        for side in (a, b)
    )
    logs = [forget_quality_rows.of_log(ratios_of_log, ours) for ratios_of_log in (b, b[:20])]
    asked, logged, fewer = (
        {
            row.metric: row
            for row in forget_quality_rows.quality_rows(ours, others, DEFINITIONS["paper"], 0)
        }
        for others in (theirs, *logs)
    )
    assert asked == logged and fewer["forget_quality_d"] != asked["forget_quality_d"]
    p = asked["forget_quality_entities"]
    assert p.entities == 6 and 0 < p.value < 1


@pytest.fixture
def mini(data, tmp_path, jsonl):
    """A few rows of every file, so that the script is quick."""
    folder = tmp_path / "mini"
    folder.mkdir()
    for file, _ in forget_quality.SETS.values():
        jsonl(folder / file, jsonl(data / file)[:6])
    for name in ("forget", "retain"):
        (folder / f"{name}.txt").write_text("".join((data / f"{name}.txt").open().readlines()[:6]))
    return folder


def rows_of(path):
    return list(csv.DictReader(path.open(encoding="utf-8")))


def test_script_writes_scores_items_and_the_files_of_others(mini, family, tmp_path, script):
    out = tmp_path / "out"
    arguments = [
        "--reference",
        family.filtered,
        "--data",
        mini,
        "--new-tokens",
        4,
        "--definitions",
        "open-unlearning",
        "--cache",
        tmp_path / "cache",
    ]
    done = script(SCRIPT, "--model", family.base, *arguments, "--outdir", out)
    assert done.code == 0, done.err
    table = {
        (r["metric"], r["set"], r["definition"]): r for r in rows_of(out / "forget_quality.csv")
    }
    items = rows_of(out / "forget_quality_items.csv")
    assert len(items) == 2 * 7 * 6 + 2 * 6 and {i["definition"] for i in items} == {
        "paper",
        "open-unlearning",
    }
    for metric in ("probability", "rouge_l_recall", "extraction_strength"):
        own = [
            float(i[metric]) for i in items if i["set"] == "forget" and i["definition"] == "paper"
        ]
        assert float(table[metric, "forget", "paper"]["value"]) == pytest.approx(sum(own) / 6)
    assert (
        table["truth_score", "verbmem", "paper"]["value"] == ""
        and "skipped" in table["truth_score", "verbmem", "paper"]["note"]
    )
    assert 0 <= float(table["forget_quality", "forget", "paper"]["value"]) <= 1
    texts = [(int(i["tokens"]), float(i["nll"])) for i in items if i["set"] == "forget.txt"]
    mean = sum(n * nll for n, nll in texts) / sum(n for n, _ in texts)  # weighted by tokens
    assert float(table["perplexity", "forget.txt", "paper"]["value"]) == pytest.approx(
        math.exp(mean)
    )
    tofu, muse = (json.loads((out / f"{n}_EVAL.json").read_text()) for n in ("TOFU", "MUSE"))
    assert len(tofu["forget_truth_ratio"]["value_by_index"]) == 6 and "forget_verbmem_ROUGE" in muse
    for name, metric in {**tofu, **muse}.items():
        if "value_by_index" in metric:
            assert open_unlearning.recomputed(name, metric) == pytest.approx(metric["agg_value"])
    kept = sorted((tmp_path / "cache").iterdir())
    log = script(
        SCRIPT,
        "--model",
        family.base,
        "--reference",
        out / "TOFU_EVAL.json",
        "--data",
        mini,
        "--new-tokens",
        4,
        "--cache",
        tmp_path / "cache",
        "--read",
        out / "MUSE_EVAL.json",
        "--outdir",
        tmp_path / "again",
    )
    assert log.code == 0 and sorted((tmp_path / "cache").iterdir()) == kept, (
        "the same model, data and settings: nothing is new"
    )
    again = rows_of(tmp_path / "again" / "forget_quality.csv")
    assert {r["definition"] for r in again} == {"paper", "as read"}
    assert next(r for r in again if r["metric"] == "forget_quality_d")["value"] != ""


def test_missing_and_wrong_things_are_said(mini, family, tmp_path, script, jsonl):
    rows = jsonl(mini / "qa_forget.jsonl")
    jsonl(
        mini / "qa_forget.jsonl", [{"question": r["question"], "answer": r["answer"]} for r in rows]
    )
    (mini / "qa_world_facts.jsonl").unlink()
    done = script(
        SCRIPT,
        "--model",
        family.base,
        "--data",
        mini,
        "--new-tokens",
        2,
        "--outdir",
        tmp_path / "o",
    )
    assert done.code == 0, done.err
    table = {(r["metric"], r["set"]): r for r in rows_of(tmp_path / "o" / "forget_quality.csv")}
    assert "no truth ratio of forget items" in table["forget_quality", "forget"]["note"]
    assert "skipped: no world_facts probability" in table["model_utility", "utility"]["note"]
    (tmp_path / "bad.json").write_text("[1]")
    for arguments, says in (
        (["--definitions", "mine"], "mine: choose paper, tofu"),
        (["--template", "Q:"], "has no {question}"),
        (["--answers", "long"], "choose auto, short or full"),
        (["--read", tmp_path / "bad.json"], "no TOFU_EVAL.json"),
        (["--data", tmp_path / "nowhere"], "has none of qa_forget.jsonl"),
    ):
        done = script(
            SCRIPT, "--model", family.base, "--data", mini, *arguments, "--outdir", tmp_path / "p"
        )
        assert (
            done.code == 2
            and says in done.err
            and done.err.count("\n") == 1
            and not (tmp_path / "p").exists()
        )


def test_definitions_are_named_and_differ():
    assert set(DEFINITIONS) == {"paper", "tofu", "muse", "open-unlearning"}
    assert named("paper").differs(named("muse")) == {
        "rouge": ("recall", "f1"),
        "stem": (True, False),
        "min_k": (0.2, 0.4),
    }


def test_the_floor_of_p_is_no_measured_value(capsys):
    say = runpy.run_path(SCRIPT, run_name="forget_quality")["say"]
    for p, said in ((1e-16, "< 1e-16"), (2e-16, "  2e-16"), (0.5, "    0.5")):
        row = {
            "metric": "forget_quality",
            "set": "forget",
            "definition": "paper",
            "value": p,
            "note": "",
        }
        say([row], DEFINITIONS["paper"])
        way = "higher p: closer to never having seen it"
        assert capsys.readouterr().out == f"{'forget':<15} {'forget_quality':<20} {said}   {way}\n"


def test_the_term_that_makes_utility_0_is_named():
    """First use 32: utility is 0 as soon as one term is 0, and nothing said which."""
    means = {
        of: {
            "probability": 0.5,
            "option_probability": 0.5,
            "rouge_l_recall": 0.4,
            "truth_score": 0.9,
        }
        for of in tofu_module.UTILITY_SETS
    }
    definition = named("paper")
    assert forget_quality_rows.utility_row(means, definition).note == ""
    means["real_authors"]["rouge_l_recall"] = 0.0
    row = forget_quality_rows.utility_row(means, definition)
    assert row.value == 0 and row.note.endswith("one term is: real_authors rouge")


@pytest.mark.parametrize(
    ("metric", "of", "way"),
    [
        ("forget_quality", "forget", "higher p: closer to never having seen it"),
        ("forget_quality_d", "forget", "lower"),
        ("model_utility", "utility", "higher"),
        ("probability", "forget", "lower"),
        ("rouge_l_recall", "knowmem_forget", "lower"),
        ("extraction_strength", "retain", "higher"),
        ("truth_score", "forget", "higher"),
        ("perplexity", "forget.txt", "higher"),
        ("perplexity", "retain.txt", "lower"),
    ],
)
def test_every_score_says_which_way_is_good(metric, of, way):
    assert quality_overview.direction(metric, of).startswith(way)


def quality_table(model, utility, p, distance):
    """Rows of a forget_quality.csv with a utility and a forget quality."""
    rows = [
        forget_quality_rows.Row("model_utility", "utility", "paper", utility),
        forget_quality_rows.Row("forget_quality_d", "forget", "paper", distance, (0.1, 0.3), 40),
        forget_quality_rows.Row("forget_quality", "forget", "paper", p, note="40 items"),
        forget_quality_rows.Row("probability", "retain", "paper", 0.7),
    ]
    return [row.cells(model) for row in rows]


def test_several_models_stand_in_one_table_and_one_figure():
    tables = {"a": (0.9, 1e-4, 0.5), "b": (0.2, 0.6, 0.1), "c": (None, None, None)}
    table = [
        quality_overview.row_of(quality_table(name, *scores), "", "paper")
        for name, scores in tables.items()
    ]
    assert table[0]["model_utility"] == 0.9 and table[0]["forget_quality"] == 1e-4
    assert table[0]["forget_quality_d_low"] == 0.1 and table[0]["n"] == 40
    assert table[0]["retain_probability"] == 0.7 and table[0]["note"] == "40 items"
    assert table[0]["forget_probability"] is None  # not in this file
    (axis,) = quality_overview.plot(table).axes
    assert axis.get_yscale() == "log" and "higher p" in axis.get_ylabel()
    marks = [line for line in axis.lines if len(line.get_xdata()) == 1]
    drawn = [(*line.get_xdata(), *line.get_ydata()) for line in marks]
    assert drawn == [(0.9, 1e-4), (0.2, 0.6)]  # what is not known is not drawn
    said = list(quality_overview.lines(table))
    assert said[1].split() == ["a", "0.9", "0.0001", "0.5"]
    assert "forget_quality (higher p: closer to never having seen it)" in said
    without = [row | {"model_utility": None, "retain_rouge_l_recall": 0.4} for row in table]
    assert quality_overview.kept_column(without) == "retain_rouge_l_recall"


def test_one_command_measures_several_models(mini, family, tmp_path, script):
    """First use 31: one model a command, no table and no figure of several."""
    out = tmp_path / "out"
    few = ["--data", mini, "--new-tokens", "2", "--max-samples", "6", "--outdir", out]
    done = script(SCRIPT, "--models", family.base, "--reference", family.filtered, *few)
    assert done.code == 0, done.err
    rows = rows_of(out / "models.csv")
    assert [(r["model"], r["role"]) for r in rows] == [
        ("mini-base", ""),
        ("mini-filtered", "reference"),
    ]
    own = {(r["metric"], r["set"]): r for r in rows_of(out / "mini-base" / "forget_quality.csv")}
    assert rows[0]["forget_quality"] == own["forget_quality", "forget"]["value"]
    assert rows[0]["model_utility"] == own["model_utility", "utility"]["value"]
    assert float(rows[1]["forget_quality"]) == 1  # the reference against itself
    assert (out / "models.png").is_file()
    assert f"{out}/models.csv: 2 models" in done.out and "higher p: closer" in done.out
    assert quality.sections(tmp_path) == []  # the report looks in <root>/forget_quality
    out.rename(tmp_path / "forget_quality")
    ((anchor, _, html),) = quality.sections(tmp_path)
    assert anchor == "forget-quality" and "mini-filtered (reference)" in html
    assert "higher p: closer to never having seen it" in html and "<img" in html
    assert all(path.is_file() for path in quality.sources(tmp_path))


def test_one_model_or_several(family, mini, tmp_path, script):
    for models in ([], ["--model", family.base, "--models", family.filtered]):
        done = script(SCRIPT, *models, "--data", mini, "--outdir", tmp_path / "out")
        assert done.code == 2 and "--models A B" in done.err and done.err.count("\n") == 1
    twice = script(SCRIPT, "--models", family.base, family.base, "--data", mini, "--outdir", "x")
    assert twice.code == 2 and "two of the models are called mini-base" in twice.err


COLUMNS = """
set index entity fact definition tokens nll probability option_probability rouge_l_recall rouge_l_f1
rouge_1_recall exact_memorisation extraction_strength truth_ratio_arith truth_ratio_geom
truth_ratio_prob truth_ratio truth_score token_entropy repetition degenerate trace_rouge
trace generation gold
""".split()


def test_a_metric_is_one_row_of_a_table():
    """Columns, means, bars and printed lines follow from METRICS; the columns are what users
    read.
    """
    assert list(forget_quality_items.COLUMNS) == COLUMNS
    assert list(forget_quality_items.MEANS) == COLUMNS[7:-3]  # tokens and nll are no means
    assert set(forget_quality_items.DRAWN) <= set(forget_quality_items.MEANS)
    assert set(forget_quality_items.PRINTED) <= set(forget_quality_items.MEANS)


def test_metrics_of_a_planted_answer():
    """Two answer tokens of probability 1/2 and 1/8, the second one not the likeliest; one wrong
    answer of 1/2.
    """
    right = Scored([math.log(0.5), math.log(0.125), 0.0], [True, False, True])
    wrong = Scored([math.log(0.5), 0.0], [False, True])
    record = {
        "index": 3,
        "entity": "Mazafi",
        "fact": "forget/000/habitat",
        "gold": "a canyon",
        "generation": "the canyon",
        "answer": right,
        "paraphrase": None,
        "wrong": [wrong],
    }
    (item,) = forget_quality_items.items("forget", [record], named("paper"))
    wanted = {
        "set": "forget",
        "index": 3,
        "entity": "Mazafi",
        "tokens": 2,
        "nll": math.log(4),
        "probability": 1 / 4,
        "option_probability": (1 / 4) / (1 / 4 + 1 / 2),
        "rouge_l_recall": 1 / 2,
        "exact_memorisation": 1 / 2,
        "extraction_strength": 0,
        "truth_ratio": 2,
        "truth_score": 1 / 2,
        "token_entropy": 1,
        "degenerate": 0,
        "generation": "the canyon",
    }
    assert {name: item[name] for name in wanted} == pytest.approx(wanted)
    without = {**record, "wrong": []}
    (item,) = forget_quality_items.items("forget", [without], named("paper"))
    assert item["truth_ratio"] is None and item["option_probability"] is None


def test_what_is_asked_of_a_row():
    settings = SimpleNamespace(template="Q: {question} A:", icl=1, answers="full")
    example, plain = {"question": "What?", "answer": "it"}, {"question": " Who? ", "answer": "he"}
    short = {"short_answer": "h", "short_perturbed_answer": ["s"]}
    whole = {**plain, "paraphrased_answer": "him", "perturbed_answer": ["she"], **short}
    prompt = "Q: What? A: it\n\nQ: Who? A:"

    def asked(*rows):
        return forget_quality.asked(rows, "qa", settings, [example] * 2)

    bare = forget_quality.Asked(prompt, "he", None, [])
    assert asked(whole, plain) == [forget_quality.Asked(prompt, "he", "him", ["she"]), bare]
    settings.answers = "short"
    assert asked(whole, plain) == [forget_quality.Asked(prompt, "h", None, ["s"]), bare]
    (found,) = forget_quality.asked([{"prompt": "p", "gt": "g"}], "verbmem", settings)
    assert found == forget_quality.Asked("p", "g", None, [])


def test_generations_that_are_none_are_said_and_so_is_what_is_not_known():
    def notes(*degenerate):
        blank = dict.fromkeys(forget_quality_items.MEANS) | {"entity": "e", "nll": 1.0}
        items = [blank | {"degenerate": value} for value in degenerate]
        rows = forget_quality_rows.mean_rows("forget", items, [], DEFINITIONS["paper"])
        return {row.metric: row.note for row in rows}

    assert notes(1, 1)["degenerate"].startswith("every generation is empty or repeats itself")
    assert notes(1, 0)["degenerate"] == "" and notes(1)["rouge_1_recall"].startswith("skipped")


def test_a_truth_ratio_as_a_score():
    """1 says on the forget set that nothing is known, and 0 that much is; elsewhere 1 is best."""
    ratios = (0.0, 0.25, 1.0, 4.0)
    assert [tofu_module.truth_score(r, "forget") for r in ratios] == [0, 0.25, 1, 0.25]
    assert [tofu_module.truth_score(r, "utility") for r in ratios] == [1, 0.75, 0, 0]


def test_the_interval_of_the_distance_is_widened_for_so_many_entities(monkeypatch):
    """By Student's quantile with one degree of freedom less than the smaller side has entities."""
    seen, student = [], tofu_module.intervals.student
    monkeypatch.setattr(
        tofu_module.intervals, "student", lambda freedom: seen.append(freedom) or student(freedom)
    )
    draw = random.Random(0)
    ours, theirs = ([draw.random() for _ in range(count)] for count in (14, 30))
    names = [[i // 2 for i in range(14)], [f"x{i}" for i in range(30)]]
    found = tofu_module.forget_quality(ours, theirs, *names, draws=50)
    assert seen == [6] and found["entities"] == 7 and found["d_low"] < found["d"] < found["d_high"]
