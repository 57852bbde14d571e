"""Recovery: how much of what was forgotten is back. Four definitions, each with its own name.

All four are the share of the way that accuracy on half B of the forget facts has gone from a zero
to Base, (accuracy - zero) / (base - zero): 0 says that nothing is back, 1 that everything is. They
differ in the zero, and in whether Base was attacked as well.

heldout_recovery        Zero is Filtered and one is Base, both under the same attack with the same
                        seed. What the attack does to any model cancels out. Column of
                        scoreboard.csv (experiment/scoreboard.py).
recovery_over_filtered  Zero is Filtered and one is Base, both as made. What the attack teaches or
                        breaks counts as well; Filtered's own value says how much that is. Column of
                        recovery.csv (eval/recovery.py), summary.csv (experiment/report.py) and
                        methods.csv (unlearn/methods_table.py).
recovery_from_chance    Zero is chance and one is Base as made, where there is no Filtered. Chance
                        is what Base answers of questions that no model was shown
                        (mcq_holdout.jsonl), else what guessing gives. A model that never saw the
                        facts may answer more than that. Column of recovery.csv, summary.csv and
                        scoreboard.csv.
recovery_over_start     Zero is the unlearned model itself as made, one is Base as made. It needs no
                        Filtered, so it cannot tell what came back from what was learned anew, and
                        it is undefined for a model that forgot nothing. Columns
                        recovery_over_start_10 and _100, after that many attack steps, of
                        results.csv (unlearn/sequential_grid.py).

Each is None (an empty cell) where Base and the zero do not differ clearly: where Base is less than
GAP (START_GAP) above the zero, or where the 95 % interval of their difference holds 0 (`differs`).

`interval` is the only interval of a recovery. It varies over the attack's seeds and over the facts
of half B, which are drawn by entity.
"""

import itertools
import math
from typing import NamedTuple

from brittle.base.errors import UserError

# what stands for a model that never saw the facts, where there is none
GUESSING, NEVER_SEEN = "guessing", "Base on never-seen questions"
NORMAL = 1.96  # half of a 95 % interval, in standard errors
GAP = 0.2  # below this difference of Base and the zero, recovery is a ratio of noise
# The sequential log's models forgot less than GAP of their small Base: its own published values are
# defined down to here.
START_GAP = 0.05
BREAKS = 0.2  # an attack that takes more than this from the untouched Base on half B breaks it


def _way_back(accuracy, zero, base, gap=GAP):
    """(accuracy - zero) / (base - zero), or None where that would be a ratio of noise."""
    if None in (accuracy, zero, base) or base - zero < gap:
        return None
    return (accuracy - zero) / (base - zero)


def heldout_recovery(accuracy, attacked_filtered, attacked_base):
    """Recovery between Filtered and Base, all three accuracies on half B under the same attack."""
    return _way_back(accuracy, attacked_filtered, attacked_base)


def recovery_over_filtered(accuracy, filtered, base):
    """Recovery under an attack between Filtered and Base as made; accuracies on half B."""
    return _way_back(accuracy, filtered, base)


def recovery_from_chance(accuracy, chance, base):
    """Recovery under an attack between chance and Base as made; accuracies on half B."""
    return _way_back(accuracy, chance, base)


def recovery_over_start(accuracy, start, base):
    """Recovery under an attack between the unlearned model (`start`) and Base, both as made."""
    return _way_back(accuracy, start, base, START_GAP)


def breaks_base(as_made, attacked):
    """Does an attack break the untouched Base? as_made, attacked: its accuracies on half B."""
    return as_made - attacked > BREAKS


class Chance(NamedTuple):
    """What half B is worth to a model that knows nothing: its accuracy and standard error.

    of: GUESSING, or NEVER_SEEN where Base was asked such questions.
    """

    accuracy: float
    error: float
    of: str


def chance_of_half_b(splits):
    """The `Chance` of half B, from what Base answered as made.

    splits: {split: row of tamper.csv or attacks.csv}. Raises UserError where the attack was
    measured before the column `chance` was written.
    """
    if "never_seen" in splits:
        row = splits["never_seen"]
        error = (row["accuracy_high"] - row["accuracy_low"]) / (2 * NORMAL)
        return Chance(row["accuracy"], error, NEVER_SEEN)
    if splits["forget_b"].get("chance") is None:
        raise UserError(
            "the attack on Base was measured before its results had the column chance, which "
            "recovery without --filtered reads. Run the attack again."
        )
    return Chance(splits["forget_b"]["chance"], 0.0, GUESSING)


class Cell(NamedTuple):
    """What one attack seed left: {fact: (right, items)} of half B, of the model and of both ends.

    `filtered` is the zero: Filtered, or chance. Where an end has no items on these facts, its
    accuracy `level[role]` stands; that of chance varies by its standard error `level["error"]`.
    """

    attacked: dict
    filtered: dict
    base: dict
    level: dict


def _entities(facts):
    """[facts] the entity of each: the facts of one are remembered and forgotten together."""
    from brittle.data.items import entity_of

    return [entity_of({"fact": fact}) for fact in facts]


def _accuracies(counted, facts, weights, otherwise=None):
    """[draws] accuracies where facts have `weights` [draws, facts]; `otherwise` where there are no
    items on them.
    """
    import numpy as np

    if set(counted) != set(facts):
        return otherwise
    counts = np.array([counted[f] for f in facts], dtype=np.float64)  # [facts, (right, items)]
    sums = weights @ counts  # [draws, (right, items)]
    return sums[:, 0] / sums[:, 1]


