"""Every kind of interval that is printed holds its true value, on data with entity effects.

Each case draws data of which the truth is known, asks the product for the interval, and counts how
often it holds the truth. The questions, texts and facts of one entity share a draw, as in real
data. With DRAWS draws an interval that covers 95 % passes and one that covers 90 % fails, each with
a probability above 99.8 %; with SOME draws, where a draw is slow, above 96 %. The seeds are fixed.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from brittle.diagnostics import covariance
from brittle.maths import agreement, entities, hypotheses, intervals
from brittle.metrics import forget_quality_rows, membership, neutral, recovery, tofu
from support.tiny_models import script

DRAWS, SOME, LEAST = 1000, 400, 0.93


@pytest.fixture(autouse=True)
def _drawn_once(monkeypatch):
    """The bootstrap's own draws depend on seed and names alone: each case makes them once."""
    torch.set_num_threads(1)
    for function in (intervals.resample, intervals._part_of_group):
        known = {}

        def once(units, *about, function=function, known=known):
            key = units if isinstance(units, int) else tuple(units), *about
            if key not in known:
                known[key] = function(units, *about)
            return known[key]

        for module in (intervals, membership):
            if hasattr(module, function.__name__):
                monkeypatch.setattr(module, function.__name__, once)


def coverage(draw_interval, draws=DRAWS, seed=0):
    """Share of draws in which low <= truth <= high; draw_interval(rng) -> (low, high, truth).

    The three may be lists, of intervals that are drawn at once; the least share is returned.
    """
    rng, held = np.random.default_rng(seed), []
    for _ in range(draws):
        low, high, truth = np.array(draw_interval(rng), dtype=float)
        held.append((low - 1e-9 <= truth) & (truth <= high + 1e-9))
    return np.mean(held, 0).min()


