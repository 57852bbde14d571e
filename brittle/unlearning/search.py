"""A search for each method's settings: Optuna proposes, every method has the same budget.

This file knows no model: an `objective` makes and measures one (brittle/unlearning/bench.py does).
Trials are kept in an SQLite file as they end, so a search goes on where it was killed. It then
finds what it would have found: the sampler's seed follows from the search's seed, the method and
how many trials of it there are.

The sampler is TPE (Bergstra et al. 2011, NeurIPS), the pruner the median rule (Golovin et al. 2017,
Google Vizier): a trial ends early where its score after a quarter, a half or three quarters of its
steps is worse than the median of its method's earlier trials there, or where the model has
collapsed. The first trial of a method has its default settings and is never pruned. So what is
chosen is at least as good as they are.
"""

import hashlib
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.base.knobs import knobs, resolve_blocks, searched, show
from brittle.methods import method_class
from brittle.training.settings import Settings
from brittle.unlearning.goal import BROKEN, TrialMeasures

REFUSALS = 20  # combinations in a row that a method refuses before the search gives up on it
DIGITS = 3  # significant digits of a number that is tried: what is written down is what was tried


class Axis(NamedTuple):
    """One setting that is searched: its name, where, and its default."""

    name: str
    scale: str  # log, linear or choices
    low: float
    high: float
    choices: tuple
    default: object

    @property
    def whole(self):
        return isinstance(self.default, int)


def axes(method, defaults, blocks, one_pass):
    """[Axis] of what a method's settings and knobs say of their ranges.

    defaults: job.Defaults, which every range is widened to take in. blocks: how many the model has.
    one_pass: optimizer steps of a pass over the forget texts, from which steps are counted where
    the defaults say nothing of them. A default that names a block which is not there is left out.
    """
    cls = method_class(method)
    plain = {spec.name: spec.default for spec in fields(Settings)}
    listed = []
    for name, search in searched(Settings).items():
        default = defaults.settings.get(name, plain[name])
        if name == "steps" and "steps_per_layer" in defaults.knobs:
            continue
        if name == "steps" and "steps" not in defaults.settings:
            default, search = one_pass, search._replace(low=1, high=10)
        listed.append(make_axis(name, search, default))
    for name, search in searched(cls).items():
        default = defaults.knobs.get(name, knobs(cls)[name].default)
        if search.scale == "choices":
            texts = [show(choice) for choice in (default, *search.choices)]
            if knobs(cls)[name].metadata["blocks"]:
                texts = [resolve_blocks(cls, {name: text}, blocks)[name] for text in texts]
                texts = [t for t in texts if max(map(int, t.split(","))) < blocks]
            listed.append(Axis(name, "choices", 0, 0, tuple(dict.fromkeys(texts)), texts[0]))
        else:
            listed.append(make_axis(name, search, default))
    return [axis for axis in listed if axis]


def make_axis(name, search, default):
    """The Axis of a range of numbers; None where no factor of a default of 0 is another number."""
    low, high, scale = search.low, search.high, search.scale
    if scale == "factor":
        low, high, scale = low * default, high * default, "log"
    if scale == "log" and not default > 0:
        return None
    if isinstance(default, int):
        low, high = max(1, round(low)), max(1, round(high))
    return Axis(name, scale, min(low, default), max(high, default), (), default)


def draw(trial, axis):
    """The value that an Optuna trial proposes for the axis."""
    if axis.scale == "choices":
        return trial.suggest_categorical(axis.name, axis.choices)
    is_log = axis.scale == "log"
    if axis.whole:
        return trial.suggest_int(axis.name, axis.low, axis.high, log=is_log)
    value = trial.suggest_float(axis.name, axis.low, axis.high, log=is_log)
    return float(f"{value:.{DIGITS}g}")


class Refused(Exception):
    """A combination of settings that the method refuses before it trains. It costs no budget."""


class Broken(Exception):
    """A training that broke off: a loss that is no number, say."""


class Pruned(Exception):
    """A trial that was ended on its way; its last measures are those of its report."""


@dataclass
class Budget:
    """Of each method: `trials`, or seconds of them where `trials` is None."""

    trials: int | None = None
    seconds: float = 0.0

    def used(self, rows):
        return len(rows) if self.trials else sum(row["seconds"] for row in rows)

    def left(self, rows):
        return self.used(rows) < (self.trials or self.seconds)