def _draw(facts, draws, seed):
    """(weights [draws, facts] of entities drawn with replacement, how many entities there are)"""
    from brittle.maths.intervals import count_units, resample

    entities = _entities(facts)
    return resample(entities, draws, seed, "recovery").numpy(), count_units(entities)


def _fixed(level, draws, seed):
    """[draws] accuracies of a zero without items on half B: `level`, and its standard error."""
    import numpy as np

    noise = np.random.default_rng([seed, 1]).standard_normal(draws)
    return level["filtered"] + level.get("error", 0.0) * noise


def differs(filtered, base, level, gap=GAP, draws=2000, seed=0):
    """Do Base and the zero differ clearly on half B, so that recovery is defined?

    filtered, base: {fact: (right, items)} of the zero and of Base; level: {filtered, base:
    accuracy}. Base must be at least `gap` above, and where there are items the 95 % bootstrap
    interval of the difference over entities must lie above 0.
    """
    from brittle.maths.intervals import quantiles

    if level["base"] - level["filtered"] < gap:
        return False
    facts = sorted(base)
    if not facts or (filtered and set(filtered) != set(facts)):
        return True
    weights, entities = _draw(facts, draws, seed)
    zero = _accuracies(filtered, facts, weights, _fixed(level, draws, seed))
    drawn = _accuracies(base, facts, weights) - zero
    low, _ = quantiles(drawn, entities)
    return low is not None and low > 0


def interval(cells, draws=2000, seed=0, start=None):
    """(low, high), 95 %, of the mean recovery over attack seeds: a two-way bootstrap.

    cells: [Cell] of the attack's seeds, on the same facts. start: {fact: (right, items)} of the
    attacked model as made; with it the interval is of what recovery gained over that. Every draw
    takes entities with replacement, each with all its facts, the same ones for all seeds and for
    all three models. To its mean over seeds it adds a draw of Student's t with one degree of
    freedom less than there are seeds, times the standard error over seeds: a few seeds are too few
    to be drawn with replacement, which would leave out a third of their variance at three. With one
    seed the interval is of the facts alone. (None, None) without items, from too few entities
    (`intervals.FEWEST`), or where Base is not above Filtered in every draw.
    """
    import numpy as np

    from brittle.maths.intervals import quantiles

    facts = sorted(cells[0].attacked)
    if not facts or any(set(cell.attacked) != set(facts) for cell in cells):
        return None, None
    weights, entities = _draw(facts, draws, seed)

    if start is not None and set(start) != set(facts):
        return None, None

    def recoveries(weights, fixed):
        """[seeds, draws] of recovery by the weights of facts; None where Base is not above.

        fixed: [draws] accuracies of a zero without items.
        """
        of_seeds = []
        for attacked, filtered, base, level in cells:
            zero = _accuracies(filtered, facts, weights, fixed)
            gap = _accuracies(base, facts, weights, level["base"]) - zero
            if np.any(gap <= 0):
                return None
            since = zero if start is None else _accuracies(start, facts, weights)
            of_seeds.append((_accuracies(attacked, facts, weights) - since) / gap)
        return np.array(of_seeds)

    of_draws = recoveries(weights, _fixed(cells[0].level, draws, seed))
    if of_draws is None:
        return None, None
    means = of_draws.mean(0)
    if len(cells) > 1:
        as_measured = recoveries(np.ones((1, len(facts))), cells[0].level["filtered"])[:, 0]
        error = as_measured.std(ddof=1) / math.sqrt(len(cells))
        means = means + error * np.random.default_rng(seed).standard_t(len(cells) - 1, size=draws)
    return quantiles(means, entities)


def interval_of_intervals(values, lows, highs):
    """(low, high), 95 %, of the mean of recoveries of which only their facts' intervals are known.

    values, lows, highs: one a seed. The facts are the same in all seeds, so their variance is that
    of one seed. The interval's half is the root of the sum of squares of the facts' half and of
    Student's half over seeds.
    """
    from brittle.maths.intervals import mean_interval

    count, mean = len(values), sum(values) / len(values)
    if count < 2:
        return lows[0], highs[0]
    of_facts = (sum(highs) - sum(lows)) / count / 2
    _, low, _ = mean_interval(values)
    half = math.hypot(of_facts, mean - low)
    return mean - half, mean + half


def reached_at(points, level):
    """The step at which the straight line between two measured points first reaches `level`.

    points: [(step, value), ...], ascending. The first step where it starts there, None where it
    never does.
    """
    if not points:
        return None
    if points[0][1] >= level:
        return points[0][0]
    for (a, low), (b, high) in itertools.pairwise(points):
        if high >= level:
            return a + (b - a) * (level - low) / (high - low)
    return None


def curve(points):
    """(steps to half recovery, mean recovery over the attack) of one learning rate's curve.

    points: [(step, recovery), ...]. The first result is the step at which the straight line between
    two measured points first reaches .5: 0 where it starts there, None where none does. The second
    is the area under these lines over the steps, divided by the last step.
    """
    points = sorted(points)
    if not points or any(value is None for _, value in points):
        return None, None
    area = 0.0
    for (a, low), (b, high) in itertools.pairwise(points):
        area += (b - a) * (low + high) / 2
    half = reached_at(points, 0.5)
    return half, area / (points[-1][0] - points[0][0]) if len(points) > 1 else None
