"""The strength ladder: rungs, adaptive attackers, restoring ablation, price, report."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from brittle.attacks import ATTACKS, LADDER, attack_class, price, restore, strength, transforms
from brittle.attacks.base import kept
from brittle.attacks.material import Material, forbidden
from brittle.attacks.meter import Meter, attack_model, eval_sets
from brittle.attacks.relearn import FineTuning, fine_tune, split_evenly
from brittle.maths.linalg import alignment, norm_of, principal_angles
from brittle.methods.directions import without
from brittle.metrics.recovery import reached_at
from brittle.models.load import load_model, load_tokenizer
from brittle.models.logprobs import nll
from support import tiny
from support.places import ROOT

torch.set_num_threads(1)
LONGEST = 4  # steps, where a rung is run


def bits(model):
    return [p.detach().clone() for p in model.parameters()]


def same(model, weights):
    return all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))


@pytest.fixture(scope="module")
def loaded(family):
    return load_model(family.base), load_tokenizer(family.base)


@pytest.mark.parametrize(
    "name", [name for name in LADDER if "strong_long" not in name and name != "learn_b"]
)
def test_every_rung_measures_puts_the_model_back_and_never_reads_half_b(name, loaded, data):
    model, tokenizer = loaded
    before, cls = bits(model), attack_class(name)
    small = {"steps": LONGEST, "ranks": (1, 2)} if name == "restore" else {"steps": LONGEST}
    if name != "restore":
        rate = strength.RATES[cls.RATES_OF][1]
        small |= {"at": (2, LONGEST), "rates": (rate,), "batch_size": 4}
    attack = cls(**small)
    sets = {split: items[:5] for split, items in eval_sets(data).items()}
    material, meter = Material(data), Meter(model, tokenizer, sets, everything=attack.ASKS_ALL)
    attack_model(attack, meter, material, forbidden(data))
    assert not meter.notes and len({row["variant"] for row in meter.rows}) >= 2
    assert not material.read & set(forbidden(data)) and same(model, before)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_rungs_differ_in_what_they_say():
    of = {name: attack_class(name)() for name in LADDER}
    for name in ("strong_long_low", "strong_long_high"):
        assert of[name].at[-1] == of[name].steps == 5000
    assert [of[f"strong_{name}"].optimizer for name in ("adamw", "muon", "sgd")] == [
        "adamw",
        "muon",
        "sgd",
    ]
    for name in ("adamw", "muon", "sgd", "lora", "adaptive"):
        rates = strength.RATES[name]
        assert rates[-1] / rates[0] == pytest.approx(1000)
    assert (*strength.RATES["low"], *strength.RATES["high"]) == strength.RATES["adamw"][1:3]
    other = SimpleNamespace(config=SimpleNamespace(family=""))
    assert of["strong_adamw"].default_rates(other) == (1e-6, 1e-5, 1e-4, 1e-3)
    assert not set(LADDER) & set(ATTACKS)


def test_half_of_the_texts_are_retained(data):
    material = Material(data)
    mixed, alone = strength.Mixed().rows(material), strength.Rung().rows(material)
    assert len(mixed) == 2 * len(alone) and mixed[: len(alone)] == alone


def tuned(steps=6, examples=None, model=None, **more):
    """(weights before, model after) of a fine-tuning."""
    model, at = model or tiny.model(), []
    before = bits(model)
    tuning = FineTuning(1e-2, steps, (2, steps), 4, 0, **more)
    fine_tune(model, tiny.PAD, examples or tiny.ids(), tuning, lambda step: at.append(step))
    assert at == [2, steps]
    return before, model


def test_cycles_and_rounds_are_parts_of_the_steps():
    assert split_evenly(7, 3) == (3, 2, 2) and split_evenly(2, 5) == (1, 1)
    cyclic = FineTuning(1e-2, 7, (), 4, 0, cycles=3).settings(7)
    assert cyclic["stretches"] == (3, 2, 2) and cyclic["schedule"] == "cosine"
    assert FineTuning(1e-2, 7, (), 4, 0).settings(7)["schedule"] == "constant"


def test_adapters_of_earlier_rounds_are_merged_and_the_last_are_taken_off():
    before, model = tuned(lora_rank=2)
    assert same(model, before)
    before, model = tuned(lora_rank=2, rounds=2)
    assert not same(model, before)
    names = [name for name, _ in tiny.model().named_parameters()]
    assert [name for name, _ in model.named_parameters()] == names


# ---------------------------------------------------------------------------- adaptive attackers


def transformed(kind, *more):
    """(model, transform, {name: gradient before it}) after one backward pass."""
    model = tiny.model()
    transform = kind(model, tiny.PAD, tiny.Data().forget.examples, *more)
    batch = tiny.batch(tiny.ids())
    batch.n_targets = float(sum(len(ids) - 1 for ids in tiny.ids()))
    with transform.around(batch):
        nll(model, batch).backward()
    plain = {name: p.grad.clone() for name, p in transform.trained.items()}
    transform.before_step()
    return model, transform, plain


@pytest.mark.parametrize("kind", ["TurnedOver", "WithoutShared", "AgreeingWithRetain"])
def test_an_adaptive_update_has_length_one_and_trains_what_the_method_trains(kind):
    more = (tiny.Data().retain.examples, 0) if kind == "AgreeingWithRetain" else ()
    model, transform, _ = transformed(getattr(transforms, kind), *more)
    gradients = [p.grad for p in transform.trained.values()]
    assert norm_of(gradients).item() == pytest.approx(1, rel=1e-5)
    assert all("mlp" in name for name in transform.trained)
    assert all(p.grad is None for n, p in model.named_parameters() if n not in transform.trained)


def test_the_attacker_of_repselect_turns_its_spectrum_over():
    _, transform, plain = transformed(transforms.TurnedOver)
    for name, p in transform.trained.items():
        u, s, vh = torch.linalg.svd(plain[name], full_matrices=False)
        weights = torch.diagonal(u.mT @ p.grad @ vh.mT)
        count = round(min(p.shape) / 8)
        expected = s.clone()
        expected[:count] = s[count - 1] ** 2 / s[:count]
        assert torch.allclose(weights / weights.norm(), expected / expected.norm(), atol=1e-3)


def test_the_attacker_of_cir_keeps_off_shared_directions():
    _, transform, plain = transformed(transforms.WithoutShared)
    for name, (inputs, outputs) in transform.bases.items():
        assert (plain[name] @ inputs).norm() < 1e-4 * plain[name].norm()
        assert (outputs.mT @ plain[name]).norm() < 1e-4 * plain[name].norm()


def test_the_attacker_of_mudman_agrees_with_the_retain_gradient():
    _, transform, plain = transformed(transforms.AgreeingWithRetain, tiny.Data().retain.examples, 0)
    for p, m in zip(transform.trained.values(), transform.average, strict=True):
        assert (p.grad * m >= 0).all() and (p.grad == 0).any()
    assert all(gradient.any() for gradient in plain.values())


# ------------------------------------------------------------------------- restoring ablation


def test_a_suppressor_of_rank_two_is_found_at_two_and_not_at_one():
    """Every state carries one of two large vectors, which drown what a normed read-out answers
    from. Without both it answers.
    """
    draws = torch.Generator().manual_seed(0)
    planted = torch.linalg.qr(torch.randn(16, 2, generator=draws))[0]
    sound = without(torch.randn(200, 16, generator=draws), planted)
    weights = 2 * torch.randn(8, 16, generator=draws)

    def logits(h):
        return 4 * torch.nn.functional.normalize(h, dim=-1) @ weights.mT

    answers, hidden = logits(sound).argmax(-1), sound + 6 * planted.mT[torch.arange(200) % 2]

    def loss_of(basis):
        return torch.nn.functional.cross_entropy(logits(without(hidden, basis)), answers)

    truth, nothing = loss_of(planted).item(), loss_of(torch.zeros(16, 1)).item()
    for rank, reached in ((1, 1.0), (2, truth)):
        settings = (100, 0.1, torch.Generator().manual_seed(0))
        basis = restore.fit_basis(loss_of, (16, rank), settings, "cpu")
        assert torch.allclose(basis.mT @ basis, torch.eye(rank), atol=1e-5)
        assert (loss_of(basis).item() < reached) == (rank == 2)
    assert nothing > 5 and alignment(principal_angles(basis.double(), planted.double())) > 0.95


def test_blocks_are_spread():
    assert restore.spread_blocks(4) == [0, 1, 2, 3] and restore.spread_blocks(32)[-1] == 31
    assert restore.spread_blocks(2) == [0, 1]


# --------------------------------------------------------------------------- price and report


def test_the_price_is_the_fewest_steps_of_any_rate():
    def row(variant, accuracy, split="forget_b"):
        return {"variant": variant, "split": split, "accuracy": accuracy}

    rows = [row("as made", 0.3), row("lr 0.1, step 10", 0.9), row("lr 0.2, step 2", 0.4)]
    rows += [row("lr 0.2, step 6", 0.95), row("lr 0.3, step 1", None), row("as made", 1, "retain")]
    assert price.steps_to(rows) == pytest.approx(2 + 4 * 0.5 / 0.55)
    assert price.steps_to([row("as made", 0.95), *rows[1:]]) == 0
    assert price.steps_to(rows[:1]) is None
    assert reached_at([(0, 0.2), (4, 0.6)], 0.5) == 3 and reached_at([(0, 0.7)], 0.5) == 0


def test_the_price_reads_half_b_and_stays_apart_from_attacks(loaded, data):
    model, tokenizer = loaded
    attack = attack_class("learn_b")(steps=2, at=(1, 2), rates=(1e-3,), batch_size=4)
    assert attack.READS_B and not any(attack_class(n).READS_B for n in [*ATTACKS, *LADDER][:-1])
    material = Material(data)
    meter = Meter(model, tokenizer, {"forget_b": eval_sets(data)["forget_b"][:5]}, everything=True)
    with kept(model):
        attack.run(model, tokenizer, material, meter)
    assert material.read <= set(forbidden(data)) and price.steps_to(meter.rows) is None
    assert not attack.ends([], meter)
    meter.rows[-1]["accuracy"] = 0.95
    assert attack.ends([], meter)


LADDER_SCRIPT = runpy.run_path(str(ROOT / "experiment/ladder.py"))


def cell(levels, nlls, as_made):
    """What `read` gives of a seed: accuracies on half B and A2's NLL at {step: value}."""
    points = {
        f"lr 0.1, step {step}": {
            "forget_a2": {"answer_nll": nlls[step]},
            "forget_b": {"accuracy": level},
            "retain": {"accuracy": 1.0},
        }
        for step, level in levels.items()
    }
    facts = {f"e{i}/a": (levels[max(levels)] * 10, 10) for i in range(6)}
    made = {"forget_b": {"accuracy": as_made}}
    return {0: {"points": points, "made": made, "facts": facts}}


