"""What architectures.py says of each family, against the family's own modules and saved files."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers.pytorch_utils import Conv1D

from brittle.base.errors import UserError
from brittle.models import architectures
from support.tiny_models import FAMILIES, SIZES, make_model, save


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def linear_layers(model):
    """{parameter's name: (outputs, inputs)}, as the modules say it."""
    shapes = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            shapes[f"{name}.weight"] = (module.out_features, module.in_features)
        elif isinstance(module, Conv1D):
            shapes[f"{name}.weight"] = (module.nf, module.nx)
    return shapes


def test_matrices_have_rows_of_outputs(family):
    model = make_model(family)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, shape in linear_layers(model).items():
        rows = architectures.as_rows(parameters[name], name, model.config)
        assert tuple(rows.shape) == shape, name


def test_only_linear_layers_of_gpt2_are_turned():
    turned = [
        name
        for name, _ in make_model("gpt2").named_parameters()
        if architectures.is_transposed({"model_type": "gpt2"}, name)
    ]
    ends = ("c_attn.weight", "c_fc.weight", "c_proj.weight")
    assert len(turned) == 3 * 4 and all(name.endswith(ends) for name in turned)
    assert not architectures.is_transposed({"model_type": "llama"}, turned[0])


def test_a_baked_filter_leaves_the_architecture_as_it_was():
    baked = {"model_type": "filtered_gpt2", "n_embd": 8, "n_layer": 2, "vocab_size": 5}
    name = "transformer.h.0.mlp.c_fc.weight"
    assert architectures.is_transposed(baked, name)
    assert architectures.architecture(baked) == {
        "model_type": "gpt2",
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "vocab_size": 5,
    }


def test_sizes_have_one_set_of_names(family, tmp_path):
    """The object and the dict of its config.json give the same, GPT-2's names included."""
    model = make_model(family)
    save(model, tmp_path / "m")
    stored = json.loads((tmp_path / "m" / "config.json").read_text())
    wanted = {name: SIZES[name] for name in architectures.SIZES if name in SIZES}
    for config in (model.config, stored):
        assert {name: architectures.size(config, name) for name in wanted} == wanted
        assert architectures.context_length(config) == SIZES["max_position_embeddings"]
        assert architectures.architecture(config)["model_type"] == family
    assert architectures.size(stored, "num_experts") == FAMILIES[family].get("num_experts")
    assert architectures.context_length({}) == 2048


def test_names_of_head_and_embedding(family, tmp_path):
    """A saved file has the model's output and input embeddings under these names."""
    model = make_model(family)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    folder = save(model, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    with safe_open(f"{folder}/model.safetensors", framework="pt") as file:
        head = architectures.head_name(file.keys(), config)
        embedding = file.get_tensor(architectures.embedding_name(file.keys()))
        assert torch.equal(embedding, model.get_input_embeddings().weight)
        assert (head is None) == tied
        if head:
            assert torch.equal(file.get_tensor(head), model.get_output_embeddings().weight)
    untied = save(make_model(family, tie_word_embeddings=False), tmp_path / "untied")
    with safe_open(f"{untied}/model.safetensors", framework="pt") as file:
        names = list(file.keys())
    assert architectures.untied_head_name(config) in names


def test_attention_is_made_of_queries_keys_values_and_an_output(family):
    model = make_model(family)
    names = [n.removesuffix(".weight") for n in linear_layers(model)]
    attention = [n for n in names if architectures.group_of(f"{n}.weight") == "attn"]
    outputs = [n for n in attention if not architectures.is_qkv(n)]
    assert [architectures.layer_of(f"{n}.weight") for n in outputs] == [0, 1, 2]
    assert all(architectures.group_of(f"{n}.weight") == "attn" for n in names if "attn" in n)


def small(kind, **changes):
    """A model of a family on the meta device, two blocks deep."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **changes))


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("ctrl", {"n_layer": 2, "n_embd": 32, "n_head": 2, "dff": 64}),
        ("cpmant", {"num_hidden_layers": 2, "hidden_size": 32, "dim_ff": 64}),
        ("biogpt", {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2}),
    ],
)
def test_embeddings_of_rarer_families_are_found(kind, sizes):
    model = small(kind, **sizes)
    parameters = dict(model.named_parameters())
    name = architectures.embedding_name(list(parameters))
    assert parameters[name] is model.get_input_embeddings().weight
    bare = [name.removeprefix(f"{model.base_model_prefix}.") for name in parameters]
    assert architectures.embedding_name(bare) == name.removeprefix(f"{model.base_model_prefix}.")


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("model.encoder.layers.7.attn.to_q.weight", -1),  # Granite Speech's sound
        ("encoder.layers.7.ff1.up_proj.weight", -1),
        ("model.language_model.layers.7.mlp.up_proj.weight", 7),
        ("model.diffusion_head.layers.3.ffn.up_proj.weight", -1),  # VibeVoice speaks
        ("model.dit.layers.3.mlp.up_proj.weight", -1),  # pi0 moves an arm
        ("cpmant.encoder.layers.3.ffn.ffn.w_in.w_0.weight", 3),
        ("git.encoder.layer.3.output.dense.weight", 3),
        ("git.image_encoder.vision_model.encoder.layers.3.mlp.fc1.weight", -1),
        ("model.decoder.layers.3.fc1.weight", 3),
    ],
)
def test_blocks_of_the_language_model_alone_have_a_number(name, block):
    assert architectures.layer_of(name) == block
    assert block >= 0 or architectures.group_of(name) == "other"


def test_profiles_of_distances_are_turned_and_scales_are_no_matrices():
    """Inkling computes relative_states @ proj, and keeps one scale a head and width."""
    profile = "model.layers.0.self_attn.rel_logits_proj.proj"
    assert architectures.is_transposed({"model_type": "inkling_text"}, profile)
    assert architectures.is_matrix((16, 512), profile)
    assert not architectures.is_matrix((48, 128), "model.layers.0.self_attn.q_l2_clip.scale")
    # DeepSeek-V4's hyper-connections and grouped projections are F.linear's: rows are outputs
    for name in ("attn_hc.fn", "self_attn.o_a_proj.weight", "mlp.experts.down_proj"):
        assert not architectures.is_transposed(
            {"model_type": "deepseek_v4"}, f"model.layers.0.{name}"
        )


def test_several_stacks_of_blocks_are_refused():
    """HRM's two modules and BLT's three transformers: block 0 of one is not block 0 of another."""
    one = ["model.layers.0.mlp.w.weight", "model.layers.1.mlp.w.weight", "lm_head.weight"]
    tower = "model.vision_tower.encoder.layers.0.fc1.weight"
    architectures.check_one_stack([*one, tower], "m")
    two = ["model.H_module.layers.0.mlp.w.weight", "model.L_module.layers.0.mlp.w.weight"]
    with pytest.raises(UserError, match=r"several stacks \(model.H_module.layers, model.L_module"):
        architectures.check_one_stack(two, "m")
