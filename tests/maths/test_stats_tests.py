"""Tests of tests: level under the null on clustered data, power, agreement with scipy, by-hand
effect sizes, undefined cases.
"""

import csv
import functools
import sys

import numpy as np
import pytest
from scipy import stats

from brittle.data.items import per_entity
from brittle.maths import hypotheses
from brittle.maths.entities import _seed_draws, bootstrap, difference, means
from support.places import ROOT

SIMULATIONS, ENTITIES, QUESTIONS = 2000, 30, 10


def clustered(rng, simulations, shift=0.0):
    """Right answers [simulations, models 2, entities, questions] of two models that differ by
    `shift` on average.

    Every entity has a difficulty that both share, and each model its own luck with it: answers
    about an entity go together.
    """
    difficulty = rng.normal(0, 0.6, (simulations, 1, ENTITIES, 1))
    luck = rng.normal(0, 0.8, (simulations, 2, ENTITIES, 1))
    level = difficulty + luck + np.array([shift / 2, -shift / 2])[None, :, None, None]
    return (rng.random((simulations, 2, ENTITIES, QUESTIONS)) < 1 / (1 + np.exp(-level))).astype(
        float
    )


@pytest.fixture(scope="module")
def null():
    return clustered(np.random.default_rng(3), SIMULATIONS)


def share(test, data, count=SIMULATIONS):
    """How often `test` of the entities' means says p <= .05."""
    found = [test(*pair).p for pair in data[:count].mean(-1)]
    return np.mean([p is not None and p <= 0.05 for p in found])


@pytest.mark.parametrize(
    "test",
    [
        hypotheses.paired_t,
        hypotheses.wilcoxon,
        lambda a, b: hypotheses.sign_flip(a, b, draws=399),
        hypotheses.welch_t,
    ],
    ids=range(4),
)
def test_type_one_error_on_clustered_data(null, test):
    unpaired = test is hypotheses.welch_t
    data = null
    if unpaired:  # other entities: the second model's answers of the next simulation
        data = np.stack([null[:, 0], np.roll(null[:, 1], 1, 0)], 1)
    assert share(test, data) == pytest.approx(0.05, abs=0.01)


def test_counting_questions_fails_that_test(null):
    """The same data with every question for itself: three times too many differences are found."""
    flat = null[:500].reshape(500, 2, -1)
    assert np.mean([stats.ttest_rel(*pair).pvalue <= 0.05 for pair in flat]) > 0.15


def test_permutation_tests_hold_their_level_and_power_rises():
    rng = np.random.default_rng(5)
    pairs = rng.normal(size=(1000, 2, 24)).round(1)  # ties
    assert np.mean(
        [hypotheses.permutation(*p, draws=199).p <= 0.05 for p in pairs[:400]]
    ) == pytest.approx(0.05, abs=0.02)
    assert np.mean([hypotheses.ks(*p, draws=99).p <= 0.05 for p in pairs]) == pytest.approx(
        0.05, abs=0.02
    )
    power = [
        share(hypotheses.paired_t, clustered(rng, 200, shift), 200) for shift in (0.0, 0.4, 1.5)
    ]
    assert power[0] < 0.1 < power[1] < power[2] and power[2] > 0.9


def test_oracle_and_oracle_are_alike_and_base_is_not():
    """Two models at chance on the same facts, and one that knows them: 80 entities of 5 facts,
    asked twice.
    """
    rng = np.random.default_rng(0)
    oracles, base = (rng.random((40, 2, 80, 10)) < 0.25).mean(-1), np.ones(80)
    assert np.mean([hypotheses.paired_t(*pair).p < 0.05 for pair in oracles]) < 0.15
    for test in (hypotheses.paired_t, hypotheses.wilcoxon, hypotheses.sign_flip, hypotheses.ks):
        assert test(*oracles[0]).p > 0.05 and test(base, oracles[0, 0]).p <= 1e-3
    assert (
        hypotheses.equivalence(*oracles[0], margin=0.1).p
        < 0.05
        < hypotheses.equivalence(base, oracles[0, 0], margin=0.1).p
    )


