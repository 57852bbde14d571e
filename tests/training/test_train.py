"""The training loop: sums, accumulation, schedules, stopping on NaN, and resuming to the same
bits.
"""

import json
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from brittle.base.errors import UserError
from brittle.base.knobs import build
from brittle.methods import METHODS, method_class
from brittle.methods.wrappers import Wrappers
from brittle.models import logprobs
from brittle.training import fitting
from brittle.training.checkpoint import Checkpoints
from brittle.training.loop import make_accelerator, train
from brittle.training.settings import Settings, lr_factor
from brittle.training.steps import AfterStep
from support import tiny

torch.set_num_threads(1)
CPU = torch.device("cpu")
UNLEARN = "unlearn/unlearn.py"


def fit(
    settings,
    checkpoint=None,
    resume=False,
    stop_at=None,
    spoil=None,
    dtype=torch.float32,
    combine=None,
):
    """(weights, history) of NLL training of a tiny model; `stop_at` interrupts behind that step,
    `spoil` makes a term NaN, `combine` is that of `train`.
    """
    model = tiny.model(dtype=dtype)
    data = tiny.Data(batch_size=settings.batch_size, micro_batches=settings.grad_accum)

    def terms(step, micro, progress):
        value = logprobs.nll(model, data.forget.batches(step)[micro])
        return {"a": 0.5 * value, "b": 0.5 * value * (math.nan if spoil == step + 1 else 1)}

    def after(step, row):
        if step == stop_at:
            raise KeyboardInterrupt

    checkpoints = Checkpoints(checkpoint, resume) if checkpoint else None
    history = train(
        model,
        terms,
        settings,
        make_accelerator(CPU),
        hooks=[AfterStep(after)],
        checkpoints=checkpoints,
        combine=combine,
    )
    return {n: p.detach().clone() for n, p in model.named_parameters()}, history


