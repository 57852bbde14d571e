"""Knobs: what is typed comes back as it was shown, and what is no value is refused in words that
name the flag.
"""

import inspect
from dataclasses import dataclass

import pytest
import typer
from typer.testing import CliRunner

from brittle.base.errors import UserError
from brittle.base.knobs import (
    all_knobs,
    build,
    knob,
    log_range,
    one_of,
    parse,
    resolve_blocks,
    searched,
    show,
    typed_options,
    values,
)
from brittle.methods import METHODS, method_class


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


# --- blocks as shares of the depth, and where a search looks


@dataclass
class Deep:
    seed: int = 0
    at: tuple = knob((7,), "Blocks.", low=0, blocks=True, search=one_of("1/4", "1/2"))
    order: str = knob("28:16:4", "Order.", blocks=True)
    ratio: float = knob(1.0, "No block.", search=log_range(0.1, 10))


@pytest.mark.parametrize(
    ("count", "blocks"), [(32, "7,9,19"), (64, "14,18,38"), (4, "1,1,2"), (1, "0,0,0")]
)
def test_a_share_of_the_depth_is_the_block_as_deep(count, blocks):
    given = resolve_blocks(Deep, {"at": ["7/32", "9/32", "19/32"]}, count)
    assert given == {"at": blocks}
    assert resolve_blocks(Deep, {"at": "32/32"}, count) == {"at": str(count - 1)}


def test_what_is_no_share_of_a_block_stays_as_it_was():
    given = {"at": (2,), "ratio": "1/2", "order": "3:1:1"}
    assert resolve_blocks(Deep, given, 4) == given
    ordered = resolve_blocks(Deep, {"order": "28/32:16/32:4/32"}, 4)
    assert ordered == {"order": "3:2:1"}  # a step of half a block would be none
    for text in ("3/2", "1/0"):
        with pytest.raises(UserError, match=rf"--at {text}: {text} is no share of the depth"):
            resolve_blocks(Deep, {"at": text}, 4)


def test_only_fields_with_a_range_are_searched():
    assert searched(Deep) == {"at": one_of("1/4", "1/2"), "ratio": log_range(0.1, 10)}


@pytest.mark.parametrize("name", METHODS)
def test_the_ranges_of_methods_are_values_that_their_knobs_take(name):
    cls = method_class(name)
    for key, search in searched(cls).items():
        ends = search.choices or (search.low, search.high)
        if search.scale == "factor":
            ends = [end * getattr(cls(), key) for end in ends]
        for given in (resolve_blocks(cls, {key: show(end)}, 4) for end in ends):
            build(cls, name, given)
        if search.scale in ("log", "linear"):
            assert search.low <= getattr(cls(), key) <= search.high