@dataclass
class Searcher:
    """Trials of several methods in one SQLite file.

    file       where the trials are kept; None keeps them in memory
    spaces     {method: [Axis]}
    objective  objective(method, {name: value}, report) -> TrialMeasures. It calls
               report(quarter, TrialMeasures) on its way, which raises Pruned, and raises Refused or
               Broken itself.
    score      score(TrialMeasures) -> number, the lower the better
    about      what else determines a trial: a file with trials of another search is refused
    """

    file: Path | None
    spaces: dict
    objective: Callable
    score: Callable
    seed: int = 0
    about: dict = field(default_factory=dict)

    def run(self, budget, on_end=lambda method, row: None):
        """Try until each method has used its budget, always the method that has used least.

        on_end is told of each trial. Returns the rows of all trials (see `rows`).
        """
        studies = self.open()
        while True:
            counted = {name: counted_rows(study) for name, study in studies.items()}
            due = [name for name in studies if budget.left(counted[name])]
            if not due:
                return [row for name in studies for row in rows(name, studies[name])]
            name = min(due, key=lambda method: budget.used(counted[method]))
            on_end(name, self.step(name, studies[name], len(counted[name])))

    def open(self):
        """{method: its Optuna study}, as far as the file has it. Raises UserError for another
        search's file.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = f"sqlite:///{self.file.resolve()}" if self.file else None
        studies = {}
        for name, space in self.spaces.items():
            study = optuna.create_study(
                storage=storage, study_name=name, load_if_exists=True, direction="minimize"
            )
            about = {**self.about, "seed": self.seed, "space": [list(axis) for axis in space]}
            self.check_same(name, study, json.loads(json.dumps(about)))
            for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
                # a process that was killed had begun it
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            studies[name] = study
        return studies

    def check_same(self, name, study, about):
        """Raise UserError where the study's trials are of another search; else remember which."""
        earlier = study.user_attrs.get("about")
        if earlier is None:
            study.set_user_attr("about", about)
        elif earlier != about:
            keys = {*earlier, *about}
            differ = sorted(key for key in keys if earlier.get(key) != about.get(key))
            raise UserError(
                f"{self.file} holds trials of {name} of another search: {', '.join(differ)} "
                "differed. Choose another --outdir, or delete that file."
            )

    def step(self, name, study, count):
        """One trial that counts; refused combinations before it do not. Returns its row."""
        import optuna

        state = optuna.trial.TrialState
        for attempt in range(REFUSALS):
            study.sampler = self.sampler(name, count, attempt)
            if not count and not attempt:
                defaults = {axis.name: axis.default for axis in self.spaces[name]}
                study.enqueue_trial(defaults, skip_if_exists=True)
            trial = study.ask()
            values = {axis.name: draw(trial, axis) for axis in self.spaces[name]}
            started = time.monotonic()
            report = Report(study, trial, self.score, may_prune=count > 0)
            outcome, end, why = None, state.COMPLETE, ""
            try:
                outcome = self.objective(name, values, report)
            except Refused as error:
                end, why = state.FAIL, str(error)
            except Broken as error:
                why = str(error)
            except Pruned:
                outcome, end = report.last, state.PRUNED
            value = self.score(outcome) if outcome else BROKEN
            row = {
                "values": {key: show(value) for key, value in values.items()},
                "measures": outcome._asdict() if outcome else None,
                "score": value,
                "quarter": report.quarter if end == state.PRUNED else 4 * bool(outcome),
                "seconds": round(time.monotonic() - started, 2),
                "why": why,
            }
            trial.set_user_attr("row", row)
            study.tell(trial, value if end == state.COMPLETE else None, state=end)
            if end != state.FAIL:
                return rows(name, study)[-1]
        raise UserError(f"{name} refused {REFUSALS} combinations in a row, the last one: {why}")

    def sampler(self, name, count, attempt):
        """TPE with the seed of this trial, so that a search goes on as if it had not stopped."""
        import optuna

        digest = hashlib.sha256(f"{self.seed} {name} {count} {attempt}".encode()).digest()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=int.from_bytes(digest[:4], "big"), n_startup_trials=4, constant_liar=False
            )


class Report:
    """What a trial tells on its way: measures after each quarter of its steps."""

    def __init__(self, study, trial, score, *, may_prune):
        import optuna

        # the second trial is compared with the defaults already
        self.pruner = optuna.pruners.MedianPruner(n_startup_trials=3)
        self.study, self.trial, self.score = study, trial, score
        self.may_prune = may_prune
        self.last, self.quarter = None, 0

    def __call__(self, quarter, outcome):
        """Raises Pruned where the trial is not worth its remaining steps."""
        self.last, self.quarter = outcome, quarter
        self.trial.report(self.score(outcome), quarter)
        if not self.may_prune:
            return
        frozen = self.study.get_trials(deepcopy=False)[self.trial.number]
        if outcome.signs or self.pruner.prune(self.study, frozen):
            raise Pruned


def rows(method, study):
    """A dict a trial that ended, in the order of the trials.

    state is complete, pruned, broken or refused; values are {name: text}, measures TrialMeasures or
    None; quarter says how many quarters of the steps were measured.
    """
    import optuna

    names = {
        optuna.trial.TrialState.COMPLETE: "complete",
        optuna.trial.TrialState.PRUNED: "pruned",
        optuna.trial.TrialState.FAIL: "refused",
    }
    listed = []
    for trial in study.get_trials(deepcopy=False):
        row = trial.user_attrs.get("row")
        if trial.state not in names or row is None:
            continue  # waits, runs, or was killed
        state, measures = names[trial.state], row["measures"]
        if measures:
            measures = TrialMeasures(**measures)
        elif state == "complete":
            state = "broken"
        listed.append({**row, "method": method, "state": state, "measures": measures})
    return listed


def counted_rows(study):
    """The rows of a study's trials that its budget counts."""
    return [row for row in rows("", study) if row["state"] != "refused"]


def best(listed):
    """{method: its complete row with the lowest score}, the first among equals."""
    chosen = {}
    for row in listed:
        earlier = chosen.get(row["method"])
        if row["state"] == "complete" and (earlier is None or row["score"] < earlier["score"]):
            chosen[row["method"]] = row
    return chosen
