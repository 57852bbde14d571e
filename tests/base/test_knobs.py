"""Knobs: what is typed comes back as it was shown, and what is no value is refused in words that
name the flag.
"""

import inspect
from dataclasses import dataclass

import pytest
import typer
from typer.testing import CliRunner

from brittle.base.errors import UserError
from brittle.base.knobs import all_knobs, build, knob, parse, show, typed_options, values


@dataclass
class Sample:
    seed: int = 0
    block_id: tuple = knob((9, 19), "Blocks.", low=0, noun="block numbers")
    scale: tuple = knob((0.5, 1.0), "Scales.", low=0, high=2)
    kind: tuple = knob(("row",), "Kinds: row, 8.")
    size: int = knob(3, "Size.", low=1)
    word: str = knob("a", "Word.", choices=("a", "b"))


@pytest.mark.parametrize("name", ["block_id", "scale", "kind", "size", "word"])
def test_a_default_survives_its_own_text(name):
    default = getattr(Sample(), name)
    assert parse(Sample, name, show(default)) == default
    assert build(Sample, "sample", {name: default}) == Sample()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("block_id", "low", "--block-id low: block numbers such as 9,19 wanted"),
        ("block_id", "", "--block-id : block numbers"),
        ("block_id", "1,-1", "--block-id 1,-1: must be at least 0"),
        ("scale", "0.1,nan", "--scale 0.1,nan: a finite number"),
        ("scale", "0.1,3", "must be between 0 and 2"),
        ("size", "1.5", "--size 1.5: a whole number"),
        ("size", "0", "must be at least 1"),
        ("word", "c", "--word c: choose a or b"),
    ],
)
def test_what_is_no_value_is_refused(name, text, words):
    with pytest.raises(UserError) as refused:
        parse(Sample, name, text)
    assert words in str(refused.value)


def test_build_knows_its_own_knobs():
    sample = build(Sample, "sample", {"scale": [0.1, 0.2], "size": "4"}, seed=7)
    assert sample == Sample(seed=7, scale=(0.1, 0.2), size=4)
    assert values(sample) == {
        "block_id": (9, 19),
        "scale": (0.1, 0.2),
        "kind": ("row",),
        "size": 4,
        "word": "a",
    }
    with pytest.raises(UserError, match="sample does not read --seed; it reads --block-id, --sc"):
        build(Sample, "sample", {"seed": 1})


def test_help_of_several_classes_tells_whose_default_it_is():
    @dataclass
    class Other:
        size: int = knob(5, "Size.")

    helps = all_knobs({"sample": Sample, "other": Other, "third": Other})
    assert helps["size"] == "Size. [3: sample; 5: other, third]"
    assert helps["word"] == "Word. One of: a, b. [a: sample]"


def test_typed_options_have_types_defaults_and_bounds():
    seen = {}

    def main(**arguments):
        seen.update(arguments)

    options = typed_options(Sample, {"scale": (0.0, 0.5)})
    main.__signature__ = inspect.Signature(options)
    main.__annotations__ = {option.name: option.annotation for option in options}
    app = typer.Typer()
    app.command()(main)
    run = CliRunner().invoke
    assert run(app, []).exit_code == 0
    assert tuple(seen["scale"]) == (0.0, 0.5) and seen["size"] == 3
    assert run(app, ["--scale", "1", "--scale", "2", "--size", "9"]).exit_code == 0
    assert list(seen["scale"]) == [1.0, 2.0] and seen["size"] == 9
    assert run(app, ["--size", "0"]).exit_code == 2
    assert run(app, ["--scale", "many"]).exit_code == 2
