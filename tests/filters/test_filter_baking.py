"""Hooked = baked = reloaded in a new process, on every architecture.

What must not be saved is shown to reload wrong.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from brittle.base.errors import UserError
from brittle.filters import bake, verify
from brittle.models.architectures import architecture
from brittle.models.filter import Filter, hooked
from brittle.models.load import load_model, load_tokenizer
from support.places import ROOT
from support.tiny_models import make_model, save

# architecture: (site, mode, gated, dtype)
CASES = {
    "gpt_neox": ("block:1", "class", True, torch.float32),
    "gpt2": ("post_norm", "post-norm", False, torch.float32),  # tied
    "llama": ("pre_norm", "class", False, torch.bfloat16),  # tied
    "mistral": ("block:0", "class", False, torch.float32),
    "qwen2": ("post_norm", "post-norm", False, torch.float32),  # tied
    "phi": ("post_norm", "post-norm", False, torch.bfloat16),
    "olmoe": ("pre_norm", "class", True, torch.float32),
}
# Loads each folder as a stranger would (with brittle.models.load, for the class), and saves the
# logits of the verification batch.
CHILD = """
import sys, json, torch
from transformers import AutoModelForCausalLM
try:
    AutoModelForCausalLM.from_pretrained(sys.argv[1])
    print("loaded without the class")
except ValueError as error:
    print("refused")
from brittle.filters import verify
from brittle.models.load import load_model, load_tokenizer
for folder, dtype, wanted in json.loads(sys.argv[2]):
    model = load_model(folder, "cpu", dtype)
    batch = verify.tokens(model.config)
    torch.save([verify.logits_of(model, batch), verify.greedy(model, batch, 6)], wanted)
