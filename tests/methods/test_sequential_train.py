"""Training block after block: what moves, what accumulation and several processes may not change,
and the command.
"""

import csv
import json
import socket

import pytest
import torch
from safetensors.torch import load_file

from brittle.base.knobs import build
from brittle.data.items import read_text_rows
from brittle.data.rows import Chat
from brittle.methods import method_class
from brittle.methods.wrappers import Wrappers
from brittle.models.blocks import blocks
from brittle.training import fitting
from brittle.training.adapters import targets_of
from brittle.training.loop import make_accelerator
from brittle.training.steps import AfterStep
from brittle.unlearning.sets import some_chats
from support import tiny
from support.processes import DRIVER

UNLEARN = "unlearn/unlearn.py"


def train(model, batch_size=2, accum=1, wrappers=None, settings=None, **knobs):
    """(history, states): the weights at the start of each phase and at the end."""
    rule = build(
        method_class("sequential"),
        "sequential",
        {"layers": "2:0:1", "steps_per_layer": 2, **knobs},
        seed=0,
    )
    wrappers = wrappers or Wrappers()
    wrappers.check("sequential", rule)
    data = tiny.Data(batch_size=batch_size, micro_batches=accum)
    chosen = fitting.make_settings(
        rule,
        {"lr": 1e-2, "schedule": "linear", **(settings or {})},
        data,
        batch_size=batch_size,
        grad_accum=accum,
    )
    states, enter = [], rule.phase

    def phase(progress):
        before = rule.at if hasattr(rule, "at") else None
        fresh = enter(progress)
        if rule.at != before:
            states.append({n: p.detach().clone() for n, p in model.named_parameters()})
        return fresh

    rule.phase = phase
    accelerator = make_accelerator(torch.device("cpu"))
    history, _ = fitting.Fit(model, rule, wrappers, data, chosen, accelerator, label=None).run()
    states.append({n: p.detach().clone() for n, p in model.named_parameters()})
    return history, states, rule


def test_only_the_phases_block_moves():
    model = tiny.model()
    history, states, rule = train(model)
    assert [row["block"] for row in history] == [2, 2, 1, 1, 0, 0] and len(states) == 4
    for phase, block in enumerate((2, 1, 0)):
        changed = {n for n in states[0] if not torch.equal(states[phase][n], states[phase + 1][n])}
        assert changed and all(f"layers.{block}." in n for n in changed)
    starts = dict(zip([id(p) for p in model.parameters()], states[0].values(), strict=True))
    for block in (2, 1, 0):  # and the reference is the start, to the bit
        assert all(torch.equal(w0, starts[id(w)]) for w, w0 in rule.reference.pairs(block))


def test_the_optimizer_holds_one_block(monkeypatch):
    from brittle.training import loop

    made, make = [], loop.make_optimizers

    def counted(model, settings):
        made.append(make(model, settings))
        return made[-1]

    monkeypatch.setattr(loop, "make_optimizers", counted)
    for optimizer in ("adamw", "muon"):
        made.clear()
        model = tiny.model()
        train(model, settings={"optimizer": optimizer})
        size = sum(p.numel() for p in blocks(model)[0].parameters())
        for found in made:
            assert (
                sum(p.numel() for o, _ in found for g in o.param_groups for p in g["params"])
                == size
            )


@pytest.mark.parametrize(
    "knobs",
    [
        {"gradients": "same_sign", "retain_loss": "nll"},
        {"gradients": "asymmetric", "retain_loss": "nll", "l2sp_coef": 0.1},
        {"gradients": "sum", "forget_loss": "ce_random"},
    ],
)
def test_four_micro_batches_are_one_batch_of_four_times_the_texts(knobs):
    """With sgd and doubles, so that nothing hides in Adam's normalisation; the filter's mask must
    be of the whole step.
    """
    found = []
    for batch_size, accum in ((8, 1), (2, 4)):
        model = tiny.model(dtype=torch.float64)
        history, states, _ = train(
            model, batch_size, accum, retain_ramp="quarter", settings={"optimizer": "sgd"}, **knobs
        )
        found.append((history, states[-1]))
    name = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    assert not torch.equal(found[0][1][name], states[0][name])
    for name, value in found[0][1].items():
        assert torch.allclose(value, found[1][1][name], rtol=1e-6, atol=1e-9), name
    if knobs["gradients"] != "sum":
        for a, b in zip(found[0][0], found[1][0], strict=True):
            assert 0 < a["same_sign"] < 1 and a["same_sign"] == pytest.approx(
                b["same_sign"], abs=0.01
            )  # some are zero but for rounding


def test_schedules_begin_anew_with_a_phase_or_run_through():
    anew, _, _ = train(tiny.model())
    assert [row["lr"] for row in anew] == pytest.approx([0.01, 0.005] * 3)
    through, _, _ = train(tiny.model(), schedule_scope="run")
    assert [row["lr"] for row in through] == pytest.approx([0.01 * (6 - k) / 6 for k in range(6)])


@pytest.mark.parametrize("kind", tiny.MAKE)
def test_qkv_is_the_input_of_attention_on_every_architecture(kind):
    model = tiny.model(kind)
    found = targets_of(model, None, "qkv")
    assert len(found) in (3, 9) and not any(
        "mlp" in name or name.endswith("o_proj") for name in found
    )


