"""Streaming two checkpoints: names, groups, shapes of every family, shards, dtypes, and models that
do not fit together.
"""

import json

import pytest
import torch

from brittle.base.errors import UserError
from brittle.maths.precision import below_ulp
from brittle.models import architectures, weights
from support.tiny_models import FAMILIES, make_model, save


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_once_as_out_by_in(family, tmp_path):
    """Each linear map is [out, in], in the groups of its module; every floating-point matrix of the
    model is there.
    """
    model = make_model(family)
    folder = save(model, tmp_path / "m")
    pairs = {name: w for name, w, _ in weights.matrix_pairs(folder, folder)}
    n_entries = sum(p.numel() for p in model.parameters() if p.ndim >= 2)
    assert sum(w.numel() for w in pairs.values()) == n_entries
    blocks = [n for n in pairs if architectures.layer_of(n) >= 0]
    assert {architectures.layer_of(n) for n in blocks} == {0, 1, 2} and len(blocks) % 3 == 0
    assert {architectures.group_of(n) for n in blocks} == {"attn", "mlp"}
    assert {architectures.group_of(n) for n in pairs if architectures.layer_of(n) < 0} == {"other"}
    for name, w in pairs.items():
        if architectures.group_of(name) == "mlp" and "gate.weight" not in name:
            down = any(part in name for part in ("h_to_4h", "c_fc", "up", "gate", "fc1"))
            assert tuple(w.shape) == ((64, 32) if down else (32, 64)), name


def test_stack_gives_a_matrix_an_expert(tmp_path):
    from safetensors.torch import save_file

    stack = torch.randn(4, 6, 5)
    save_file(
        {"model.layers.0.mlp.experts.gate_up_proj": stack, "norm": torch.ones(5)},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text("{}")
    pairs = list(weights.matrix_pairs(tmp_path, tmp_path))
    assert [n for n, _, _ in pairs] == [
        f"model.layers.0.mlp.experts.gate_up_proj[{e}]" for e in range(4)
    ]
    assert all(torch.equal(w, stack[e]) for e, (_, w, _) in enumerate(pairs))
    assert architectures.group_of(pairs[0][0]) == "mlp" and architectures.layer_of(pairs[0][0]) == 0


def test_shards_and_one_file_are_the_same(tmp_path):
    model = make_model()
    whole, parts = (
        save(model, tmp_path / "whole"),
        save(model, tmp_path / "parts", max_shard_size="20KB"),
    )
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    found = list(weights.matrix_pairs(whole, parts))
    assert len(found) == 14 and all(torch.equal(a, b) for _, a, b in found)
    (
        tmp_path / "parts" / sorted(p.name for p in (tmp_path / "parts").glob("*.safetensors"))[0]
    ).unlink()
    with pytest.raises(UserError, match="lacks the shard"):
        list(weights.matrix_pairs(whole, parts))


def test_second_copy_of_the_weights_is_not_read(tmp_path):
    from safetensors.torch import save_file

    folder = save(make_model(), tmp_path / "m")
    save_file(
        {"layers.0.attention.wq.weight": torch.ones(3, 3)},
        tmp_path / "m" / "consolidated.safetensors",
    )
    assert "layers.0.attention.wq.weight" not in [
        n for n, _, _ in weights.matrix_pairs(folder, folder)
    ]


def test_layers_in_natural_order(tmp_path):
    folder = save(make_model(num_hidden_layers=11), tmp_path / "m")
    layers = [architectures.layer_of(n) for n, _, _ in weights.matrix_pairs(folder, folder)]
    assert layers == sorted(layers)


def test_models_that_do_not_fit_together(tmp_path):
    a = save(make_model(), tmp_path / "a")
    wide = save(make_model(intermediate_size=48), tmp_path / "wide")
    deep = save(make_model(num_hidden_layers=4), tmp_path / "deep")
    with pytest.raises(UserError, match=r"differ in shape at gpt_neox.layers.0.mlp.* \(\d+ such"):
        list(weights.matrix_pairs(a, wide))
    with pytest.raises(UserError, match=r"only B has gpt_neox.layers.3.* \(12 such"):
        list(weights.matrix_pairs(a, deep))


@pytest.mark.parametrize(("factor", "below"), [(0.0, False), (0.1, True), (8.0, False)])
def test_change_below_one_unit_in_the_last_place(factor, below):
    w = (1 + 0.5 * torch.rand(64, 64, generator=torch.Generator().manual_seed(0))).bfloat16()
    unit = torch.finfo(torch.bfloat16).eps  # of numbers in [1, 2)
    assert below_ulp(w, torch.full_like(w, factor * unit).double()) is below


@pytest.mark.parametrize(("units", "below"), [(0.9, True), (1.1, False)])
def test_the_typical_entry_decides_however_many_there_are(units, below):
    """Entries of 3 have a unit of 2 eps; a tenth of them change, so their mean square counts."""
    w = torch.full((40, 40), 3.0).bfloat16()
    dw = torch.zeros(1600, dtype=torch.float64)
    dw[::10] = 10**0.5 * units * 2 * torch.finfo(torch.bfloat16).eps
    assert below_ulp(w, dw.view(40, 40)) is below


def test_only_floating_point_matrices(tmp_path):
    from safetensors.torch import save_file

    save_file(
        {"a.weight": torch.ones(3, 3), "b": torch.ones(3, 3, dtype=torch.int32)},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert [n for n, _, _ in weights.matrix_pairs(tmp_path, tmp_path)] == ["a.weight"]


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2"])
def test_adapter_is_its_merged_model(family, tmp_path):
    """A LoRA folder as model B gives the matrices of the model that it merges to, and dW of its
    rank.
    """
    import peft

    base = save(make_model(family), tmp_path / "base")
    config = peft.LoraConfig(
        r=2, lora_alpha=8, target_modules="all-linear", fan_in_fan_out=family == "gpt2"
    )
    wrapped = peft.get_peft_model(make_model(family), config)
    for name, p in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(len(name)))
    wrapped.save_pretrained(tmp_path / "adapter")
    merged = save(wrapped.merge_and_unload(), tmp_path / "merged")
    pairs = zip(
        weights.matrix_pairs(base, tmp_path / "adapter"),
        weights.matrix_pairs(base, merged),
        strict=True,
    )
    changed = 0
    for (name, w_a, w_b), (other, _, wanted) in pairs:
        assert name == other and torch.allclose(w_b.double(), wanted.double(), atol=1e-5)
        changed += not torch.equal(w_a, w_b)
        assert torch.linalg.matrix_rank((w_b.double() - w_a.double()), rtol=1e-6) == (
            0 if torch.equal(w_a, w_b) else 2
        )
    assert changed == 12


def test_adapter_of_another_model(tmp_path):
    import peft

    base = save(make_model(num_hidden_layers=2), tmp_path / "base")
    wrapped = peft.get_peft_model(make_model(), peft.LoraConfig(r=2, target_modules="all-linear"))
    wrapped.save_pretrained(tmp_path / "adapter")
    with pytest.raises(
        UserError, match=r"adapts gpt_neox.layers.2.* \(4 such matrices\), which A lacks"
    ):
        list(weights.matrix_pairs(base, tmp_path / "adapter"))