def same(a, b):
    return all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumed_is_bit_identical_to_uninterrupted(tmp_path, optimizer):
    settings = Settings(
        steps=7,
        lr=1e-2,
        save_every=2,
        optimizer=optimizer,
        weight_decay=0.1,
        warmup=2,
        grad_accum=2,
    )
    whole, history = fit(settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(settings, tmp_path / "cut", stop_at=5)
    resumed, rows = fit(settings, tmp_path / "cut", resume=True)
    assert (
        same(whole, resumed) and rows == history and [r["step"] for r in rows] == list(range(1, 8))
    )
    assert Checkpoints(tmp_path / "whole").steps_done() == 6  # none at the end


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    settings = Settings(steps=4, save_every=2, lr=1e-2)
    with pytest.raises(UserError, match="no checkpoint"):
        fit(settings, tmp_path / "none", resume=True)
    fit(settings, tmp_path / "c")
    with pytest.raises(UserError, match=r"another run .*settings"):
        fit(Settings(steps=4, save_every=2, lr=2e-2), tmp_path / "c", resume=True)


def test_four_micro_batches_are_one_batch_of_four_times():
    small, _ = fit(Settings(steps=3, lr=1e-2, batch_size=2, grad_accum=4), dtype=torch.float64)
    large, _ = fit(Settings(steps=3, lr=1e-2, batch_size=8), dtype=torch.float64)
    for name in small:
        assert torch.allclose(small[name], large[name], rtol=0, atol=1e-6), name


def test_combined_gradients_are_those_of_each_term_at_the_rate_of_the_step():
    """The terms of `fit` share their graph; their gradients' sum trains as the summed terms do."""
    rates = []

    def combine(gradients, lr):
        rates.append(lr)
        return [a + b for a, b in zip(gradients["a"], gradients["b"], strict=True)]

    settings = Settings(steps=3, lr=1e-2, batch_size=2, grad_accum=2)
    plain, _ = fit(settings, dtype=torch.float64)
    combined, history = fit(settings, dtype=torch.float64, combine=combine)
    assert rates == [row["lr"] for row in history] and rates[0] > rates[1] > rates[2]
    for name in plain:
        assert torch.allclose(plain[name], combined[name], rtol=0, atol=1e-7), name


@pytest.mark.parametrize("tunings", [1, 2])
def test_every_training_of_a_method_has_texts_of_its_own_and_no_checkpoint(tmp_path, tunings):
    rule = build(method_class("negmerge"), "negmerge", {"tunings": tunings}, seed=0)
    data, steps, asked = tiny.Data(batch_size=2), 3, []
    batches_of = data.forget.batches
    data.forget.batches = lambda step: asked.append(step) or batches_of(step)
    made = fitting.make_settings(rule, {"steps": steps, "lr": 1e-3, "save_every": 1}, data)
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    run = fitting.Fit(
        tiny.model(),
        rule,
        Wrappers(),
        data,
        made,
        make_accelerator(CPU),
        checkpoints=checkpoints,
        label=None,
    )
    run.run()
    assert asked == list(range(steps * tunings)) and not list(tmp_path.iterdir())


def test_a_pass_and_the_share_of_a_process():
    """Eight texts in steps of two times two: a pass has two steps. Of two processes each has every
    second micro-batch.
    """
    rule = build(method_class("ga"), "ga", {}, seed=0)
    data = tiny.Data(batch_size=2, micro_batches=4)
    assert fitting.make_settings(rule, {}, tiny.Data(batch_size=2, micro_batches=2)).steps == 2
    whole = zip(data.forget.batches(5), data.retain.batches(5), strict=True)
    indices = [(f.index.tolist(), r.index.tolist()) for f, r in whole]
    for rank in (0, 1):
        one_of_two = SimpleNamespace(num_processes=2, process_index=rank)
        run = fitting.Fit(None, rule, None, data, None, one_of_two)
        run.pairs_of_step = (None, [])
        pairs = [run.pair(5, micro) for micro in (0, 1)]
        shares = [(f.index.tolist(), r.index.tolist()) for f, r in pairs]
        assert shares == [indices[rank], indices[rank + 2]]


@pytest.mark.parametrize(("processes", "shared"), [(1, []), (2, ["ga"])])
def test_processes_share_a_model_unless_its_blocks_take_turns(monkeypatch, processes, shared):
    seen = []
    for name, knobs in (("ga", {}), ("sequential", {"layers": "2:0:1"})):
        monkeypatch.setattr(fitting.distributed, "shard", lambda *_, name=name: seen.append(name))
        rule, data = build(method_class(name), name, knobs, seed=0), tiny.Data()
        several = SimpleNamespace(num_processes=processes, autocast=nullcontext)
        settings = fitting.make_settings(rule, {}, data)
        fitting.Fit(tiny.model(), rule, Wrappers(), data, settings, several).prepare()
    assert seen == shared


def test_a_nan_term_stops_the_run_and_is_named(tmp_path):
    with pytest.raises(UserError, match="step 3: the loss term 'b' is nan"):
        fit(Settings(steps=5, lr=1e-2), tmp_path / "c", spoil=3)
    assert not list(tmp_path.iterdir())


def test_history_has_every_term_the_norm_and_the_rate():
    _, history = fit(Settings(steps=4, lr=1e-2))
    for row in history:
        assert row["a"] == row["b"] and row["grad_norm"] > 0
        assert row["lr"] == pytest.approx(
            1e-2 * 0.5 * (1 + math.cos(math.pi * (row["step"] - 1) / 4))
        )
    assert history[-1]["a"] < history[0]["a"]


def test_schedules():
    def factors(**settings):
        return [lr_factor(Settings(steps=10, **settings), s) for s in range(10)]

    assert factors(schedule="constant") == [1] * 10
    assert factors(schedule="constant", warmup=4)[:5] == [0.25, 0.5, 0.75, 1, 1]
    cosine = factors()
    assert cosine[0] == 1 and cosine[5] == pytest.approx(0.5) and 0 < cosine[9] < 0.03
    assert factors(schedule="trapezoid")[:7] == [1] * 7 and factors(schedule="trapezoid")[
        9
    ] == pytest.approx(0.25)


def test_the_gradient_is_clipped_at_its_limit():
    free, rows = fit(Settings(steps=1, lr=1e-2, grad_clip=0))
    assert rows[0]["grad_norm"] > 0.01
    clipped, again = fit(Settings(steps=1, lr=1e-2, grad_clip=0.01))
    assert (
        again[0]["grad_norm"] == rows[0]["grad_norm"]
    )  # the norm before clipping is what is logged
    assert not same(free, clipped)


# -------------------------------------------------------------------------------------- the command


def arguments(family, brief, root, method, *more):
    return [
        UNLEARN,
        "--model",
        family.base,
        "--method",
        method,
        "--forget",
        brief / "forget.txt",
        "--root",
        root,
        "--steps",
        "4",
        "--batch-size",
        "8",
        "--device",
        "cpu",
        "--save-every",
        "2",
        *more,
    ]


SMALL = {
    "rmu": ["--layer-id", "1"],
    "cb": ["--layer-id", "1"],
    "lat": ["--lat-layer", "0"],
    "cb_lat": ["--layer-id", "1", "--lat-layer", "0"],
    "tar": ["--attack-steps", "4", "--attack-lr", "1e-3"],
    "sequential": ["--layers", "1:0:1"],
    # the model itself teaches
    "distill": ["--teacher="],
    "undo": ["--teacher=", "--rule", "lowest forget where retain >= 0 and general >= 0"],
    "cir": ["--layer-id", "0", "--retain-layer", "1"],
    "mcu": ["--layer-id", "0", "--retain-layer", "1"],
}


def folder(root, method):
    return Path(root) / f"mini-base__{method}" / "unlearned_model"


@pytest.mark.parametrize("method", METHODS)
def test_unlearn_writes_model_card_history_and_record(method, family, brief, tmp_path, script):
    done = script(*arguments(family, brief, tmp_path, method, *SMALL.get(method, [])))
    assert done.code == 0, done.err
    out = folder(tmp_path, method)
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
        "training_history.csv",
    } <= {f.name for f in out.iterdir()}
    assert not (out.parent / "checkpoint").exists()
    record = json.loads((out / "training_history.run.json").read_text())
    assert "knobs" in record["settings"] and record["seed"] == 0
    cost = record["settings"]["cost"]
    assert cost["flops"] > 0 and cost["peak_memory_mb"] > 0
    teacher = method == "oracle_match"  # whose record is not there
    assert teacher or (cost["label_share"] > 0) == method_class(method).reads_forget
    rows = (out / "training_history.csv").read_text().splitlines()
    assert (
        rows[0].count("step")
        and "grad_norm" in rows[0]
        and len(rows) == {"negmerge": 13, "repselect": 6}.get(method, 5)
    )


