"""Options that several scripts share."""

import inspect
from pathlib import Path

import pytest

from brittle.base import options


@options.spread
def main(pair: options.TextPair, count: int = 3):
    """What it says in --help."""
    return pair, count


def test_fields_of_a_pair_are_options_in_its_place():
    parameters = inspect.signature(main).parameters
    assert list(parameters) == ["model_a", "model_b", "outdir", "forget", "retain", "count"]
    assert parameters["outdir"].annotation is options.Outdir
    assert parameters["retain"].default == Path("data/mini/retain.txt")
    assert parameters["model_a"].default is inspect.Parameter.empty
    assert main.__doc__ == "What it says in --help."


def test_fields_by_position_and_by_name_make_the_pair():
    pair, count = main("a", "b", Path("out"), retain=Path("r.txt"))
    wanted = options.TextPair("a", "b", Path("out"), Path("data/mini/forget.txt"), Path("r.txt"))
    assert pair == wanted and count == 3
    assert main("a", "b", outdir=Path("out"), count=5)[1] == 5
    with pytest.raises(TypeError, match="outdir"):
        main("a", "b")
