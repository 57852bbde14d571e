"""A model is not its own twin: weights are compared by content, not by path or file."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from brittle.base.errors import UserError
from brittle.models.twin import check_twin, likeness


@pytest.fixture
def copy(family, tmp_path):
    return shutil.copytree(family.base, tmp_path / "another_name")


def test_a_copy_under_another_name_is_the_same_model(family, copy):
    assert likeness(family.base, copy) and not likeness(family.base, family.filtered)
    for model in (family.base, str(copy)):
        with pytest.raises(UserError, match=r"has the weights of --base .* byte for byte"):
            check_twin(family.base, model, [])
    with pytest.raises(UserError, match="has the weights of --unlearned"):
        check_twin(family.base, family.filtered, [copy, family.filtered])
    check_twin(family.base, family.filtered, [copy])  # an unlearned model may be Base: it failed
    for nothing in (None, ""):
        check_twin(family.base, nothing, [family.base])


def test_how_the_tensors_are_stored_makes_no_difference(family, copy):
    """In another order, with other metadata, in two files behind an index."""
    path = copy / "model.safetensors"
    tensors = dict(reversed(load_file(path).items()))
    path.unlink()
    names = list(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    for shard, held in shards.items():
        save_file({n: tensors[n].clone() for n in held}, copy / shard, {"made": "elsewhere"})
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert likeness(family.base, copy)
    (copy / "b.safetensors").unlink()
    assert not likeness(family.base, copy)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_cast_copy_is_the_same_model(family, copy, dtype):
    """Saved in half precision it passed as a twin; one number that rounding does not explain is
    enough to be another model, and a copy of the twin is none of Base.
    """
    path = copy / "model.safetensors"
    tensors = {name: t.to(getattr(torch, dtype)) for name, t in load_file(path).items()}
    save_file(tensors, path)
    for pair in ((family.base, copy), (copy, family.base)):
        assert likeness(*pair) == f"rounded to {dtype}"
    with pytest.raises(UserError, match=rf"has the weights of --base .*, rounded to {dtype}: "):
        check_twin(family.base, str(copy), [])
    assert not likeness(family.filtered, copy)
    last = tensors[sorted(tensors)[-1]].view(torch.int16)
    last.view(-1)[-1] ^= 1
    save_file(tensors, path)
    assert not likeness(family.base, copy)


@pytest.mark.parametrize("change", ["one bit", "integers", "name", "none"])
def test_one_change_is_enough(family, copy, change):
    path = copy / "model.safetensors"
    tensors = load_file(path)
    last = sorted(tensors)[-1]
    if change == "one bit":
        bits = tensors[last].view(torch.int32)
        bits.view(-1)[-1] ^= 1
    elif change == "integers":
        tensors[last] = tensors[last].view(torch.int32)
    elif change == "name":
        tensors[f"{last}.more"] = tensors.pop(last)
    save_file(tensors, path) if change != "none" else path.unlink()
    assert not likeness(family.base, copy)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("experiment/pipeline.py", ["--dry-run"]),
        ("experiment/report.py", []),
        ("experiment/scoreboard.py", []),
        ("eval/recovery.py", []),
        ("eval/significance.py", []),
        ("unlearn/create_all.py", ["--dry-run"]),
    ],
)
def test_every_script_that_compares_refuses_it(path, more, family, copy, data, tmp_path, script):
    call = [path, "--base", family.base, "--filtered", copy, "--root", tmp_path / "out", *more]
    if path != "unlearn/create_all.py":
        call += ["--unlearned", family.filtered]
    done = script(*call)
    assert done.code == 2 and not done.out
    assert f"error: --filtered {copy} has the weights of --base {family.base}" in done.err