def test_an_interrupted_command_resumes_to_the_same_bits(
    family, brief, tmp_path, script, monkeypatch
):
    from safetensors.torch import load_file

    from brittle.training import fitting

    more = ["--layer-id", "1", "--lat-layer", "0"]
    assert script(*arguments(family, brief, tmp_path / "whole", "cb_lat", *more)).code == 0
    original = fitting.train

    def cut(*args, **kwargs):
        def stop(step, row):
            if step == 3:
                raise KeyboardInterrupt

        return original(*args, **{**kwargs, "hooks": [*kwargs["hooks"], AfterStep(stop)]})

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "train", cut)
        done = script(*arguments(family, brief, tmp_path / "cut", "cb_lat", *more))
    assert done.code != 0 and "--resume" in done.err and "Traceback" not in done.err
    assert not folder(tmp_path / "cut", "cb_lat").exists()
    done = script(*arguments(family, brief, tmp_path / "cut", "cb_lat", *more, "--resume"))
    assert done.code == 0, done.err
    whole, resumed = (
        load_file(folder(tmp_path / n, "cb_lat") / "model.safetensors") for n in ("whole", "cut")
    )
    assert same(whole, resumed)


def test_a_broken_run_keeps_the_model_that_was_there(
    family, brief, tmp_path, script, snapshot, monkeypatch
):
    from brittle.models import logprobs

    assert script(*arguments(family, brief, tmp_path, "ga")).code == 0
    before, nll = snapshot(tmp_path), logprobs.nll

    def bad(model, batch):
        return nll(model, batch) * (math.nan if model.training else 1)

    monkeypatch.setattr(logprobs, "nll", bad)
    done = script(*arguments(family, brief, tmp_path, "ga"))
    assert (
        done.code == 2
        and "step 1" in done.err
        and "forget" in done.err
        and len(done.err.strip().splitlines()[-1]) < 300
    )
    assert snapshot(tmp_path) == before