"""


def draw(model, site, strength=0.7, gated=False, k=4, seed=0, **more):
    """A random filter; its gate fires on about half of the tokens."""
    g, d = torch.Generator().manual_seed(seed), model.config.hidden_size
    basis = torch.linalg.qr(torch.randn(d, k, generator=g))[0]
    if gated:
        more |= {
            "gate": torch.randn(d, generator=g),
            "curve": 0.01 * torch.eye(d),
            "offset": torch.randn(d, generator=g),
        }
    return Filter(site, basis, strength, about={"architecture": architecture(model.config)}, **more)


def lively(kind, seed=0, **changes):
    """A random model whose norms and biases are off their neutral values."""
    model = make_model(kind, seed, **changes)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(0.1 * torch.randn(p.shape, generator=g))
            else:
                p.mul_(4)
    return model


def test_an_unembedding_of_unknown_name_is_not_taken_for_a_tied_one(tmp_path):
    """Fuyu calls it language_model.lm_head.weight; its embedding is another matrix."""
    source = SimpleNamespace(files={"model.embed_tokens.weight": None}, folder=tmp_path)
    config = {"model_type": "fuyu", "tie_word_embeddings": False}
    with pytest.raises(UserError, match=r"no weight that is known as its unembedding .*class"):
        bake.fold_into_unembedding(source, config, None)


@pytest.fixture(scope="module")
def baked(tmp_path_factory):
    """{architecture: (folder, filter, mode, dtype, baked folder)}."""
    root, made = tmp_path_factory.mktemp("baked"), {}
    for kind, (site, mode, gated, dtype) in CASES.items():
        model = lively(kind)
        folder = save(model.to(dtype), root / kind)
        chosen, out = draw(model, site, gated=gated), root / f"{kind}-{mode}"
        out.mkdir()
        bake.bake(folder, chosen, bake.pick_mode(chosen, mode), out)
        made[kind] = folder, chosen, mode, dtype, str(out)
    return made


def test_hooked_is_baked_is_reloaded_in_a_new_process(baked, tmp_path):
    jobs = [
        [b[4], str(b[3]).removeprefix("torch."), str(tmp_path / kind)] for kind, b in baked.items()
    ]
    command = [sys.executable, "-c", CHILD, baked["gpt_neox"][4], json.dumps(jobs)]
    run = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert (
        run.stdout.splitlines()[0] == "refused"
    )  # a class of ours cannot be loaded without our code
    for kind, (folder, chosen, _, dtype, out) in baked.items():
        base, saved = (
            load_model(folder, "cpu", str(dtype)[6:]),
            load_model(out, "cpu", str(dtype)[6:]),
        )
        compared = verify.compare(base, chosen, saved)
        assert compared.exact and compared.argmax == 1.0, (kind, compared)
        batch = verify.tokens(base.config)
        logits, said = torch.load(tmp_path / kind)
        same = verify.logits_of(saved, batch)
        assert (logits.float() - same.float()).abs().max() <= 1e-6 * same.abs().max(), kind
        assert torch.equal(said, verify.greedy(saved, batch, 6)), kind
        assert (
            verify.logits_of(base, batch).float() - logits.float()
        ).abs().max() > 0.05  # the filter matters
        if kind in (
            "gpt2",
            "qwen2",
        ):  # the unembedding is a parameter of its own, in weights and configuration
            assert json.loads(Path(out, "config.json").read_text())["tie_word_embeddings"] is False
            assert (
                saved.get_output_embeddings().weight.data_ptr()
                != saved.get_input_embeddings().weight.data_ptr()
            )


def test_untouched_tensors_are_copied_to_the_bit(baked):
    for kind, (folder, _, mode, dtype, out) in baked.items():
        before, after = (load_model(f, "cpu", str(dtype)[6:]).state_dict() for f in (folder, out))
        changed = {n for n, t in before.items() if not torch.equal(t, after[n])}
        if mode == "class":
            assert not changed, kind
        else:
            (name,) = changed
            assert name.startswith(("lm_head", "embed_out")), kind


def test_strength_zero_changes_no_bit(baked, tmp_path):
    for kind, mode in (("gpt_neox", "class"), ("phi", "post-norm")):
        folder, chosen, _, dtype, _ = baked[kind]
        out = tmp_path / kind
        out.mkdir()
        bake.bake(folder, chosen.at(0), mode, out)
        base, saved = (
            load_model(folder, "cpu", str(dtype)[6:]),
            load_model(out, "cpu", str(dtype)[6:]),
        )
        batch = verify.tokens(base.config)
        plain = verify.logits_of(base, batch)
        assert torch.equal(plain, verify.logits_of(saved, batch))
        with hooked(base, chosen.at(0)):
            assert torch.equal(plain, verify.logits_of(base, batch))


def test_sequential_reloads_wrong(tmp_path):
    """The norm wrapped in nn.Sequential is right in memory, and silently lost when it is loaded."""
    import transformers

    model = lively("llama", tie_word_embeddings=False)
    chosen, batch = draw(model, "pre_norm"), verify.tokens(model.config)
    with hooked(model, chosen):
        wanted = verify.logits_of(model, batch)
    inserted = torch.nn.Linear(32, 32, bias=False)
    inserted.weight.data = torch.eye(32) - chosen.strength * chosen.basis @ chosen.basis.T
    model.model.norm = torch.nn.Sequential(inserted, model.model.norm)
    assert (verify.logits_of(model, batch) - wanted).abs().max() < 1e-4
    model.save_pretrained(tmp_path)
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert "model.norm.weight" in info["missing_keys"]
    assert (verify.logits_of(again.eval(), batch) - wanted).abs().max() > 0.05


def test_editing_a_tied_tensor_is_wrong_and_verify_names_the_module(baked):
    folder, chosen, _, _, _ = baked["gpt2"]
    base, edited = load_model(folder), load_model(folder)
    with torch.no_grad():
        edited.lm_head.weight.copy_(bake.folded(edited.lm_head.weight, chosen))
    compared = verify.compare(base, chosen, edited)
    assert not compared.exact and compared.first_difference == "transformer.wte"


def test_modes_that_would_not_be_exact_are_refused(baked):
    neox, phi = (load_model(baked[kind][0]) for kind in ("gpt_neox", "phi"))
    for chosen, mode, word in (
        (draw(neox, "pre_norm"), "post-norm", "norm stands between"),
        (draw(neox, "post_norm", gated=True), "post-norm", "a gate"),
        (draw(phi, "post_norm", offset=torch.ones(32)), "post-norm", "an offset"),
        (draw(phi, "post_norm"), "writers", "choose auto, post-norm, class"),
        (draw(phi, "pre_norm"), "greedy-only", "choose auto, post-norm, class"),
    ):
        with pytest.raises(UserError, match=word):
            bake.pick_mode(chosen, mode)
    assert bake.pick_mode(draw(neox, "post_norm")) == "post-norm"
    assert bake.pick_mode(draw(neox, "block:0")) == "class"


def test_a_folder_of_a_former_mode_is_one_clear_line_when_loaded(baked, tmp_path):
    """`writers` is told from the record of baking, `greedy-only` also where that is lost."""
    for mode in ("writers", "greedy-only"):
        folder = tmp_path / mode
        shutil.copytree(baked["phi"][4], folder)
        load_model(folder)
        record = {"settings": {"mode": mode}}
        (folder / "bake.run.json").write_text(json.dumps(record), encoding="utf-8")
        for load in (load_model, load_tokenizer):
            with pytest.raises(UserError, match=f"former mode {mode}.*post-norm or class"):
                load(folder)
    (folder / "bake.run.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"exactness": "argmax"}))
    with pytest.raises(UserError, match="former mode greedy-only"):
        load_model(folder)


def test_a_baked_folder_is_a_model_like_any_other(baked):
    """Weights compare with the base's, and the lens reads it.

    A class leaves them alone, a fold changes the unembedding.
    """
    from brittle.models.find import check_pair
    from brittle.models.readout import read_tokens
    from brittle.models.weights import matrix_pairs

    for kind, changed in (("gpt_neox", 0), ("phi", 1)):
        folder, _, _, dtype, out = baked[kind]
        check_pair(folder, out)
        pairs = list(matrix_pairs(folder, out))
        assert len(pairs) > 10 and sum(not torch.equal(a, b) for _, a, b in pairs) == changed
        model = load_model(out, "cpu", str(dtype)[6:])
        assert read_tokens(model, torch.zeros(3, 32)).isfinite().all()
