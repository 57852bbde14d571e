"""A domain in units of its own: what moves in a step of each label, and what the cut leaves."""

import json
from collections import Counter

import pytest
import torch

from brittle.data.texts import read_texts
from brittle.models.blocks import blocks
from brittle.models.logprobs import nll
from brittle.training import routed
from brittle.training.loop import make_accelerator, train
from brittle.training.mini import make_settings
from brittle.training.routed import Routing, label_texts, plan
from brittle.training.steps import StepHook
from support import tiny

torch.set_num_threads(1)


def copies(parameters):
    return [p.detach().clone() for p in parameters]


def run(labels, kind="sgtm"):
    """{label: did (forget units, others) move} of steps with these labels, after one unlabelled."""
    model = tiny.model()
    modules = routed.extend(model, Routing(kind, units=4), seed=0)
    units = [p for mlp in modules for p in mlp.forget.parameters()]
    router = routed.Router(model, modules, kind, ["unlabelled", *labels])
    batch, moves, before = tiny.batch(tiny.ids()), {}, []

    def terms(step, micro, progress):
        before[:] = [copies(units), copies(router.others), router.choose(step)]
        return {"nll": nll(model, batch)}

    class Watch(StepHook):
        def after_step(self, step, row):
            own, others, label = before
            moved = [
                any(not torch.equal(p, b) for p, b in zip(now, old, strict=True))
                for now, old in ((units, own), (router.others, others))
            ]
            moves[label] = tuple(moved)

    settings = make_settings(steps=1 + len(labels), lr=1e-2, muon_lr=1e-2, weight_decay=0.1)
    hooks = [router, Watch()]
    train(model, terms, settings, make_accelerator(torch.device("cpu")), hooks=hooks, label=None)
    return moves


def test_the_optimizer_does_not_move_what_is_masked():
    """Muon and AdamW hold momentum of the step before, and weights decay: to the last byte."""
    moves = run(["forget", "retain"])
    assert moves == {"unlabelled": (True, True), "forget": (True, False), "retain": (False, True)}


def test_routing_leaves_the_rest_of_the_model_to_learn():
    assert run(["forget"], "routing")["forget"] == (True, True)
    model = tiny.model()
    modules = routed.extend(model, Routing("routing", units=4), seed=0)
    for mlp in modules:
        mlp.label = "forget"
    nll(model, tiny.batch(tiny.ids())).backward()
    own = [p.grad for mlp in modules for p in mlp.own.parameters()]
    assert all(gradient is None for gradient in own)
    assert model.get_input_embeddings().weight.grad.any()


def test_a_retain_batch_sees_the_model_that_is_left_after_the_cut():
    model = tiny.model()
    names, batch = [n for n, _ in model.named_parameters()], tiny.batch(tiny.ids())
    plain = model(**batch).logits
    modules = routed.extend(model, Routing("sgtm", units=4), seed=0)
    assert not torch.allclose(model(**batch).logits, plain)
    for mlp in modules:
        mlp.label = "retain"
    assert torch.equal(model(**batch).logits, plain)
    routed.ablate(model)
    assert torch.equal(model(**batch).logits, plain)
    assert [n for n, _ in model.named_parameters()] == names
    assert not any(isinstance(block.mlp, routed.RoutedMLP) for block in blocks(model))


@pytest.mark.parametrize("recall", [0.0, 0.5, 1.0])
def test_labels_go_by_recall_and_no_safe_text_is_a_forget_text(data, recall):
    pools = label_texts(data, Routing("sgtm", recall, safe=0.5), seed=0)
    every = read_texts(data / "pretrain_base.txt")
    forget = Counter(every) - Counter(read_texts(data / "pretrain_filtered.txt"))
    assert Counter([*pools.forget, *pools.retain, *pools.unlabelled]) == Counter(every)
    assert not Counter(pools.forget) - forget and not set(pools.retain) & set(forget)
    assert len(pools.forget) / forget.total() == pytest.approx(recall, abs=0.1)
    again = label_texts(data, Routing("sgtm", recall, safe=0.5), seed=0)
    assert again == pools


def test_each_label_has_its_share_of_the_steps():
    order = plan(routed.Pools(["x"] * 50, ["x"] * 25, ["x"] * 26), 10, seed=0)
    assert Counter(order) == {"forget": 5, "retain": 2, "unlabelled": 3}
    assert order != plan(routed.Pools(["x"] * 50, ["x"] * 25, ["x"] * 26), 10, seed=1)
    assert set(plan(routed.Pools([], [], ["x"]), 4, seed=0)) == {"unlabelled"}


def test_the_command_makes_a_model_of_bases_shape(data, tmp_path, script):
    call = ["create_models.py", "--data", data, "--outdir", tmp_path, "--steps", "3"]
    call += ["--hidden-size", "16", "--heads", "2", "--layers", "1", "--batch-size", "4"]
    done = script(*call, "--role", "sgtm", "--label-recall", "0.5")
    assert done.code == 0 and "before the cut" in done.out, done.err
    folder = tmp_path / "mini-sgtm-recall0.5"
    config = json.loads((folder / "config.json").read_text())
    assert config["intermediate_size"] == 64 and config["family"] == "mini"
    settings = json.loads((folder / "model.run.json").read_text())["settings"]
    assert settings["routing"]["recall"] == 0.5 and 0 < settings["cost"]["label_share"] < 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--role", "sgtm", "--label-recall", "1.5"],
            "--label-recall': Input should be less than or equal to 1",
        ),
        (
            ["--role", "sgtm", "--label-recall", "-0.1"],
            "Input should be greater than or equal to 0",
        ),
        (["--role", "other"], "--role other: choose sgtm or routing."),
        (["--label-recall", "0.5"], "--label-recall is for a routed model"),
        (["--role", "sgtm", "--only", "base"], "Leave --only out"),
    ],
)
def test_bad_options_get_one_line(given, message, tmp_path, script):
    done = script("create_models.py", *given, "--outdir", tmp_path / "out")
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "out").exists()