def test_statistics_are_scipys():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=60), rng.normal(0.3, 2, size=60)
    assert hypotheses.paired_t(a, b)[1:3] == pytest.approx(tuple(stats.ttest_rel(a, b)))
    assert hypotheses.welch_t(a, b)[1:3] == pytest.approx(
        tuple(stats.ttest_ind(a, b, equal_var=False))
    )
    assert hypotheses.wilcoxon(a, b).p == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert (
        hypotheses.ks(a, b).statistic
        == pytest.approx(stats.ks_2samp(a, b).statistic)
        == hypotheses.ks(a, b).effect
    )
    exact = stats.permutation_test(
        (a[:8] - b[:8],), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert hypotheses.sign_flip(a[:8], b[:8], draws=20_000).p == pytest.approx(exact, abs=0.01)
    x, y = [1, 1, 1, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 1, 0, 1, 0, 1]
    assert (
        hypotheses.mcnemar(x, y).p == pytest.approx(stats.binomtest(4, 5).pvalue)
        and hypotheses.mcnemar(x, y).effect == 4
    )
    assert hypotheses.mcnemar(x, y).statistic == 3
    n, m = 40, 400
    assert stats.kstwobign.sf(
        hypotheses.smallest_d(n, m) / np.sqrt((n + m) / (n * m))
    ) == pytest.approx(0.05)


def test_effect_sizes_by_hand():
    assert hypotheses.cohen_dz([3, 5, 7], [1, 2, 3]) == pytest.approx(
        3.0
    )  # differences 2, 3, 4: mean 3, standard deviation 1
    assert hypotheses.hedges_g([2, 4], [1, 1]) == pytest.approx(
        2 / 1 * (1 - 3 / 7)
    )  # pooled variance (2 + 0) / 2
    assert hypotheses.hedges_g([2, 4, 6], [1, 3, 3, 5]) == pytest.approx(
        1 / np.sqrt(16 / 5) * (1 - 3 / 19)
    )  # means 4 and 3, squared deviations 8 + 8 over 5 degrees of freedom
    assert hypotheses.hedges_g([2, 2], [1, 1]) is None and hypotheses.cohen_dz([3], [1]) is None
    assert hypotheses.cohen_dz([3, 5], [1, 3]) is None  # the differences do not vary
    assert (
        hypotheses.cliffs_delta([1, 2, 3], [2, 2]) == pytest.approx((2 - 2) / 6)
        and hypotheses.cliffs_delta([5], [1, 2]) == 1
    )


def test_equivalence_is_two_one_sided_tests_of_scipy():
    rng = np.random.default_rng(4)
    a, b = rng.normal(0.3, 1, 12), rng.normal(0, 2, 9)
    tests = {False: (a, b), True: (a[:9], b)}
    for paired, (x, y) in tests.items():
        test = stats.ttest_rel if paired else functools.partial(stats.ttest_ind, equal_var=False)
        for margin in (0.5, 3.0):
            above, below = (
                test(x + shift, y, alternative=side)
                for shift, side in ((margin, "greater"), (-margin, "less"))
            )
            found = hypotheses.equivalence(x, y, margin, paired=paired)
            assert found.p == pytest.approx(max(above.pvalue, below.pvalue))
            assert found.statistic == pytest.approx(min(above.statistic, -below.statistic))
    # nothing varies: the difference is known
    same = np.full(5, 0.3)
    known = [hypotheses.equivalence(same + d, same, 0.25).p for d in (0.125, 0.25, 0.5)]
    assert known == [hypotheses.FLOOR, None, 1.0]


def test_p_of_ks_is_exact_where_scipys_holds_and_permuted_elsewhere():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=50), rng.normal(0.4, 1, size=60)
    assert hypotheses.ks(a, b).p == stats.ks_2samp(a, b).pvalue
    tied = np.append(a[:-1], b[0])
    for x, y in ((a[:49], b), (a, b[:49]), (tied, b)):  # p is one of n / 1000 then
        p = hypotheses.ks(x, y).p
        assert 1000 * p == pytest.approx(round(1000 * p)) and p != stats.ks_2samp(x, y).pvalue
        assert p == pytest.approx(stats.ks_2samp(x, y).pvalue, abs=0.05)


def test_the_smallest_p_of_a_permutation_is_one_of_all_draws():
    apart = np.arange(30.0), np.arange(30.0) + 100
    assert hypotheses.permutation(*apart, draws=99).p == pytest.approx(0.01)
    assert hypotheses.sign_flip(*apart, draws=99).p == pytest.approx(0.01)


def test_adjusted_p_values():
    assert hypotheses.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert hypotheses.benjamini_hochberg([0.01, None, 0.04, 0.03]) == pytest.approx(
        [0.03, None, 0.04, 0.04]
    )
    assert hypotheses.holm([0.9, 0.8]) == [1.0, 1.0] and hypotheses.benjamini_hochberg([None]) == [
        None
    ]


