"""Sequential unlearning: its schedules, its gradient filters, and what it refuses."""

import pytest
import torch

from brittle.base.errors import UserError
from brittle.base.knobs import build
from brittle.methods import method_class
from brittle.methods.sequential import phases
from brittle.methods.sequential.gradients import agreement, combine
from brittle.methods.wrappers import Wrappers
from support import tiny
from support.started import batches
from support.started import start_sequential as start


def test_ramps_at_the_start_the_middle_and_the_end():
    assert [phases.forget_factor(p) for p in (0, 0.5, 1)] == [1, 0.875, 0.75]
    assert [phases.retain_factor("zero", p) for p in (0, 0.5, 1)] == [0, 0.5, 1]
    assert [phases.retain_factor("quarter", p) for p in (0, 0.5, 1)] == [0.25, 0.625, 1]
    assert [phases.depth_factor(3.0, b, 28) for b in (28, 14, 0)] == [1, 2, 3]
    model, data = tiny.model(), tiny.Data()
    rule = start(model, data=data, remove_coef=2.0, forget_layer_scale=3.0, probe="live")
    raw = rule.losses(*batches(data), 0.0)["forget"].item() / 2
    for progress, factor in (
        (1 / 6, 0.875),
        (1 / 3, 2),
        (0.5, 2 * 0.875),
        (2 / 3, 3),
        (1.0, 3 * 0.75),
    ):
        assert rule.losses(*batches(data), progress)["forget"].item() == pytest.approx(
            2 * factor * raw, rel=1e-5
        )


def test_layers_and_phases():
    assert phases.parse_layers("28:16:4") == [28, 24, 20, 16]
    assert (
        phases.parse_layers("31:8:4") == phases.parse_layers("31:11:4") == [31, 27, 23, 19, 15, 11]
    )
    assert len(phases.parse_layers("31:1:2")) == 16 and phases.parse_layers("7:7:2") == [7]
    for steps in (7, 192, 1001):  # a step's phase is never a rounding error away
        rule = build(method_class("sequential"), "sequential", {"layers": "5:0:1"})
        total_steps, _ = rule.plan(steps, 9)
        assert total_steps == steps
        at = [rule.planned.at(s / steps) for s in range(steps)]
        assert [sum(k == phase for k, _ in at) for phase in range(6)] == rule.planned.lengths
        assert all(p == 0 for s, (k, p) in enumerate(at) if s == 0 or at[s - 1][0] != k)


def test_the_share_of_a_phase_that_is_done():
    planned = phases.Phases([2, 1], [4, 8])
    for step, expected in ((0, (0, 0)), (1, (0, 0.25)), (4, (1, 0)), (6, (1, 0.25)), (12, (1, 1))):
        assert planned.at(step / 12) == pytest.approx(expected), step


def test_deep_phases_may_be_longer_and_each_has_a_step():
    def lengths(steps, **knobs):
        rule = build(method_class("sequential"), "sequential", {"layers": "2:0:1", **knobs})
        rule.plan(steps, 4)
        return rule.planned.lengths

    assert lengths(60, deep_layer_step_scale=3.0) == [10, 20, 30]
    assert lengths(None, deep_layer_step_scale=3.0) == [4, 8, 12]
    assert lengths(3) == lengths(None, steps_per_layer=1) == [1, 1, 1]
    assert lengths(None, steps_per_layer=1, deep_layer_step_scale=0.1) == [1, 1, 1]
    data = tiny.Data(batch_size=2, micro_batches=2)
    said = phases.budget(phases.Phases([1, 0], [2, 1]), data)
    assert f"3 optimizer steps, 12 forget examples ({data.forget.tokens(12)} tokens)" in said


def test_a_phase_is_entered_once():
    """Where `phase` answers True the optimizers start anew: not at a further step of a phase."""
    rule = start(tiny.model())
    entered = [rule.phase(progress) for progress in (0.0, 0.1, 0.3, 0.34, 0.5, 0.9)]
    assert entered == [True, False, False, True, False, True]
    assert not rule.phase(1.0)


def test_filters_entry_by_entry():
    r, f = torch.tensor([1.0, -1.0, 2.0, 0.0]), torch.tensor([3.0, 2.0, -1.0, 5.0])
    want = {"sum": [4, 1, 1, 5], "same_sign": [4, 0, 0, 0], "asymmetric": [4, -1, 2, 0]}
    for kind, values in want.items():
        assert combine(kind, [r], [f])[0].tolist() == values
    found = agreement([r], [f])
    assert found["same_sign"] == 0.25 and found["forget_energy_kept"] == pytest.approx(9 / 39)
    assert found["gradient_cosine"] == pytest.approx(
        torch.nn.functional.cosine_similarity(r, f, dim=0).item()
    )
    assert agreement([r], [0 * f])["gradient_cosine"] is None


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "knobs, words",
    [
        ({"layers": "16:28:4"}, "START >= END"),
        ({"layers": "28:16:0"}, "STEP"),
        ({"layers": "28"}, "START:END:STEP"),
        ({"layers": "5:0:1"}, "blocks 0 to 2"),
        ({"layers": "2:0:1", "retain_blocks": "5,30"}, "--retain-blocks 5, but .* 0 to 2"),
        ({"layers": "2:0:1", "retain_blocks": "0"}, "block 2 trains alone"),
        ({"layers": "2:0:1", "retain_blocks": "x"}, "current"),
        ({"layers": "2:1:1", "probe_start": "block_input"}, "no forget gradient"),
        ({"layers": "2:1:1", "gradients": "asymmetric"}, "nothing would ever train"),
    ],
)
def test_one_line_says_what_is_wrong(knobs, words):
    rule = build(method_class("sequential"), "sequential", knobs)
    with pytest.raises(UserError, match=words) as error:
        Wrappers().check("sequential", rule)
        rule.trains(tiny.model())
    assert "\n" not in str(error.value)


def test_what_applies_to_adapters_is_said():
    for knobs, words in (
        ({"gradients": "same_sign", "retain_loss": "kl"}, "--adapter full"),
        ({"l2sp_coef": 0.1}, "--adapter full"),
        ({"probe_start": "block_input"}, "block 0"),
    ):
        rule = build(method_class("sequential"), "sequential", {"layers": "2:0:1", **knobs})
        with pytest.raises(UserError, match=words):
            Wrappers(adapter="lora").check("sequential", rule)
    rule = build(method_class("sequential"), "sequential", {"layers": "2:0:1"})
    with pytest.raises(UserError, match="--adapter full, but --lora-rank 4"):
        Wrappers(adapter="full", lora_rank=4).check("sequential", rule)
    with pytest.raises(UserError, match="take turns"):
        Wrappers(weight_mask="wagle").check("sequential", rule)
    for plan, words in (((2, 5), "each needs a step"), ((5, 5), None)):
        if words:
            with pytest.raises(UserError, match=words):
                rule.plan(*plan)
    rule = build(
        method_class("sequential"), "sequential", {"layers": "2:0:1", "steps_per_layer": 3}
    )
    with pytest.raises(UserError, match="are 9"):
        rule.plan(10, 5)
