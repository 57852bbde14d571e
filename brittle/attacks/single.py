"""The command line of a single attack: what eval/noise.py and its like share.

The flags are the attack's knobs, with its defaults. Such a script draws a curve over the attack's
strengths. So its default has one strength more than the attack's own, the one that leaves the model
as it is (`unchanged`), and every variant is asked every question, whichever of them would be
chosen.
"""

import dataclasses
import inspect
from dataclasses import fields
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from brittle.base import options
from brittle.base.knobs import build, knobs, typed_options, values
from brittle.data.examples import Reading

Every = Annotated[
    int | None,
    typer.Option(
        "--every",
        min=1,
        help="Steps between measurements (those of the scoreboard); the last is always measured.",
    ),
]
MaxItems = Annotated[
    int, typer.Option(min=5, help="Items a split to measure on, but for half B: all of it.")
]


class Curve(NamedTuple):
    """What the figure shows: accuracy over column `x`, one panel a value of column `by`."""

    x: str
    title: str
    label: str
    by: str | None = None


@dataclasses.dataclass
class SingleAttack:
    """An attack's script. Its results are <outdir>/<name>.csv and <outdir>/<name>.png.

    purpose    what `--help` says
    attack     the dataclass of the attack
    columns    of the CSV, behind `model` and before those of `meter.COLUMNS`
    unchanged  {knob: the value that leaves the model as it is}, tried before the attack's own
    start      for an attack that has steps: is the model measured before the first one, too
    base_help  the help of --model-base, where the attack has a use for the model before unlearning
    """

    name: str
    purpose: str
    attack: type
    columns: tuple
    curve: Curve
    unchanged: dict = dataclasses.field(default_factory=dict)
    start: bool = False
    base_help: str | None = None

    def has_steps(self):
        """Is the attack measured after some of its steps?"""
        return "at" in {field.name for field in dataclasses.fields(self.attack)}

    def csv_columns(self):
        """The columns of the attack's CSV."""
        from brittle.attacks import meter

        return ["model", *self.columns, *meter.COLUMNS]

    def command(self):
        """The script's `main`, for brittle.base.command.run."""

        def main(**arguments):
            self.run(**arguments)

        main.__doc__ = self.purpose
        main.__signature__ = inspect.Signature(self.parameters())
        main.__annotations__ = {p.name: p.annotation for p in self.parameters()}
        return main

    def parameters(self):
        """[inspect.Parameter]: the attack's own flags, between those that all such scripts have."""
        own = knobs(self.attack)
        defaults = {name: (value, *own[name].default) for name, value in self.unchanged.items()}
        parameters = [
            _parameter("model", options.Model),
            _parameter("outdir", options.Outdir),
            _parameter("data", options.Data, Path("data/mini")),
            *typed_options(self.attack, defaults, "The attack"),
        ]
        if self.has_steps():
            parameters.append(_parameter("every", Every, None))
        if self.base_help:
            option = typer.Option("--model-base", help=self.base_help)
            parameters.append(_parameter("base", Annotated[str | None, option], None))
        return [
            *parameters,
            _parameter("max_items", MaxItems, 200),
            _parameter("batch_size", options.BatchSize, 256),
            *_reading_flags(),
            _parameter("seed", options.Seed, 0),
            _parameter("device", options.Device, "auto"),
            _parameter("dtype", options.Dtype, "float32"),
        ]

    def build(self, arguments):
        """The attack of a command line. Raises UserError for settings that are none."""
        given = {name: arguments[name] for name in knobs(self.attack)}
        reading = Reading(**{field.name: arguments[field.name] for field in fields(Reading)})
        own = {"seed": arguments["seed"], "reading": reading}
        attack = build(self.attack, self.name, given, **own)
        if self.has_steps():
            steps, every = attack.steps, arguments["every"]
            measured = range(every, steps, every) if every else attack.at
            first = {0} if self.start else set()
            attack.at = tuple(sorted(first | {step for step in measured if step < steps} | {steps}))
        attack.check()
        return attack

    def run(self, model, outdir, data, base=None, **arguments):
        """Attack the model, write the CSV and the figure."""
        from brittle.attacks import figures, meter, session
        from brittle.base.layout import model_name
        from brittle.base.record import Run, say
        from brittle.models.find import check_pair, model_folder
        from brittle.models.load import load_model

        attack = self.build(arguments)
        folder = model_folder(model)
        models = {"model": str(folder)}
        if base:
            models["model_base"] = str(model_folder(base))
            check_pair(models["model_base"], folder)
        max_items, device, dtype = (arguments[name] for name in ("max_items", "device", "dtype"))
        attacked = session.AttackSession(
            folder, data, max_items, arguments["batch_size"], device, dtype, reading=attack.reading
        )
        settings = {**values(attack), "max_items": max_items, **attack.reading.about()}
        if self.has_steps():
            settings["at"] = attack.at
        with Run(outdir, attacked.files(), models, attack.seed, settings) as run:
            if base:
                attack.base = load_model(models["model_base"], device, dtype)
            rows = attacked.rows(attack, ["model", *self.columns])
            rows = [{**row, "model": model_name(model)} for row in rows]
            figure = figures.curves(rows, self.curve, model_name(model), attacked.chance())
            run.figure(figure, f"{self.name}.png")
            run.csv(f"{self.name}.csv", self.csv_columns(), rows)
        say(outdir / f"{self.name}.csv", meter.outcome(rows))


def _reading_flags():
    """How a chat model is asked: the flags of data.examples.Reading."""
    return [_parameter(f.name, f.type, f.default) for f in fields(Reading)]


def _parameter(name, annotation, default=inspect.Parameter.empty):
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