def test_what_is_undefined_has_no_p():
    same = [0.5] * 10
    for test in (hypotheses.paired_t, hypotheses.wilcoxon, hypotheses.welch_t, hypotheses.mcnemar):
        assert test(same, same).p is None, test
    assert (
        hypotheses.sign_flip(same, same).p == hypotheses.ks(same, same).p == 1.0
    )  # no difference, and that is a finding
    for test in (
        hypotheses.paired_t,
        hypotheses.welch_t,
        hypotheses.wilcoxon,
        hypotheses.mann_whitney,
        hypotheses.sign_flip,
        hypotheses.permutation,
        hypotheses.ks,
    ):
        assert test([0, 1, 0, 1], [1, 1, 1, 1]).p is None  # four entities
    assert (
        hypotheses.paired_t(np.arange(500.0), np.arange(500.0) + 1 + 1e-9 * np.arange(500)).p
        == hypotheses.FLOOR
    )  # never 0


def test_bootstrap_intervals_cover():
    rng = np.random.default_rng(2)
    data, truth = rng.normal(0.3, 1, (300, 1, 12)), 0.3
    bounds = [bootstrap(values, draws=400, seed=i) for i, values in enumerate(data)]
    assert np.mean([low <= truth <= high for low, high in bounds]) == pytest.approx(0.95, abs=0.035)
    one = difference(data[0], data[1], draws=400)
    both = difference(np.concatenate([data[0], data[0] + 1]), data[1], draws=400)
    assert both[1] - both[0] > one[1] - one[0]  # seeds that disagree widen it
    assert bootstrap([[1.0]]) == (None, None)


def test_what_further_seeds_would_do_is_students_t_of_their_standard_error():
    class Ones:
        def standard_t(self, freedom, draws):
            return np.full(draws, float(freedom))

    values = np.array([[0.1, 0.3], [0.2, 0.4], [0.6, 0.4]])  # means .2, .3 and .5
    error = np.std([0.2, 0.3, 0.5], ddof=1) / np.sqrt(3)
    assert _seed_draws(values, 2, Ones()) == pytest.approx([2 * error] * 2)
    assert _seed_draws(values[:1], 2, Ones()).tolist() == [0, 0]


def test_recipes_that_differ_are_found():
    assert hypotheses.seeds_t([0.9, 0.91, 0.92], [0.3, 0.31, 0.35]).p < 0.01
    assert hypotheses.seeds_t([0.9], [0.3, 0.31]).p is None
    assert hypotheses.seeds_t([0.9, 0.9], [0.3, 0.3]).p is None


def test_ranks_do_not_follow_the_last_bits():
    """Differences of .1, .2 and -.1 that are equal on paper are ties, whatever their last bits."""
    signs = np.array([1, 1, -1, 1, -1, 1, 1, 1, -1, 1, 1, 1])
    size = np.array([1, 2, 1, 1, 2, 1, 2, 1, 1, 2, 1, 1])
    noise = np.random.default_rng(0).normal(0, 1e-14, 12)
    plain = hypotheses.wilcoxon(signs * size / 10, np.zeros(12))
    noisy = hypotheses.wilcoxon(signs * size / 10 + noise, np.zeros(12))
    exact = hypotheses.wilcoxon(signs * size, np.zeros(12))
    assert plain == noisy
    assert (plain.p, plain.effect) == pytest.approx((exact.p, exact.effect))


def test_entities_are_found():
    rows = [
        {"fact": "forget/000/a", "correct": 1},
        {"fact": "forget/000/b", "correct": 0},
        {"entity": "x", "correct": 1},
        {"item": 3, "correct": 1},
        {"item": 4, "correct": None},
    ]
    assert per_entity(rows) == {"forget/000": (1, 2), "x": (1, 1), "item 3": (1, 1)}
    assert means([{"e": (1, 2), "f": (1, 1)}, {"e": (2, 2)}]) == {"e": 0.75}


def samples(root, model, chance, seed, entities=14):
    rng, folder = np.random.default_rng(seed), root / model / "harness"
    folder.mkdir(parents=True)
    with open(folder / "samples.csv", "w") as file:
        file.write("task,item,fact,half,prediction,answer,correct\n")
        for i in range(entities * 6):
            file.write(
                f"mini_forget,{i},forget/{i // 6:03d}/f{i % 3},A,0,0,{int(rng.random() < chance)}\n"
            )


