"""create_models.py: two models of one architecture, initial weights and tokenizer, of which one
never saw the forget domain.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = "create_models.py"
SMALL = ["--hidden-size=32", "--layers=2", "--batch-size=16", "--vocab-size=400"]


@pytest.fixture
def make(script, data, tmp_path):
    """make(folder, *options) trains the roles with --only and returns {role: model folder}."""

    def train(folder, *options, roles=("base", "filtered")):
        for role in roles:
            done = script(
                SCRIPT,
                f"--data={data}",
                f"--outdir={tmp_path / folder}",
                f"--only={role}",
                *SMALL,
                *options,
            )
            assert done.code == 0, done.err
        return {role: tmp_path / folder / f"mini-{role}" for role in roles}

    return train


def test_only_the_training_text_differs(make):
    """At learning rate zero both are the initial model: same weights, same tokenizer, same
    configuration.
    """
    made = make("zero", "--steps=1", "--lr=0", "--muon-lr=0")
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (made["base"] / name).read_bytes() == (made["filtered"] / name).read_bytes()
    other = make("other", "--steps=1", "--lr=0", "--muon-lr=0", "--seed=1", roles=("base",))
    a, b = (load_file(folder["base"] / "model.safetensors") for folder in (made, other))
    assert a.keys() == b.keys() and any(not torch.equal(a[k], b[k]) for k in a)


def test_filtered_does_not_learn_the_forget_domain(make, data):
    """After a short training both have learnt the retain texts alike, and only Base the forget
    texts.
    """
    from brittle.data.batches import encode, pad
    from brittle.data.texts import read_texts
    from brittle.models import logprobs
    from brittle.models.load import load_model, load_tokenizer

    made, nll = make("trained", "--steps=80"), {}
    for role, folder in made.items():
        model, tokenizer = load_model(folder), load_tokenizer(folder)
        for split in ("forget", "retain"):
            ids = encode(tokenizer, read_texts(data / f"{split}.txt")[:100], 64)
            nll[role, split] = logprobs.nll(model, pad(ids, tokenizer.pad_token_id)).item()
    assert abs(nll["base", "retain"] - nll["filtered", "retain"]) < 0.25
    assert nll["filtered", "forget"] > nll["base", "forget"] + 0.5


def test_plain_transformers_loads_it(make, data):
    """A standard folder: no line of ours is needed to use it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make("plain", "--steps=2", roles=("base",))["base"]
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    line = (data / "retain.txt").read_text().splitlines()[0]
    ids = tokenizer(line, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == line and torch.isfinite(model(ids).logits).all()
    assert model.config.family == "mini" and model.config.num_hidden_layers == 2
    record = json.loads((folder / "model.run.json").read_text())
    assert set(record["settings"]) == {"forget", "retain", "general", "cost"}
    assert record["settings"]["cost"]["flops"] > 0 and not record["settings"]["cost"]["label_share"]
    assert {Path(p).name for p in record["inputs"]} >= {"pretrain_base.txt", "tokenizer.txt"}
    assert {SCRIPT, "brittle/training/mini.py"} <= set(record["code"])
    assert set(record["outputs"]) >= {"model.safetensors", "tokenizer.json", "config.json"}


@pytest.mark.parametrize("entities", [["--entities=5"], ["--entities", "5"]])
def test_both_make_new_data_once(script, tmp_path, monkeypatch, entities):
    """`--entities` makes the data before the two trainings start; they are not told to make it
    again.
    """
    started = []

    def popen(command, **options):
        if command[0] == "git":
            return real(command, **options)
        started.append(command)
        return real([sys.executable, "-c", ""], **options)

    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", popen)
    done = script(
        SCRIPT, f"--data={tmp_path / 'new'}", *entities, "--steps=1", f"--outdir={tmp_path / 'out'}"
    )
    assert (
        done.code == 0
        and json.loads((tmp_path / "new" / "world.json").read_text())["entities"] == 5
    )
    assert [c[-2:] for c in started] == [["--only", "base"], ["--only", "filtered"]]
    assert all(
        "--steps=1" in c and "--entities" not in " ".join(c) and "5" not in c for c in started
    )


@pytest.mark.parametrize(("codes", "status"), [((0, 0), 0), ((2, 0), 2), ((0, 2), 2), ((2, 2), 2)])
def test_both_fail_where_one_fails(script, data, tmp_path, monkeypatch, capfd, codes, status):
    """The exit status says so, and one line why."""
    real, left = subprocess.Popen, list(codes)

    def popen(command, **options):
        code = left.pop(0)
        said = (
            "print('bar 1/9\\rbar 9/9\\nerror: of ' + sys.argv[1], file=sys.stderr)" if code else ""
        )
        text = f"import sys\n{said}\nsys.exit({code})"
        return real([sys.executable, "-c", text, command[-1]], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    done = script(SCRIPT, f"--data={data}", f"--outdir={tmp_path / 'out'}")
    assert done.code == status
    said = [
        line
        for line in (capfd.readouterr().err + done.err).splitlines()
        if line.startswith("error:")
    ]
    assert said == ([] if not status else ["error: of base" if codes[0] else "error: of filtered"])
