"""The budget of KL on neutral text: where training ends, and on which weights."""

import json
import math

import pytest
import torch

from brittle.base.errors import UserError
from brittle.training.kl_budget import SHARE, KLBudget, Landing, Line, bisect, bracket
from brittle.training.loop import make_accelerator, train
from brittle.training.settings import Settings

BUDGET = 0.03
HIGH = Landing(1.0, math.inf)


@pytest.mark.parametrize("scale", [1e-4, 0.7, 3e5])
def test_a_length_is_bracketed_by_factors_of_eight_and_bisected(scale):
    asked = []

    def kl_at(share):
        asked.append(share)
        return scale * share**2

    low, high = bracket(kl_at, BUDGET)
    assert low.kl <= BUDGET < high.kl and high.share == pytest.approx(8 * low.share)
    landing = bisect(kl_at, BUDGET, low, high)
    assert SHARE * BUDGET <= landing.kl <= BUDGET and len(asked) < 30


def test_lines_without_a_crossing():
    assert bracket(lambda share: 0.0, BUDGET)[1] is None
    assert bracket(lambda share: math.nan, BUDGET)[0] == Landing(0.0, 0.0)
    jump = bisect(lambda share: 0.0 if share < 0.3 else math.nan, BUDGET, Landing(0, 0), HIGH)
    assert jump.share == pytest.approx(0.3) and jump.kl == 0


def budget_of(model, budget=BUDGET):
    """A budget of the squared distance of the weights from 1."""
    return KLBudget(model, lambda: float((model.weight - 1).square().sum()), budget)


def line_model(weight=1.0):
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(weight)
    return model


def run(lr, budget=BUDGET):
    """(model, history) of steps of length lr, away from 1, under a budget."""
    model = line_model()
    hook = budget_of(model, budget)
    settings = Settings(steps=9, lr=lr, optimizer="sgd", schedule="constant", grad_clip=0)
    terms = lambda step, micro, progress: {"forget": -model.weight.sum()}  # noqa: E731
    accelerator = make_accelerator(torch.device("cpu"))
    history = train(model, terms, settings, accelerator, hooks=[hook], label=None)
    return model, history, hook


def test_training_ends_in_the_step_that_breaks_the_budget():
    model, history, hook = run(0.05)
    kl = float((model.weight - 1).square())
    assert SHARE * BUDGET <= kl <= BUDGET
    # .05, .1, .15 lie within, .2 does not
    assert [row["step"] for row in history] == [1, 2, 3, 4]
    assert history[-1]["neutral_kl"] == pytest.approx(kl) == pytest.approx(hook.landing.kl)
    assert model.weight.item() == pytest.approx(1.15 + 0.05 * hook.landing.share, abs=1e-6)


def test_a_budget_that_is_not_used_up_changes_nothing():
    model, history, hook = run(0.01)
    assert model.weight.item() == pytest.approx(1.09) and len(history) == 9
    assert "not used up" in hook.finish()


def test_the_first_step_may_not_break_it():
    with pytest.raises(UserError, match=r"the first step moves neutral text by 0\.25 nats already"):
        run(0.5)


@pytest.mark.parametrize("one_step", [True, False])
def test_what_is_made_at_the_end_is_put_on_the_line_from_the_start(one_step):
    for end, reached in ((1.001, one_step), (1.2, True), (9.0, True)):
        model = line_model()
        hook = budget_of(model)
        hook.keep_start()
        model.weight.data.fill_(end)
        hook.shorten(one_step=one_step)
        kl = float((model.weight - 1).square())
        if reached:
            assert SHARE * BUDGET <= kl <= BUDGET
        else:
            assert model.weight.item() == pytest.approx(end)


def test_a_step_below_rounding_is_lengthened_exactly():
    """What the weights' difference lost, the method's own step still says."""
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.data.fill_(1)
    hook = KLBudget(model, lambda: float((model.weight - 1).square().sum()), BUDGET)
    hook.keep_start()
    step = torch.tensor([[1e-10, 2e-10]])
    model.weight.data.add_(step)
    assert not Line([model.weight], hook.before).moves()
    hook.shorten(one_step=True, step={"weight": step})
    first, second = (model.weight - 1)[0].tolist()
    assert second == pytest.approx(2 * first, rel=1e-4)
    assert SHARE * BUDGET <= first**2 + second**2 <= BUDGET


def test_what_does_not_move_stays():
    model = line_model()
    hook = budget_of(model)
    hook.keep_start()
    hook.shorten(one_step=True)
    assert model.weight.item() == 1 and hook.landing is None
    assert not Line([model.weight], hook.before).moves()


def unlearn(family, brief, root, method, *more):
    call = ["unlearn/unlearn.py", "--model", family.base, "--data", brief, "--root", root]
    call += ["--method", method, "--steps", "3", "--batch-size", "4", "--max-samples", "16"]
    return [*call, "--eval-split", "0", *more]


def test_the_command_lands_on_the_budget(family, brief, tmp_path, script):
    more = ("--task-scale", "50", "--kl-budget", "0.001")
    done = script(*unlearn(family, brief, tmp_path, "task_vector", *more))
    assert done.code == 0 and "KL budget 0.001 on neutral text" in done.out, done.err
    (record,) = tmp_path.glob("*/*/training_history.run.json")
    kl = json.loads(record.read_text(encoding="utf-8"))["settings"]["collapse"]["neutral_kl"]
    assert SHARE * 0.001 <= kl <= 0.001


def test_a_budget_that_the_first_step_breaks_leaves_nothing(family, brief, tmp_path, script):
    done = script(*unlearn(family, brief, tmp_path / "out", "ga", "--kl-budget", "1e-12"))
    assert done.code == 2 and "the first step moves neutral text" in done.err
    assert not (tmp_path / "out").exists()
