"""Claims of the literature about unlearning, held against the scoreboard: our number with its
interval, and what follows.

A claim is `held` where the whole 95 % interval of our number lies on its side of the threshold,
`not held` where it lies on the other, and `cannot be tested at this size` where it holds the
threshold or too few models tell. Where a number is a mean over methods, only methods whose models
had forgotten count (as made less than half of the way from Filtered to Base, and with at least nine
tenths of Base's retain accuracy: a broken model is no unlearned one), and the interval is Student's
over methods; shares of methods have Wilson's.
"""

import math
import statistics
from pathlib import Path
from typing import NamedTuple

from brittle.base import layout
from brittle.base.tables import number, read_rows
from brittle.report.scoreboard import board, fact_count, forgotten, of_method, over_methods

HELD, NOT, OPEN, MISSING = "held", "not held", "cannot be tested at this size", "not measured"
GAIN = 0.10  # what counts as coming back: a tenth of the way from Filtered to Base


class Claim(NamedTuple):
    """`number` is None where nothing was measured; `detail` says what the number is, or how to
    measure it.
    """

    claim: str
    source: str
    number: float | None
    low: float | None
    high: float | None
    verdict: str
    detail: str


def judge(low, high, threshold):
    if low is None or high is None:
        return OPEN
    return HELD if low > threshold else NOT if high < threshold else OPEN


def mean_claim(text, source, found, threshold, unit, missing):
    """A claim about the mean over methods of `found` {method: number}."""
    from brittle.maths.intervals import mean_interval

    if not found:
        return Claim(text, source, None, None, None, MISSING, missing)
    mean, low, high = mean_interval(list(found.values()))
    most, least = (pick(found, key=found.get) for pick in (max, min))
    above = sum(v > threshold for v in found.values())
    detail = (
        f"{unit}, mean over {len(found)} methods that had forgotten; above {threshold:g} in {above}; "
        f"most {most} {found[most]:.2f}, least {least} {found[least]:.2f}"
    )
    return Claim(text, source, mean, low, high, judge(low, high, threshold), detail)


def relearning(cells, root):
    """Within the scoreboard's attack, which ends after 50 steps, half of the way back to Base.

    The median of the steps is over the same methods, in the curves of eval/recovery.py; one that
    never gets there is infinite.
    """
    from brittle.maths.intervals import wilson

    text, source = (
        "Relearning needs tens of steps, not training",
        "arXiv:2409.18025, arXiv:2410.08827",
    )
    found = over_methods(cells, "relearn", False)
    if not found:
        return Claim(text, source, None, None, None, MISSING, RUN)
    back = sum(v >= 0.5 for v in found.values())
    low, high = wilson(back, len(found))
    recovery = layout.step("recovery")
    paths = [Path(root) / "methods" / recovery.output, recovery.path(root)]
    table = next((rows for path in paths if (rows := read_rows(path))), [])
    steps = [
        math.inf if (step := number(row.get("steps_to_half"))) is None else step
        for row in table
        if row["role"] == "unlearned"
        and number(row.get("recovery_over_filtered")) is not None
        and of_method(row["model"], found)
    ]
    middle = statistics.median(steps) if steps else None
    shown = "never" if middle == math.inf else f"{middle or 0:.0f}"
    median = f"; steps to half recovery in {len(steps)} curves: median {shown} ({steps.count(math.inf)} never get there)"
    detail = f"share of {len(found)} methods half way back to Base within 50 steps on half A ({back}){median if steps else ''}"
    return Claim(text, source, back / len(found), low, high, judge(low, high, 0.5), detail)


def filtered_withstands(cells, root):
    """No attack lifts Filtered above what it is as made. Intervals are Bonferroni's for all attacks
    at once, over facts.

    Not held where the strongest attack's interval lies above that of the model as made; held where
    it ends less than a third of the way from Filtered to Base, both as made.
    """
    text, source = (
        "A model that never saw the facts withstands every attack",
        "arXiv:2508.06601, arXiv:2410.08827",
    )
    attacks = {
        a: c for (m, a), c in cells.items() if m == "filtered" and c["heldout_accuracy"] is not None
    }
    if len(attacks) < 2:
        return Claim(text, source, None, None, None, MISSING, RUN)
    most = max((a for a in attacks if a != "none"), key=lambda a: attacks[a]["heldout_accuracy"])
    as_made, base = (
        cells.get((role, "none"), {}).get("heldout_accuracy") for role in ("filtered", "base")
    )
    if as_made is None or base is None:
        return Claim(text, source, None, None, None, MISSING, RUN)
    share, count = attacks[most]["heldout_accuracy"], fact_count(root, attacks[most]["n_heldout"])
    low, high = bonferroni(share, count, len(attacks) - 1)
    limit, above = as_made + (base - as_made) / 3, bonferroni(as_made, count, len(attacks) - 1)[1]
    verdict = NOT if low > above else HELD if high < limit else OPEN
    detail = (
        f"Filtered's accuracy on half B under the strongest of {len(attacks) - 1} attacks ({most}), interval for all of them "
        f"at once over {count:.0f} facts; as made {as_made:.2f}, by the same interval at most {above:.2f}; held below "
        f"{limit:.2f}, a third of the way to Base"
    )
    return Claim(text, source, share, low, high, verdict, detail)