def test_the_script_compares_seeds_and_oracles(script, tmp_path):
    for model, chance in (
        ("base", 1.0),
        ("base2", 0.99),
        ("base3", 0.98),
        ("filtered", 0.25),
        ("filtered2", 0.26),
        ("filtered3", 0.24),
        ("npo", 0.3),
    ):
        samples(tmp_path, model, chance, len(model) + int(100 * chance))
    roles = (
        "--base",
        "base",
        "--filtered",
        "filtered",
        "--unlearned",
        "npo",
        "--root",
        tmp_path,
        "--outdir",
        tmp_path / "out",
    )
    repeats = [f"--repeat={m}={m}{k}" for m in ("base", "filtered") for k in (2, 3)]
    done = script(ROOT / "eval/significance.py", *roles, *repeats)
    assert done.code == 0, done.err
    with open(tmp_path / "out/significance.csv", newline="") as file:
        rows = {(r["a"], r["b"], r["test"]): r for r in csv.DictReader(file)}
    found = rows["base", "filtered", "paired_t"]
    assert (found["headline"], found["primary"], found["about"]) == ("0", "0", "these models")
    of_seeds = rows["base", "filtered", "seeds_t"]
    assert (of_seeds["headline"], of_seeds["primary"], of_seeds["unit"]) == ("1", "1", "seed")
    assert of_seeds["seeds_a"] == "3" and of_seeds["about"] == "their recipes"
    assert float(of_seeds["p"]) <= float(of_seeds["p_holm"]) < 0.02
    means = {}
    for model in ("base", "base2", "base3", "filtered", "filtered2", "filtered3"):
        with open(tmp_path / model / "harness/samples.csv", newline="") as file:
            means[model] = np.mean([int(r["correct"]) for r in csv.DictReader(file)])
    values = list(means.values())
    welch = stats.ttest_ind(values[:3], values[3:], equal_var=False)
    assert float(of_seeds["p"]) == pytest.approx(welch.pvalue, rel=1e-6)
    alone = rows["base", "npo", "paired_t"]
    assert (alone["headline"], alone["primary"]) == ("0", "1")
    assert "3 and 3 seeds: p is about the recipes" in done.out
    assert "npo: +0" in done.out and "p is about these two models" in done.out
    assert float(rows["filtered", "filtered2", "paired_t"]["p"]) > 0.05
    assert float(found["ci_low"]) < float(found["difference"]) < float(found["ci_high"])
    assert (
        rows["base", "npo", "mcnemar"]["unit"] == "item"
        and found["n"] == "14"
        and found["n_items"] == "84"
    )
    samples(tmp_path, "short", 0.3, 0, entities=10)
    mixed = (
        "--base",
        "base",
        "--filtered",
        "short",
        "--unlearned",
        "npo",
        "--root",
        tmp_path,
        "--outdir",
        tmp_path / "out",
    )
    for arguments, said in (
        (mixed, "Use the same data"),
        ((*roles, "--repeat", "x"), "--repeat x"),
        ((*roles, "--value", "nothing"), "no column nothing"),
    ):
        done = script(ROOT / "eval/significance.py", *arguments)
        assert done.code == 2 and said in done.err and len(done.err.strip().splitlines()) == 1


def test_the_floor_of_p_is_no_measured_value(script, tmp_path):
    for model, chance in (("base", 0.95), ("filtered", 0.05), ("npo", 0.94)):
        samples(tmp_path, model, chance, len(model), entities=60)
    done = script(
        ROOT / "eval/significance.py",
        "--base",
        "base",
        "--filtered",
        "filtered",
        "--unlearned",
        "npo",
        "--root",
        tmp_path,
        "--outdir",
        tmp_path / "out",
    )
    assert done.code == 0, done.err
    said = {tuple(line.split()[1:4:2]): line for line in done.out.splitlines()}
    assert (
        "paired_t p < 1e-16 " in said["base", "filtered:"]
        and "paired_t p 0." in said["base", "npo:"]
    )
    with open(tmp_path / "out/significance.csv", newline="") as file:
        rows = {(r["a"], r["b"], r["test"]): r for r in csv.DictReader(file)}
    assert float(rows["base", "filtered", "paired_t"]["p"]) == 1e-16


def test_no_script_hides_pythons_statistics():
    """numpy, random and torch import `statistics`; a script of that name in eval/ would be found
    first.
    """
    assert "statistics" in sys.stdlib_module_names
    assert not [
        p
        for folder in ("eval", "experiment", "unlearn", "hooks")
        for p in (ROOT / folder).glob("statistics.py")
    ]
