"""Controls: fine-tunes with a ΔW as long as that of an unlearned model.
A planted length is met exactly, and only what should be read is.
"""

import json

import pytest
import torch

from brittle.base.errors import UserError
from brittle.methods import CONTROLS, METHODS, controls
from brittle.models.load import load_model
from brittle.models.logprobs import nll
from support import started, tiny


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.ndim > 1])


@pytest.fixture
def control(family):
    """control(name) -> (the method, its model), of the length by which family's models differ."""

    def make(name):
        model = load_model(family.base)
        return started.start(name, model, like=family.filtered), model

    return make


def test_a_control_is_as_long_as_the_model_it_is_like_and_keeps_its_direction(control, family):
    rule, model = control("finetuned")
    start = flat(model)
    wanted = (flat(load_model(family.filtered)) - start).norm()
    assert rule.target == pytest.approx(float(wanted), rel=1e-5)
    step = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    rounds = []

    def loop(offset):
        rounds.append(offset)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.add_(step[name], alpha=0.4 * float(wanted) / length_of(step))
        return [{"step": 1}, {"step": 2}]

    history = rule.fit(loop)
    assert rounds == [0, 1, 2] and [row["step"] for row in history] == [1, 2, 3, 4, 5, 6]
    moved = flat(model) - start
    assert float(moved.norm()) == pytest.approx(float(wanted), rel=1e-5)
    planted = torch.cat([s.flatten() for s in step.values() if s.ndim > 1])
    assert float(torch.cosine_similarity(moved, planted, dim=0)) == pytest.approx(1, abs=1e-4)


def length_of(step):
    return float(torch.cat([s.flatten() for s in step.values() if s.ndim > 1]).norm())


def test_one_that_does_not_get_there_is_said(control):
    rule, _ = control("added")
    with pytest.raises(UserError, match=r"after 10 trainings the weights have moved 0, and those"):
        rule.fit(lambda offset: [{"step": 1}])


def test_what_is_learned():
    """finetuned reads the retain batch alone, added both; so neither lowers a forget answer's p."""
    model, data = tiny.model(), tiny.Data()
    forget, retain = started.batches(data)
    rule, more = controls.Finetuned(), controls.Added()
    rule.model = more.model = model
    assert rule.losses(None, retain, 0)["retain"] == nll(model, retain)
    terms = more.losses(forget, retain, 0)
    assert terms["added"] == nll(model, forget) and terms["retain"] == nll(model, retain)


def test_controls_are_no_methods_and_want_a_model_of_the_same_size(script, family, brief, tmp_path):
    assert not set(CONTROLS) & set(METHODS)
    call = ["unlearn/unlearn.py", "--model", family.base, "--method", "finetuned"]
    call += ["--data", brief, "--root", tmp_path, "--device", "cpu"]
    done = script(*call)
    assert done.code == 2 and "give --like MODEL" in done.err and done.err.count("\n") == 1
    other = tmp_path / "other"
    tiny.model().save_pretrained(other)
    done = script(*call, "--like", other)
    assert done.code == 2 and "is no model of the same architecture and size" in done.err
    assert not (tmp_path / "base__finetuned").exists()


def test_the_command_makes_one_and_its_record_names_the_model(script, family, brief, tmp_path):
    call = ["unlearn/unlearn.py", "--model", family.base, "--method", "finetuned"]
    call += ["--data", brief, "--root", tmp_path, "--device", "cpu", "--lr", "1e-2"]
    done = script(*call, "--like", family.filtered, "--steps", "8", "--batch-size", "4")
    assert done.code == 0, done.err
    assert "nothing was unlearned" not in done.out
    home = tmp_path / "mini-base__finetuned" / "unlearned_model"
    start, made = flat(load_model(family.base)), flat(load_model(home))
    wanted = (flat(load_model(family.filtered)) - start).norm()
    assert float((made - start).norm()) == pytest.approx(float(wanted), rel=1e-4)
    record = json.loads((home / "training_history.run.json").read_text(encoding="utf-8"))
    assert record["models"]["like"] == family.filtered