def test_a2_chooses_within_each_budget_and_over_rungs():
    nlls = {10: 3.0, 40: 1.0, 100: 2.0}
    boards = {
        "base": {r: cell({10: 1, 40: 1, 100: 1}, nlls, 1.0) for r in ("one", "two")},
        "filtered": {r: cell({10: 0.2, 40: 0.2, 100: 0.2}, nlls, 0.2) for r in ("one", "two")},
        "npo": {
            "one": cell({10: 0.3, 40: 0.8, 100: 1.0}, nlls, 0.2),
            "two": cell({10: 0.9, 40: 0.9, 100: 0.9}, {10: 9, 40: 9, 100: 9}, 0.2),
        },
    }
    table = list(LADDER_SCRIPT["rows"](boards, [0]))
    own = [row for row in table if row["model"] == "npo"]
    one = {row["budget"]: row for row in own if row["attack"] == "one"}
    assert [one[b]["heldout_accuracy"] for b in (10, 40, 100)] == [0.3, 0.8, 0.8]
    line = LADDER_SCRIPT["model_row"](boards, "npo", own, [0])
    assert line["attack"] == "one" and line["heldout_recovery"] == pytest.approx(0.75)
    assert line["highest_recovery"] == pytest.approx(0.875) and line["as_made"] == 0
    assert line["budget_to_half"] == pytest.approx(10 + 30 * (0.5 - 0.125) / (0.75 - 0.125))
    assert line["relative_price"] is None


def test_the_script_compares_models_and_goes_on(
    family, knowing, brief, tmp_path, script, monkeypatch
):
    # the ablation without its fit, behind one block: what a rung costs is not the question here
    monkeypatch.setattr(restore, "spread_blocks", lambda count: [0])
    monkeypatch.setattr(restore, "fit_basis", lambda loss_of, shape, *_: torch.eye(*shape))
    call = ["experiment/ladder.py", "--base", knowing, "--filtered", family.filtered]
    call += ["--unlearned", family.base, "--data", brief, "--root", tmp_path, "--max-items", "5"]
    bad = script(*call, "--attacks", "relearn")
    assert bad.code == 2 and "--attacks relearn: choose strong_adamw" in bad.err
    assert not list(tmp_path.iterdir())
    done = script(*call, "--attacks", "restore", "--jobs", "1")
    assert done.code == 0, done.err
    assert "recovery" in done.out and (tmp_path / "ladder_models.csv").is_file()
    assert (tmp_path / Path(family.base).name / "ladder/restore/cells/restore-0.json").is_file()
    again = script(*call, "--attacks", "restore", "--dry-run")
    assert again.out.count("up to date") == 3