def test_adapters_train_in_every_phase_and_are_merged():
    model = tiny.model()
    wrappers = Wrappers(adapter="lora", lora_targets="qkv")
    history, states, rule = train(model, wrappers=wrappers, settings={"lr": 0.05})
    assert wrappers.lora_rank == 16 and rule.reference is not None
    for phase in range(3):
        changed = {n for n in states[0] if not torch.equal(states[phase][n], states[phase + 1][n])}
        assert changed and all("query_key_value" in n and "lora_" in n for n in changed)
    assert (
        history[0]["retain_loss"] == pytest.approx(0, abs=1e-6) and history[-1]["retain_loss"] > 0
    )


def arguments(family, brief, root, *more):
    return [
        UNLEARN,
        "--model",
        family.base,
        "--method",
        "sequential",
        "--layers",
        "1:0:1",
        "--adapter",
        "full",
        "--forget",
        brief / "forget.txt",
        "--root",
        root,
        "--batch-size",
        "4",
        "--device",
        "cpu",
        "--lr",
        "1e-3",
        *more,
    ]


def folder(root):
    return root / "mini-base__sequential" / "unlearned_model"


def read_history(root):
    with open(folder(root) / "training_history.csv", newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_the_command_says_what_it_will_cost_and_resumes_inside_a_phase(
    family, brief, tmp_path, script, monkeypatch
):
    more = [
        "--steps-per-layer",
        "3",
        "--gradients",
        "asymmetric",
        "--retain-loss",
        "nll",
        "--l2sp-coef",
        "0.01",
        "--save-every",
        "1",
    ]
    done = script(*arguments(family, brief, tmp_path / "whole", *more))
    assert done.code == 0, done.err
    assert (
        "2 phases, block (steps): 1 (3), 0 (3); 6 optimizer steps, 24 forget examples (" in done.out
        and "tokens" in done.out
    )
    assert {"block", "same_sign", "gradient_cosine", "forget_loss"} <= set(
        read_history(tmp_path / "whole")[4]
    )
    original = fitting.train
    for last in (3, 5):  # at the end of the first phase, within the second

        def cut(*args, last=last, **kwargs):
            def stop(step, row):
                if step == last + 1:
                    raise KeyboardInterrupt

            return original(*args, **{**kwargs, "hooks": [*kwargs["hooks"], AfterStep(stop)]})

        root = tmp_path / str(last)
        with monkeypatch.context() as patch:
            patch.setattr(fitting, "train", cut)
            assert script(*arguments(family, brief, root, *more)).code != 0
        done = script(*arguments(family, brief, root, *more, "--resume"))
        assert done.code == 0, done.err
        a, b = (load_file(folder(r) / "model.safetensors") for r in (tmp_path / "whole", root))
        assert all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize(
    "more",
    [
        ["--gradients", "same_sign", "--retain-ramp", "quarter", "--retain-loss", "nll"],
        ["--adapter", "lora", "--retain-loss", "kl"],
    ],
)
def test_two_processes_are_one_with_twice_the_micro_batches(
    more, family, brief, tmp_path, script, fork
):
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    given = [*more, "--steps-per-layer", "2", "--optimizer", "sgd", "--lr", "0.05"]
    one = script(*arguments(family, brief, tmp_path / "one", "--grad-accum-steps", "2", *given))
    assert one.code == 0, one.err
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    two = [
        fork(
            driver,
            *arguments(family, brief, tmp_path / "two", *given),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            ACCELERATE_USE_CPU="true",
        )
        for rank in range(2)
    ]
    ended = [child.wait() for child in two]
    assert [e.code for e in ended] == [0, 0], ended[0].err[-3000:]
    a, b = (load_file(folder(tmp_path / n) / "model.safetensors") for n in ("one", "two"))
    start = load_file(f"{family.base}/model.safetensors")
    assert any(not torch.equal(a[n], start[n]) for n in a)
    for name in a:
        assert torch.allclose(a[name], b[name], atol=1e-6), name
    first = [read_history(tmp_path / n) for n in ("one", "two")]
    assert [r["grad_norm"] for r in first[0]] == pytest.approx(
        [r["grad_norm"] for r in first[1]], rel=1e-3
    )


def test_chats_are_mixed_into_the_retain_set(family, brief, tmp_path, script, jsonl):
    chats = tmp_path / "chats.jsonl"
    jsonl(
        chats,
        [
            {
                "messages": [
                    {"role": "user", "content": f"hello {k}"},
                    {"role": "assistant", "content": "yes"},
                ]
            }
            for k in range(99)
        ],
    )
    assert read_text_rows(chats)[3] == Chat((("user", "hello 3"), ("assistant", "yes")))
    drawn = some_chats(list(range(99)), 80, 0.2, 0)
    assert len(set(drawn)) == 20 and max(drawn) > 20  # of 100, from the whole file
    assert drawn == some_chats(list(range(99)), 80, 0.2, 0) != some_chats(range(99), 80, 0.2, 1)
    again = some_chats([1, 2, 3], 5, 0.5, 0)
    assert sorted(again[:3]) == [1, 2, 3] and again[3:] == again[:2]
    done = script(*arguments(family, brief, tmp_path, "--steps-per-layer", "1", "--chat", chats))
    assert done.code == 0, done.err
    record = json.loads((folder(tmp_path) / "training_history.run.json").read_text())
    assert record["settings"]["wrappers"]["chat_share"] == 0.2 and any(
        "chats.jsonl" in path for path in record["inputs"]
    )
    for name, text, words in (
        ("none.jsonl", "", "holds no text"),
        ("bad.jsonl", '{"messages": []}\n', "line 1 is no chat"),
    ):
        (tmp_path / name).write_text(text)
        done = script(*arguments(family, brief, tmp_path / "x", "--chat", tmp_path / name))
        assert done.code == 2 and words in done.err and len(done.err.strip().splitlines()) == 1, (
            done.err
        )
