"""Every family that people arrive with, against plain transformers: states, changes, training,
generation, filters.

What the whole commands give is in tests/bench/architectures.py, which takes minutes.
"""

import copy
import re

import pytest
import torch

from brittle.filters.bake import bake
from brittle.models import generate, hooks, weights
from brittle.models.architectures import group_of, is_qkv
from brittle.models.blocks import blocks, final_norm
from brittle.models.filter import Filter
from brittle.models.load import load_model
from brittle.models.readout import check_unembedding, unembed
from brittle.training.cost import Cost
from support import tiny
from support.families import FAMILIES, NESTED, make_family
from support.started import batches, start, total
from support.tiny_models import make_tokenizer

IDS = {"vocab_size": tiny.VOCAB, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": tiny.PAD}
# families whose filters are refused: states have another width in front of the unembedding
PROJECTED = ("opt, projected",)
METHODS = ("npo", "rmu", "cb_lat")


@pytest.fixture(scope="module", params=[*FAMILIES, *NESTED])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory):
    place = tmp_path_factory.mktemp("family") / "model"
    make_family(name, **IDS).save_pretrained(place)
    make_tokenizer().save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def model(folder):
    """Read only."""
    return load_model(folder)


@pytest.fixture(scope="module")
def batch():
    return {k: v for k, v in tiny.batch(tiny.ids(3)).items() if k != "index"}


def blocks_by_name(model):
    """(name, list) of the language model's blocks: three of one class with an attention each."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == 3 and "vision" not in name:
            return name, module
    raise AssertionError


@torch.no_grad()
def test_block_outputs_are_hidden_states(name, model, batch):
    told = model(**batch, output_hidden_states=True)
    stream = hooks.residual_stream(model, batch)
    assert blocks(model) is blocks_by_name(model)[1]
    for h, wanted in zip(stream[:-1], told.hidden_states[:-1], strict=True):
        assert torch.equal(h, wanted)
    read = final_norm(model)(stream[-1])
    if name not in PROJECTED:
        assert torch.equal(read, told.hidden_states[-1])
        assert torch.allclose(unembed(model, read), told.logits, atol=1e-6)
        check_unembedding(model)


def test_attention_is_queries_keys_values_and_an_output(model):
    stem, stack = blocks_by_name(model)
    names = [f"{stem}.{n}" for n, m in stack.named_modules() if hasattr(m, "weight")]
    attention = [n for n in names if group_of(f"{n}.weight") == "attn" and "norm" not in n]
    by_block = [re.search(r"\.(\d)\.", n).group(1) for n in attention if not is_qkv(n)]
    assert by_block in (["0", "1", "2"], ["0", "0", "1", "1", "2", "2"])  # LongCat has two a block


def test_the_change_between_two_files_is_that_of_the_parameters(folder, model, tmp_path):
    other = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(0)
    stem, _ = blocks_by_name(model)
    wanted = dict.fromkeys((-1, 0, 1, 2), 0.0)
    with torch.no_grad():
        for name, p in other.named_parameters():
            change = 0.1 * torch.randn(p.shape, generator=draw)
            p.add_(change)
            if weights.is_matrix(p.shape, name):
                inside = name.startswith(f"{stem}.")
                block = int(name[len(stem) + 1]) if inside else -1
                wanted[block] += float(change.double().square().sum())
    other.save_pretrained(tmp_path / "b")
    told = dict.fromkeys(wanted, 0.0)
    for name, before, after in weights.matrix_pairs(folder, tmp_path / "b"):
        told[weights.layer_of(name)] += float((after - before).double().square().sum())
    assert told == pytest.approx(wanted, rel=1e-4)


@torch.no_grad()
def test_generation_in_a_batch_is_that_of_transformers(model):
    prompts = tiny.ids(3, seed=3, shortest=3, longest=14)
    greedy = generate.Sampling(max_new_tokens=5)
    told = generate.generate(model, prompts, greedy, pad_id=tiny.PAD)
    for prompt, continuation in zip(prompts, told, strict=True):
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        wanted = model.generate(
            ids, attention_mask=mask, max_new_tokens=5, do_sample=False, eos_token_id=None
        )
        assert continuation == wanted[0, len(prompt) :].tolist()


@pytest.mark.parametrize("method", METHODS)
def test_a_step_of_a_method(model, method):
    model = copy.deepcopy(model)
    stem, _ = blocks_by_name(model)
    rule = start(method, model)
    with Cost():  # what a training counts must not disturb it
        loss = total(rule.losses(*batches(tiny.Data()), 0.1))
        loss.backward()
    trained = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert loss.isfinite() and all(g.isfinite().all() for g in trained.values())
    moved = {n for n, g in trained.items() if g.abs().max() > 0}
    by_block = {n[len(stem) + 1] for n in moved if n.startswith(f"{stem}.")}
    if method == "npo":
        assert by_block == {"0", "1", "2"}
    else:
        assert by_block == {"0", "1"}  # both steer block 1
        assert method == "cb_lat" or all(group_of(n) == "mlp" for n in moved)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["post-norm", "class"])
def test_a_baked_filter_is_the_hooked_one(name, folder, model, batch, mode, tmp_path):
    if name in PROJECTED:
        return
    basis = torch.linalg.qr(torch.randn(32, 3, generator=torch.Generator().manual_seed(1)))[0]
    site = "post_norm" if mode == "post-norm" else "block:1"
    bake(folder, Filter(site, basis, 0.7), mode, tmp_path)

    def by_hand(h):
        return h - 0.7 * (h @ basis) @ basis.T

    def after(_module, _inputs, out):
        return by_hand(out) if torch.is_tensor(out) else (by_hand(out[0]), *out[1:])

    if mode == "post-norm":
        head = model.get_output_embeddings()
        handle = head.register_forward_pre_hook(lambda _module, args: (by_hand(args[0]),))
    else:
        handle = blocks_by_name(model)[1][1].register_forward_hook(after)
    wanted = model(**batch).logits
    handle.remove()
    told = load_model(tmp_path)(**batch).logits
    assert torch.allclose(told, wanted, atol=1e-5)
    assert not torch.allclose(wanted, model(**batch).logits, atol=1e-3)