def names(count, each):
    """[count * each] the entity of each of its texts."""
    return [i // each for i in range(count * each)]


def alike(rng, share, count, each, rho=0.5):
    """[count * each] answers; an entity answers all alike with probability rho, as it is one."""
    whole = np.repeat(rng.random(count) < rho, each)
    of_entity = np.repeat(rng.random(count) < share, each)
    return np.where(whole, of_entity, rng.random(count * each) < share).astype(int)


def varied(rng, share, count, each, rho=0.3):
    """[count * each] answers; an entity's chance to be right is drawn from a beta distribution."""
    scale = 1 / rho - 1
    chance = rng.beta(share * scale, (1 - share) * scale, count)
    return (rng.random(count * each) < np.repeat(chance, each)).astype(int)


def scores_of(rng, count, each, rho=0.5):
    """[count * each] normal scores; those of one entity have correlation rho."""
    shared = np.repeat(rng.normal(size=count), each)
    return rho**0.5 * shared + (1 - rho) ** 0.5 * rng.normal(size=count * each)


@pytest.mark.parametrize(("count", "each"), [(10, 5), (30, 8)])
@pytest.mark.parametrize(
    ("answers", "share"),
    [(alike, 0.5), (alike, 0.85), (alike, 0.95), (varied, 0.05), (varied, 0.9)],
)
def test_share(answers, share, count, each):
    """Accuracies and leaks. Wilson's with the estimated design effect held .95 in 78 %."""
    groups = names(count, each)

    def draw(rng):
        _, low, high = intervals.share(answers(rng, share, count, each).tolist(), groups)
        assert 0 <= low <= high <= 1
        return low, high, share

    assert coverage(draw) >= LEAST


@pytest.mark.parametrize("count", [8, 30])
def test_mean_of_probabilities(count):
    """TOFU's probabilities and the scores of generations, near 1: the ends stay in [0, 1]."""

    def draw(rng):
        chance = np.repeat(rng.beta(9, 1, count), 3)
        values = rng.beta(20 * chance + 0.01, 20 * (1 - chance) + 0.01)
        _, low, high = intervals.mean_of(values.tolist(), names(count, 3))
        assert 0 <= low <= high <= 1
        return low, high, (20 * 0.9 + 0.01) / 20.02

    assert coverage(draw) >= LEAST


@pytest.mark.parametrize("count", [8, 30])
def test_mean_by_entity(count):
    """Norms and Lipschitz constants of texts, and what a model lost by fact."""

    def draw(rng):
        values = np.exp(0.3 * scores_of(rng, count, 3))
        _, low, high = intervals.mean_interval(values.tolist(), names(count, 3))
        return low, high, np.exp(0.045)

    assert coverage(draw) >= LEAST


def test_mean_over_seeds():
    def draw(rng):
        _, low, high = intervals.mean_interval(rng.normal(0.5, 0.1, 3).tolist())
        return low, high, 0.5

    assert coverage(draw) >= LEAST


def test_next_of_five_directions():
    """null_nll and null_subspace_alignment: where a further random direction lies."""

    def draw(rng):
        *five, sixth = rng.normal(3.5, 0.3, 6).tolist()
        _, low, high = intervals.prediction_interval(five)
        return low, high, sixth

    assert coverage(draw) >= LEAST


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("sd", [0.02, 0.05])
def test_recipes_that_do_not_differ(sd, seeds):
    """Two recipes on the same entities, whose models' levels vary by `sd` from seed to seed.

    The interval holds the true difference, and the headline p is below .05 in at most 6 % of draws;
    a t of the entities' means, seeds averaged, is in 27 to 55 %.
    """
    rejected = []

    def draw(rng):
        level = rng.normal(0.5, 0.15, 20).clip(0.1, 0.9)
        shift = rng.normal(0, sd, (2, seeds, 1))
        a, b = rng.binomial(10, (level + shift).clip(0, 1)) / 10
        rejected.append(hypotheses.seeds_t(a.mean(1), b.mean(1)).p <= 0.05)
        low, high = entities.difference(a, b, draws=200)
        return low, high, 0.0

    assert coverage(draw) >= LEAST
    assert np.mean(rejected) <= 0.06


@pytest.mark.parametrize("count", [8, 40])
def test_difference_of_two_models(count):
    """Of one seed a side: the interval is about these very models, on further entities."""

    def draw(rng):
        level = rng.normal(0.5, 0.15, count)
        a, b = level + 0.1 + rng.normal(0, 0.1, count), level + rng.normal(0, 0.1, count)
        low, high = entities.difference([a], [b])
        return low, high, 0.1

    assert coverage(draw, SOME) >= LEAST


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_mean_over_seeds_and_entities(seeds):
    """Resampling the seeds covers .75 for two and .86 for three."""

    def draw(rng):
        shift = rng.normal(0, 0.09 if seeds > 1 else 0.0, (seeds, 1))
        values = 0.5 + shift + rng.normal(0, 0.1, 12) + rng.normal(0, 0.05, (seeds, 12))
        low, high = entities.bootstrap(values, draws=300)
        return low, high, 0.5

    assert coverage(draw) >= LEAST


@pytest.mark.parametrize(("count", "seeds"), [(10, 1), (10, 3), (30, 1)])
def test_recovery(count, seeds):
    """An entity's facts come back together, and attack seeds differ.

    Beside the two-way bootstrap stands the scoreboard's mean of cells with an interval each.
    """
    facts = [f"forget/{i:03d}/{j}" for i in range(count) for j in range(4)]

    def answers(chance):
        return dict(zip(facts, [(int(right), 2) for right in chance], strict=True))

    def accuracy(counted):
        return sum(right for right, _ in counted.values()) / 2 / len(facts)

    def draw(rng):
        known = np.repeat(rng.beta(6, 4, count), 4)  # how far a fact comes back: .6 on average
        filtered = answers(rng.binomial(2, 0.25, len(facts)))
        base = answers(rng.binomial(2, 0.95, len(facts)))
        level = {"filtered": accuracy(filtered), "base": accuracy(base)}
        cells = []
        for shift in rng.normal(0, 0.05 if seeds > 1 else 0.0, seeds):
            attacked = answers(rng.binomial(2, 0.25 + (known + shift).clip(0, 1) * 0.7))
            cells.append(recovery.Cell(attacked, filtered, base, level))
        ends = [recovery.interval([cell], draws=300) for cell in cells]
        values = [
            recovery.heldout_recovery(accuracy(cell.attacked), *level.values()) for cell in cells
        ]
        both = (
            recovery.interval(cells, draws=300),
            recovery.interval_of_intervals(values, *zip(*ends, strict=True)),
        )
        return *zip(*both, strict=True), (0.6, 0.6)

    assert coverage(draw, SOME) >= LEAST


@pytest.mark.parametrize(("count", "truth"), [(8, 0.75), (30, 0.95)])
def test_auc_by_entity(count, truth):
    """Membership attacks: members and others are of different entities."""
    labels, groups = [1] * 4 * count + [0] * 4 * count, names(2 * count, 4)

    def draw(rng):
        scores = scores_of(rng, 2 * count, 4)
        scores[: 4 * count] += 2**0.5 * norm.ppf(truth)
        _, low, high = membership.auc_interval(scores, labels, groups)
        assert 0 <= low <= high <= 1
        return low, high, truth

    assert coverage(draw, SOME) >= LEAST


def test_auc_over_folds():
    """Probes: the scores of two folds do not compare."""
    fold = torch.tensor([(i // 4) % 2 for i in range(160)])
    labels = torch.tensor([1] * 80 + [0] * 80)

    def draw(rng):
        scores = scores_of(rng, 40, 4) + 10 * fold.numpy()
        scores[:80] += 2**0.5 * norm.ppf(0.75)
        _, low, high = intervals.fold_auc(scores, labels, fold, groups=names(40, 4))
        return low, high, 0.75

    assert coverage(draw, SOME) >= LEAST


def test_true_positives():
    """The threshold is that of all non-members. Its own sample's alone held the truth in 89 %."""
    labels, groups = [1] * 160 + [0] * 160, names(80, 4)
    truth = norm.sf(norm.isf(0.01) - 2)

    def draw(rng):
        scores = scores_of(rng, 80, 4)
        scores[:160] += 2
        _, low, high, _ = membership.tpr_at(scores, labels, entities=groups, draws=200)
        assert 0 <= low <= high <= 1
        return low, high, truth

    assert coverage(draw, 200) >= LEAST


def energies(rng, count, level):
    """A Sample of texts, five an entity, of which a share `level` of the energy lies inside."""
    whole = rng.gamma(20, 1, 5 * count)
    of_entity = np.repeat(rng.beta(20 * level, 20 * (1 - level), count), 5)
    inside = torch.tensor(whole * of_entity)
    return intervals.Sample(inside, torch.tensor(whole), names(count, 5))


@pytest.mark.parametrize("count", [8, 40])
def test_ratio_of_shares(count):
    """selectivity_ratio: energies of forget and of retain texts."""

    def draw(rng):
        samples = energies(rng, count, 0.3), energies(rng, count, 0.2)
        _, low, high = intervals.ratio_of_shares(*samples, draws=400)
        return low, high, 1.5

    assert coverage(draw, SOME) >= LEAST


def test_ratio_of_halves():
    """null_selectivity_ratio: another two halves of such texts lie within."""

    def draw(rng):
        null = intervals.ratios_of_halves(energies(rng, 20, 0.3), splits=200)
        low, high = intervals.quantiles(null, 20)
        one, other = (energies(rng, 10, 0.3) for _ in range(2))
        ratio = (one.inside.sum() / one.whole.sum()) / (other.inside.sum() / other.whole.sum())
        return low, high, float(ratio)

    assert coverage(draw) >= LEAST


def test_separation():
    """Cosine distance and variance ratio of forget and retain texts, which sampling enlarges."""
    step, count, each, width = script("activation_separation_analysis"), 20, 4, 6
    labels = torch.tensor([1] * count * each + [0] * count * each)
    task = SimpleNamespace(
        labels=labels,
        control=labels,
        entities=names(2 * count, each),
        units=count,
        auc=lambda x, device: [((None, None, None), None)] * 2,
    )
    centres = np.zeros((2, width))
    centres[:, 0], centres[0, 1] = 3.0, 2.0
    truth = 1 - 9 / (9 * 13) ** 0.5, 0.25 * 4 / width

    def draw(rng):
        entity = np.repeat(rng.normal(size=(2 * count, width)), each, 0) * 0.3**0.5
        own = rng.normal(size=(2 * count * each, width)) * 0.7**0.5
        x = torch.tensor(np.repeat(centres, count * each, 0) + entity + own)
        (row,) = step.rows({"model_a": x[:, None]}, task, {}, 2, [0])
        ends = [[row[f"{name}_{end}"] for name in step.MEASURES] for end in ("low", "high")]
        return *ends, truth

    assert coverage(draw, 300) >= LEAST


def test_shape_of_the_distribution():
    """The Wasserstein distance of two models' spectra, which fall off as those of models do.

    The interval holds the sampling error and not the bias: of flat spectra it covers less.
    """
    step, count, each, width = script("activation_covariance_analysis"), 40, 5, 6
    dealt = intervals.split_groups(names(count, each), covariance.PARTS, 0)
    weights = intervals.resample(names(count, each), 200, 0).float()
    scale = np.geomspace(3, 0.5, width), np.geomspace(6, 0.5, width)
    spectra = [torch.tensor(s)[None] ** 2 for s in scale]
    truth = float(covariance.wasserstein(*spectra))

    def draw(rng):
        entity = np.repeat(rng.normal(size=(count, width)), each, 0) * 0.3**0.5
        x = entity + rng.normal(size=(count * each, width)) * 0.7**0.5
        read = {
            model: covariance.by_text(torch.tensor(x * s), dealt, model == "model_a")
            for model, s in zip(("model_a", "model_b"), scale, strict=True)
        }
        row, _ = step.measure(read, weights, count)
        return row["wasserstein_low"], row["wasserstein_high"], truth

    assert coverage(draw, 200) >= LEAST


def test_barrier():
    """Losses of texts along the line between two models."""
    step, count = script("basin_analysis"), 20
    ids, units = {"forget": [[0] * 11] * 5 * count}, {"forget": names(count, 5)}
    drawn = {"forget": range(5 * count)}

    def draw(rng):
        loss = 10 * np.exp(0.4 * scores_of(rng, count, 5))
        line = {"forget": torch.tensor(np.stack([loss, 2 * loss]))}
        row = list(step.rows([0.0, 1.0], line, [line] * 5, drawn, ids, units, 0))[1]
        return row["nll_low"], row["nll_high"], 2 * np.exp(0.08)

    assert coverage(draw, SOME) >= LEAST


def test_neutral_text():
    """How far a model moved from Base on texts of neither set: KL and the change of NLL."""

    def draw(rng):
        tokens = rng.integers(20, 40, 120)
        kl, before = np.exp(0.3 * scores_of(rng, 40, 3)), 2 + scores_of(rng, 40, 3)
        change = 0.5 + scores_of(rng, 40, 3)
        sums = np.stack([before, before + change, kl], 1) * tokens[:, None]
        totals = torch.tensor(np.concatenate([tokens[:, None], sums], 1))
        row = neutral.measure(totals, names(40, 3), 0)
        ends = [[row[f"{name}_{end}"] for name in ("kl", "nll_change")] for end in ("low", "high")]
        return *ends, (np.exp(0.045), 0.5)

    assert coverage(draw, SOME) >= LEAST


def test_perplexity():
    def draw(rng):
        nll = 2 + 0.5 * scores_of(rng, 12, 4)
        texts = [
            {"set": "forget.txt", "tokens": 20, "nll": value, "entity": entity}
            for value, entity in zip(nll, names(12, 4), strict=True)
        ]
        (row,) = forget_quality_rows.perplexity_rows("m", texts)
        return row["ci_low"], row["ci_high"], np.exp(2)

    assert coverage(draw, SOME) >= LEAST


@pytest.mark.parametrize(("count", "shift"), [(10, 0.0), (20, 1.0)])
def test_distance_of_truth_ratios(count, shift):
    """Forget quality's D of two normal distributions, which is 2 Phi(shift / 2) - 1."""
    groups = names(count, 3)

    def draw(rng):
        ours, theirs = scores_of(rng, count, 3) + shift, scores_of(rng, count, 3)
        quality = tofu.forget_quality(ours.tolist(), theirs.tolist(), groups, groups, draws=200)
        assert 0 <= quality["d_low"] <= quality["d_high"] <= 1
        return quality["d_low"], quality["d_high"], 2 * norm.cdf(shift / 2) - 1

    assert coverage(draw, 300) >= LEAST


@pytest.mark.parametrize("count", [15, 60])
def test_agreement_of_judges(count):
    """Two raters, each of whom errs so often that alpha is .6."""

    def draw(rng):
        label = rng.integers(2, size=count)
        wrong = rng.random((2, count)) < (1 - 0.6**0.5) / 2
        ratings = np.where(wrong, 1 - label, label).T.tolist()
        return *agreement.alpha_interval(ratings, [0, 1], draws=400), 0.6

    assert coverage(draw, SOME) >= LEAST


@pytest.mark.parametrize("count", [1, 2])
def test_two_entities_are_no_basis(count):
    """Ten texts of each, and no kind of interval."""
    groups, n = names(count, 10), 10 * count
    values = np.linspace(0.1, 0.9, n).tolist()
    labels, either = [1] * n + [0] * n, names(2 * count, 10)
    ends = [
        intervals.share([1, 0] * (n // 2), groups)[1:],
        intervals.mean_of(values, groups)[1:],
        intervals.mean_of(values[:count])[1:],  # the data name no entities
        intervals.mean_of([3 * value for value in values[:count]])[1:],
        intervals.mean_interval(values, groups)[1:],
        intervals.quantiles(values, count),
        entities.bootstrap([values[:count]]),
        entities.difference([values[:count]], [values[:count]]),
        membership.auc_interval(values + values, labels, either)[1:],
        membership.tpr_at(values + values, labels, entities=either)[1:3],
        agreement.alpha_interval([[0, 1], [1, 1]][:count], [0, 1]),
    ]
    quality = tofu.forget_quality(values, values, groups, groups)
    ends.append((quality["d_low"], quality["d_high"]))
    facts = {f"forget/{name}/{i}": (i % 2, 1) for i, name in enumerate(groups)}
    cell = recovery.Cell(facts, facts, facts, {"filtered": 0.2, "base": 0.9})
    ends.append(recovery.interval([cell]))
    assert ends == [(None, None)] * len(ends)
