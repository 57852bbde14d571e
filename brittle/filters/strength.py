"""The strength of one filter: the smallest that reaches the target, within the limits.

A curve is a function strength -> reading (see target.py). Behind the final norm readings are convex
in the strength, so bisection is exact. Elsewhere, and behind a soft cap, a grid is read first.
"""

from brittle.base.errors import UserError
from brittle.filters.target import CHANCE, distance

TOLERANCE = 1e-3
BLOCK_POINTS, BLOCK_TOLERANCE = 9, 0.02  # a strength at a block costs the blocks above it


def bisect(f, low=0.0, high=1.0, tolerance=1e-4):
    """The largest x in [low, high] with f(x) <= 0, within `tolerance`; f does not decrease.

    It is `low` where even f(low) is above 0.
    """
    if f(high) <= 0:
        return high
    if f(low) > 0:
        return low
    while high - low > tolerance:
        middle = (low + high) / 2
        low, high = (middle, high) if f(middle) <= 0 else (low, middle)
    return low


def golden(f, low, high, tolerance=1e-3):
    """The x in [low, high] with the smallest f(x), by golden section."""
    ratio = (5**0.5 - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    f_left, f_right = f(left), f(right)
    while high - low > tolerance:
        if f_left <= f_right:
            high, right, f_right = right, left, f_left
            left = high - ratio * (high - low)
            f_left = f(left)
        else:
            low, left, f_left = left, right, f_right
            right = low + ratio * (high - low)
            f_right = f(right)
    return (low + high) / 2


def within(curve, limits, top=1.0, *, convex=False, points=33, tolerance=1e-4):
    """The end of the interval of strengths from 0 that keeps the limits, at most `top`.

    It is exact by bisection where the curve is `convex`. Else the first crossing of a grid of
    `points` is looked for, and bisection goes on in its cell.
    """

    def excess(strength):
        return limits.excess(curve(strength))

    if convex:
        return bisect(excess, 0.0, top, tolerance)
    previous = 0.0
    for i in range(1, points):
        strength = top * i / (points - 1)
        if excess(strength) > 0:
            return bisect(excess, previous, strength, tolerance)
        previous = strength
    return top


class KnownCurve:
    """A curve that reads each strength once, to six digits."""

    def __init__(self, curve):
        self.curve, self.readings = curve, {}

    def __call__(self, strength):
        strength = round(float(strength), 6)
        if strength not in self.readings:
            self.readings[strength] = self.curve(strength)
        return self.readings[strength]

    def distance(self, strength):
        return distance(self(strength))


def resolution(site):
    """(points of the grid, tolerance of a strength) at a site: what a strength costs there."""
    if site == "post_norm":
        return 33, TOLERANCE
    if site == "pre_norm":
        return 17, TOLERANCE
    return BLOCK_POINTS, BLOCK_TOLERANCE


def nearest_to_target(curve, grid, site):
    """The strength that comes nearest to a target that no point of the grid reaches."""
    last = len(grid) - 1
    i = min(range(1, len(grid)), key=lambda i: curve.distance(grid[i]))
    if site == "post_norm" or i == last or len(grid) == BLOCK_POINTS:
        return grid[i]
    return golden(curve.distance, grid[i - 1], grid[i + 1])


def smallest_that_reaches(curve, below, reaching, tolerance):
    """The smallest strength in (below, reaching] that reaches the target, within `tolerance`."""
    last_above = bisect(lambda strength: -curve.distance(strength), below, reaching, tolerance)
    strength = min(last_above + tolerance, reaching)
    return strength if curve.distance(strength) <= 0 else reaching


def tune(tuner, choice, top=1.0):
    """Set the strength of a choice's filter, at most `top`, in place. Returns the choice.

    Raises UserError where the unfiltered model has nothing to forget.
    """
    chosen, site = choice.filter, choice.filter.site
    points, tolerance = resolution(site)
    curve = KnownCurve(tuner.curve(chosen))
    if curve.distance(0.0) <= 0:
        raise UserError(
            "the unfiltered model treats the forget text as never seen: there is nothing to filter "
            f"(answers still known: {curve(0.0)['known']:.2f}, chance {CHANCE:.2f}). "
            "Check --forget and --unseen."
        )
    convex = tuner.is_convex(site)
    limit = within(curve, choice.limits, top, convex=convex, points=points, tolerance=tolerance)
    grid = [limit * i / (points - 1) for i in range(points)]
    first = next((i for i, strength in enumerate(grid) if curve.distance(strength) <= 0), None)
    if first is None:
        strength = nearest_to_target(curve, grid, site)
        choice.limited |= limit < top
    elif first == 0 or points == BLOCK_POINTS:
        strength = grid[first]
    else:
        strength = smallest_that_reaches(curve, grid[first - 1], grid[first], tolerance)
    choice.filter, choice.reading = chosen.at(strength), curve(strength)
    for i in range(points):  # the whole curve is shown, also beyond the limit
        curve(top * i / (points - 1))
    choice.curve, choice.strength_limit = sorted(curve.readings.items()), limit
    return choice


def stable(choice):
    """(low, high): the strengths around the chosen one over which the verdict stays the same."""

    def same(reading):
        reached = distance(reading) <= 0
        return reached == (distance(choice.reading) <= 0) and choice.limits.excess(reading) <= 0

    def last_same(curve):
        end = choice.filter.strength
        for strength, reading in curve:
            if not same(reading):
                break
            end = strength
        return end

    at = choice.filter.strength
    below = [point for point in choice.curve if point[0] <= at]
    above = [point for point in choice.curve if point[0] >= at]
    return last_same(reversed(below)), last_same(above)