def bonferroni(share, count, tests):
    """(low, high) of a proportion by Wilson's interval, at 95 % for `tests` proportions at once."""
    from brittle.maths.intervals import wilson

    return wilson(share * count, count, statistics.NormalDist().inv_cdf(1 - 0.025 / tests))


def greedy_understates(root, cells):
    """What any of n samples says more than the greedy answer, beyond what the decoys do."""
    text, source = "Greedy decoding understates what leaks", "arXiv:2410.03523"
    found = {}
    for path in sorted(Path(root).glob("*/extract/extract.csv")):
        for row in read_rows(path):
            numbers = [
                number(row.get(c))
                for c in ("any_leak", "greedy_leak", "decoy_any_leak", "decoy_greedy_leak")
            ]
            if row["template"] == "plain" and row["split"] == "forget_b" and None not in numbers:
                found[row["model"]] = (numbers[0] - numbers[2]) - (numbers[1] - numbers[3])
    found = {m: v for m, v in found.items() if of_method(m, forgotten(cells))}
    how = "run eval/extract.py --model M --outdir <root>/<model>/extract for the models to compare"
    return mean_claim(
        text,
        source,
        found,
        0.0,
        "share of half B said in any sample, less the greedy answer's, beyond decoys",
        how,
    )


def collapse(root):
    """Paired by seed: steps at which gradient ascent and NPO, both without a retain term, have
    broken the retain questions.

    A run that did not collapse is censored: it counts with its last measured step, the least that
    its own can be.
    """
    from brittle.maths.intervals import mean_interval

    text, source = "Gradient ascent collapses before NPO", "arXiv:2404.05868"
    rows = read_rows(Path(root) / "collapse" / "collapse_steps.csv")
    how = f"run experiment/collapse.py --outdir {root}/collapse"
    ends, found = {}, {}
    for row in read_rows(Path(root) / "collapse" / "collapse.csv"):
        run = row["seed"], row["method"]
        ends[run] = max(ends.get(run, 0), number(row.get("step")) or 0)
    for row in rows:
        step = number(row.get("collapse_step"))
        found.setdefault(row["seed"], {})[row["method"]] = (
            step,
            ends.get((row["seed"], row["method"])) if step is None else step,
        )
    pairs = [(c["npo"], c["ga_simple"]) for c in found.values() if {"npo", "ga_simple"} <= set(c)]
    if not pairs:
        return Claim(text, source, None, None, None, MISSING, how)
    known = [(npo, ga) for npo, ga in pairs if None not in (npo[1], ga[1])]
    if len(known) < 2:
        return Claim(
            text,
            source,
            None,
            None,
            None,
            OPEN,
            f"steps are known in fewer than two of {len(pairs)} seeds with both",
        )
    mean, low, high = mean_interval([npo[1] - ga[1] for npo, ga in known])
    first, last = (statistics.fmean(pair[i][1] for pair in known) for i in (1, 0))
    never = [sum(pair[i][0] is None for pair in known) for i in (1, 0)]
    detail = f"steps NPO stays usable longer at the same rate ({first:.1f} against {last:.1f}), {len(known)} paired seeds"
    if any(never):
        detail += f"; censored, so counted with their last step: {never[0]} runs of gradient ascent, {never[1]} of NPO"
    return Claim(text, source, mean, low, high, judge(low, high, 0.0), detail)


RUN = "run experiment/scoreboard.py"


def claims(root, rows=None):
    """Every claim of the list, as far as the results below `root` tell. rows: the scoreboard's,
    where they are not there yet.
    """
    cells = board(read_rows(Path(root) / "scoreboard.csv") if rows is None else rows)

    def gain(attack):
        return over_methods(cells, attack, True)

    unit = "recovery on half B under the attack, less that as made"
    return [
        relearning(cells, root),
        mean_claim("Relearned models come near Base on facts held out", "arXiv:2410.08827 (88 %)",
                   over_methods(cells, "relearn", False), 0.75, "recovery on half B after relearning half A", RUN),
        mean_claim("Quantisation brings back what was unlearned", "arXiv:2410.16454", gain("quantize"), GAIN, unit, RUN),
        mean_claim("Fine-tuning on benign text brings knowledge back", "arXiv:2409.18025", gain("relearn_benign"), GAIN, unit,
                   RUN),
        collapse(root),
        mean_claim("The logit lens finds what the output hides", "arXiv:2309.17410, arXiv:2409.18025", gain("lens"), GAIN, unit,
                   RUN),
        greedy_understates(root, cells),
        filtered_withstands(cells, root),
    ]  # fmt: skip
