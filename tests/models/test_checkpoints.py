"""What a checkpoint loads as: other names of the same parameters, experts, nested configurations,
quantised files, adapters that hold more than LoRA factors, the stored dtype."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from brittle.base.errors import UserError
from brittle.models import architectures, blocks, weights
from brittle.models.find import model_folder
from brittle.models.load import load_changed, load_model, load_pair
from brittle.unlearning import saving
from support.families import REFUSED
from support.tiny_models import SIZES, make_model, save

MOE = {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
TURNED = {
    "gpt_oss": MOE | {"head_dim": 8},
    "llama4_text": MOE
    | {"head_dim": 8, "intermediate_size_mlp": 64, "interleave_moe_layer_step": 1}
    | {"num_experts_per_tok": 1},
}


def make(family, seed=0, **changes):
    """A random model of any family, every parameter drawn anew."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = changes.pop("config", None)
    config = config or AutoConfig.for_model(family, **{**SIZES, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.normal_(0, 0.2)
    return model


def nested(seed=0):
    """Gemma 3 with a vision tower as deep and as wide as its language model."""
    from transformers import Gemma3Config, Gemma3TextConfig

    text = {**SIZES, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8}
    sides = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    vision = {name: SIZES[name] for name in sides} | {"image_size": 28, "patch_size": 14}
    tokens = {"image_token_index": 45, "boi_token_index": 46, "eoi_token_index": 47}
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**text).to_dict(),
        vision_config=vision,
        mm_tokens_per_image=4,
        **tokens,
    )
    return make("gemma3", seed, config=config)


def rewrite(folder, change):
    file = Path(folder) / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def set_config(folder, **changes):
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def one_line(error):
    return "\n" not in str(error.value) and len(str(error.value)) < 500


# --- names


def with_masks(tensors):
    more = {}
    for i in range(3):
        stem = f"gpt_neox.layers.{i}.attention"
        more[f"{stem}.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8).tril()
        more[f"{stem}.masked_bias"] = torch.tensor(-1e9)
        more[f"{stem}.rotary_emb.inv_freq"] = torch.rand(4)
    return tensors | more


def with_frequencies(tensors):
    stem = "model.layers.{}.self_attn.rotary_emb.inv_freq"
    return tensors | {stem.format(i): torch.rand(4) for i in range(3)}


def with_bare_masks(tensors):
    tensors = {name.removeprefix("transformer."): t for name, t in tensors.items()}
    return tensors | {f"h.{i}.attn.bias": torch.ones(1, 1, 64, 64) for i in range(3)}


def without(prefix):
    return lambda tensors: {name.removeprefix(prefix): t for name, t in tensors.items()}


def with_copy(tensors):
    return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}


def as_head_only(tensors):
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    return tensors


TIED = {"num_key_value_heads": 2, "tie_word_embeddings": True}
OTHER_FILES = {
    "pythia": ("gpt_neox", {}, with_masks),
    "llama 2": ("llama", {}, with_frequencies),
    "gpt2": ("gpt2", {}, with_bare_masks),
    "bloom": ("bloom", {"n_layer": 3, "n_head": 4}, without("transformer.")),
    "llama base model": ("llama", TIED, without("model.")),
    "qwen3 0.6B": ("qwen3", TIED | {"head_dim": 8}, with_copy),
    "qwen2, head alone": ("qwen2", TIED, as_head_only),
}


@pytest.mark.parametrize("case", OTHER_FILES)
def test_other_names_of_the_same_parameters(case, tmp_path):
    """The change between two files is that of the models that they load as, each way round."""
    family, options, change = OTHER_FILES[case]
    a, b = make(family, 0, **options), make(family, 1, **options)
    hub, ours = save(a, tmp_path / "hub"), save(b, tmp_path / "ours")
    rewrite(hub, change)
    wanted = sum(
        float((p - q).double().pow(2).sum())
        for p, q in zip(a.parameters(), b.parameters(), strict=True)
        if p.ndim > 1
    )
    for folders in ((hub, ours), (ours, hub)):
        pairs = list(weights.matrix_pairs(*folders))
        assert len({name for name, _, _ in pairs}) == len(pairs)
        total = sum(float((v - w).double().pow(2).sum()) for _, w, v in pairs)
        assert total == pytest.approx(wanted, rel=1e-6)
        inside = {architectures.layer_of(name) for name, _, _ in pairs}
        assert inside >= {0, 1, 2}


def test_a_lost_parameter_stays_an_error(tmp_path):
    """Also beside differences that do not matter."""
    hub, ours = save(make("gpt_neox"), tmp_path / "hub"), save(make("gpt_neox"), tmp_path / "ours")

    def lose(tensors):
        tensors.pop("gpt_neox.layers.1.mlp.dense_4h_to_h.weight")
        return with_masks(tensors)

    rewrite(hub, lose)
    with pytest.raises(UserError, match=r"only B has gpt_neox.layers.1.mlp.dense_4h_to_h\S* \(1"):
        list(weights.matrix_pairs(hub, ours))


def test_a_copy_that_differs_is_no_copy(tmp_path):
    """transformers unties such a head, so it is a parameter."""
    options = TIED | {"head_dim": 8}
    folder = save(make("qwen3", **options), tmp_path / "a")
    rewrite(folder, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"] + 1})
    names = [name for name, _, _ in weights.matrix_pairs(folder, folder)]
    assert "lm_head.weight" in names


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "mixtral", "gpt_oss"])
def test_parameters_of_a_file_are_the_models(family, tmp_path):
    """Every parameter by the module's name, experts put together, without prefix and with masks."""
    options = TURNED.get(family, MOE if family == "mixtral" else {})
    model = make(family, **options)
    folder = save(model, tmp_path / "m")
    if family == "gpt2":
        rewrite(folder, with_bare_masks)
    with ExitStack() as stack:
        checkpoint = weights.Checkpoint(folder, stack)
        parameters = weights.Parameters(checkpoint, model, whole=True)
        named = dict(model.named_parameters())
        assert set(parameters) == set(named)
        for name, p in named.items():
            assert parameters.shape(name) == tuple(p.shape)
            assert torch.equal(parameters.tensor(name), p), name


def test_every_changed_matrix_is_checked_for_the_dtype(tmp_path):
    """Experts and the unembedding are called otherwise in the file than in the model."""
    for family, options in (("mixtral", MOE), ("gpt_neox", {})):
        model = make(family, **options)
        folder = save(model, tmp_path / family)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1 + 1e-7)
        matrices = [n for n, p in model.named_parameters() if weights.is_matrix(p.shape, n)]
        _, changed = saving.unresolved(folder, model, torch.float32)
        assert changed == len(matrices)


# --- experts


@pytest.mark.parametrize("family", TURNED)
def test_experts_are_turned_by_family(family, tmp_path):
    model = make(family, **TURNED[family])
    folder = save(model, tmp_path / "m")
    shapes = {n: tuple(w.shape) for n, w, _ in weights.matrix_pairs(folder, folder)}
    down = {n: s for n, s in shapes.items() if "experts.down_proj" in n}
    assert len(down) == 3 * 4 and set(down.values()) == {(32, 64)}
    assert {s for n, s in shapes.items() if "experts.gate_up_proj" in n} == {(128, 32)}
    assert not any("bias" in n for n in shapes)
    names = blocks.down_projections(model, [1])
    assert names and all("down_proj" in n and "bias" not in n for n in names)
    assert any("experts.down_proj" in n for n in names)


def test_down_projection_of_an_mlp_as_wide_as_the_stream():
    """gpt-oss: the shape does not tell; the name does."""
    model = make("gpt_oss", **TURNED["gpt_oss"], intermediate_size=32)
    assert blocks.down_projections(model, [0]) == ["model.layers.0.mlp.experts.down_proj"]


# --- nested configurations


def test_the_language_model_of_a_nested_configuration(tmp_path):
    from brittle.models.hooks import residual_stream

    model = nested()
    stored = json.loads((Path(save(model, tmp_path / "m")) / "config.json").read_text())
    for config in (model.config, stored):
        assert architectures.size(config, "hidden_size") == 32
        assert architectures.size(config, "num_hidden_layers") == 3
        assert architectures.context_length(config) == 64
    assert blocks.blocks(model) is model.model.language_model.layers
    names = blocks.down_projections(model, [0])
    assert names == ["model.language_model.layers.0.mlp.down_proj.weight"]
    assert len(residual_stream(model, {"input_ids": torch.arange(3, 9)[None]})) == 4


def test_a_nested_model_fits_its_language_model_alone():
    """transformers loads Llama 4 as its language model, and saves that alone."""
    whole = {"model_type": "llama4", "text_config": {"model_type": "llama4_text"}}
    assert architectures.model_types(whole) == {"llama4", "llama4_text"}
    assert architectures.model_types({"model_type": "filtered_llama"}) == {"llama"}
    assert not architectures.model_types(whole) & architectures.model_types({"model_type": "llama"})


@pytest.mark.parametrize(
    "name",
    [
        "model.video_tower.encoder.layers.0.mlp.fc1.weight",
        "qformer.encoder.layer.0.attention.attention.query.weight",
        "model.connector.perceiver_resampler.layers.0.mlp.up_proj.weight",
        "talker.model.layers.0.mlp.up_proj.weight",
        "codec_model.encoder.encoder_transformer.layers.0.mlp.fc1.weight",
        "mtp.layers.0.mlp.up_proj.weight",
    ],
)
def test_blocks_beside_the_language_model_are_none_of_its(name):
    assert architectures.layer_of(name) == -1 and architectures.group_of(name) == "other"


def test_a_block_behind_the_last_is_not_compared(tmp_path):
    """DeepSeek-V3 and GLM-4.5 store one that predicts several tokens; nobody loads it."""
    folder = save(make("llama"), tmp_path / "m")

    def with_one_more(tensors):
        stem = "model.layers.2."
        more = {n.replace(stem, "model.layers.3."): t + 1 for n, t in tensors.items() if stem in n}
        return tensors | more

    rewrite(folder, with_one_more)
    names = [name for name, _, _ in weights.matrix_pairs(folder, folder)]
    assert {architectures.layer_of(name) for name in names} == {-1, 0, 1, 2}


def test_a_vision_tower_is_in_no_block(tmp_path):
    folder = save(nested(), tmp_path / "m")
    for name, _, _ in weights.matrix_pairs(folder, folder):
        inside = architectures.layer_of(name) >= 0
        assert inside == ("language_model.layers." in name), name
        assert inside or architectures.group_of(name) == "other"


# --- what is not read


PACKED = {
    "gptq": {"qweight": torch.int32, "scales": torch.float16},
    "awq": {"qweight": torch.int32, "qzeros": torch.int32},
    "fp8": {"weight": torch.float8_e4m3fn},
    "fp8 scales": {"weight_scale_inv": torch.float32},
    "bitsandbytes": {"weight": torch.uint8, "weight.absmax": torch.float32},
    "int8": {"weight": torch.int8, "SCB": torch.float32},
    "marlin": {"B": torch.int32, "s": torch.float16},
    "eetq": {"weight": torch.int8, "weight_scales": torch.float16},
    "nvfp4": {"weight": torch.uint8, "weight_scale_2": torch.float32},
    "hqq": {"W_q": torch.uint8, "zero": torch.float16},
    "quanto": {"weight._data": torch.int8, "weight._scale": torch.float16},
    "aqlm": {"codes": torch.int8, "codebooks": torch.float16},
    "compressed-tensors": {"weight_packed": torch.int32, "weight_shape": torch.int64},
    "mxfp4": {"gate_up_proj_blocks": torch.uint8, "gate_up_proj_scales": torch.uint8},
}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("said", [True, False])
def test_quantised_files_are_refused(kind, said, tmp_path):
    """By what config.json says, or by the tensors alone."""
    folder = save(make_model("llama"), tmp_path / "m")

    def pack(tensors):
        stem = "model.layers.0.mlp.up_proj"
        tensors.pop(f"{stem}.weight")
        new = {f"{stem}.{n}": torch.ones(4, 4).to(dtype) for n, dtype in PACKED[kind].items()}
        return tensors | new

    if said:
        set_config(folder, quantization_config={"quant_method": kind})
    else:
        rewrite(folder, pack)
    with pytest.raises(UserError, match="stored quantised") as error:
        list(weights.matrix_pairs(folder, folder))
    assert one_line(error)
    if said:
        with pytest.raises(UserError, match=f"stored quantised .{kind}.") as error:
            load_model(folder)
        assert one_line(error)


def test_older_compressed_tensors_name_their_configuration_otherwise():
    config = {"model_type": "llama", "compression_config": {"quant_method": "compressed-tensors"}}
    with pytest.raises(UserError, match=r"stored quantised .compressed-tensors."):
        architectures.check_readable(config, "m")


def test_masks_of_whole_numbers_are_no_weights(tmp_path):
    """GPT-J and CodeGen kept them beside the parameters, as bytes."""
    folder = save(make_model("llama"), tmp_path / "m")
    before = len(list(weights.matrix_pairs(folder, folder)))
    stem, mask = "model.layers.0.self_attn", torch.ones(1, 1, 8, 8, dtype=torch.uint8)
    more = {f"{stem}.causal_mask": mask, f"{stem}.position_ids": torch.arange(8)[None]}
    rewrite(folder, lambda tensors: tensors | more)
    assert len(list(weights.matrix_pairs(folder, folder))) == before


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "mamba"}, "state-space or hybrid"),
        (
            {"model_type": "qwen3_next", "layer_types": ["linear_attention"]},
            "state-space or hybrid",
        ),
        ({"model_type": "jamba", "layers_block_type": ["mamba"]}, "state-space or hybrid"),
        ({"model_type": "x", "text_config": {"layer_types": ["conv"]}}, "state-space or hybrid"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "dbrx"}, "all experts in one matrix"),
        ({"model_type": "bert"}, "an encoder"),
        ({"model_type": "xlm-roberta"}, "an encoder"),
        ({"model_type": "modernbert"}, "an encoder"),
    ],
)
def test_models_of_other_kinds_get_one_line(config, says, tmp_path):
    folder = save(make_model("llama"), tmp_path / "m")
    set_config(folder, **config)
    for read in (load_model, lambda f: list(weights.matrix_pairs(f, f))):
        with pytest.raises(UserError, match=says) as error:
            read(folder)
        assert one_line(error)


@pytest.mark.parametrize(("says", "kinds"), REFUSED.items())
def test_families_that_cannot_work_say_why(says, kinds):
    """By the configuration that each family has by default."""
    from transformers import AutoConfig

    for kind in kinds:
        with pytest.raises(UserError, match=f"{says}.*{kind}|{kind}.*{says}"):
            architectures.check_readable(AutoConfig.for_model(kind).to_dict(), kind)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("mistral3", r"\(mistral3\).* Save its language model \(mistral\)"),
        ("qwen2_5_vl", r"\(qwen2_5_vl\).* Save its language model \(qwen2_5_vl_text\)"),
        ("vit", r"\(vit\).* Only decoders are read"),
    ],
)
def test_models_that_are_more_than_a_language_model_say_so(kind, says, tmp_path):
    from transformers import AutoConfig

    folder = save(make_model("llama"), tmp_path / "m")
    AutoConfig.for_model(kind).save_pretrained(folder)
    with pytest.raises(UserError, match=says) as error:
        load_model(folder)
    assert one_line(error)


@pytest.mark.parametrize(
    "config", [{"model_type": "modernbert-decoder"}, {"model_type": "bert", "is_decoder": True}]
)
def test_decoders_of_an_encoders_name_are_read(config):
    architectures.check_readable(config, "m")


def test_attention_of_several_kinds_is_read():
    config = {"model_type": "gemma3_text", "layer_types": ["sliding_attention", "full_attention"]}
    architectures.check_readable(config, "m")


# --- adapters


def adapter(base, folder, **options):
    """A trained LoRA adapter of the model in `base`, and the model that PEFT merges it to."""
    import peft

    options = {"target_modules": ["q_proj", "down_proj"]} | options
    config = peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **options)
    wrapped = peft.get_peft_model(load_model(base), config)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in wrapped.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=draw))
    wrapped.save_pretrained(folder)
    return peft.PeftModel.from_pretrained(load_model(base), folder).merge_and_unload()


LIKE_PEFT = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"layers.1.mlp.down_proj": 16, "q_proj": 3},
    },
    "regular expression": {"alpha_pattern": {r"layers\.[02]\.mlp\.down_proj": 32}},
    "some layers": {"layers_to_transform": [1]},
    "gaussian": {"init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("kind", LIKE_PEFT)
def test_adapters_are_merged_as_peft_merges_them(kind, tmp_path):
    base = save(make("llama"), tmp_path / "base")
    merged = adapter(base, tmp_path / "a", **LIKE_PEFT[kind]).state_dict()
    for name, _, changed in weights.matrix_pairs(base, tmp_path / "a"):
        assert torch.allclose(changed.float(), merged[name], atol=1e-5), name


REFUSED = {
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "embed_tokens": {"target_modules": ["q_proj", "embed_tokens"]},
    "trainable_token_indices": {"trainable_token_indices": [5, 6]},
    "use_dora": {"use_dora": True},
    "bias": {"bias": "lora_only"},
}


@pytest.mark.parametrize("what", REFUSED)
def test_adapters_that_hold_more_are_never_passed_over(what, tmp_path):
    """The stream refuses them and says what they hold; loading merges them as PEFT does."""
    base = save(make("llama"), tmp_path / "base")
    merged = adapter(base, tmp_path / "a", **REFUSED[what])
    with pytest.raises(UserError, match=f"no plain LoRA adapter: it has .*{what}") as error:
        list(weights.matrix_pairs(base, tmp_path / "a"))
    assert one_line(error)
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        loaded = load_changed(tmp_path / "a", base)
        assert torch.allclose(loaded(ids).logits, merged(ids).logits, atol=1e-5)
        assert not torch.allclose(loaded(ids).logits, load_model(base)(ids).logits, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights pissa"),
        ({"init_lora_weights": "olora"}, "init_lora_weights olora"),
        ({"use_something_new": True}, "use_something_new"),
        ({"target_parameters": ["experts.down_proj"]}, "target_parameters"),
        ({"peft_type": "IA3"}, "no LoRA adapter"),
    ],
)
def test_settings_that_are_not_known_are_refused(change, says, tmp_path):
    base = save(make("llama"), tmp_path / "base")
    adapter(base, tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=says) as error:
        list(weights.matrix_pairs(base, tmp_path / "a"))
    assert one_line(error)


NOT_MERGED = {
    "lora_bias": ({}, {"lora_bias": True}, "cannot be merged into"),
    "activated": ({}, {"alora_invocation_tokens": [4, 5]}, "cannot be merged into"),
    "random start": ({}, {"init_lora_weights": "pissa_niter_4"}, "random decomposition"),
    "tied embedding": (TIED, {"target_modules": ["embed_tokens"]}, "tied embeddings"),
    "tied unembedding": (TIED, {"target_modules": ["lm_head"]}, "tied embeddings"),
}


@pytest.mark.parametrize("kind", NOT_MERGED)
def test_adapters_that_change_when_they_are_merged_are_refused(kind, tmp_path):
    import peft

    sizes, options, says = NOT_MERGED[kind]
    base = save(make("llama", **sizes), tmp_path / "base")
    options = {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | options
    model = peft.get_peft_model(load_model(base), peft.LoraConfig(r=4, **options))
    model.save_pretrained(tmp_path / "a")
    with pytest.raises(UserError, match=says) as error:
        load_changed(tmp_path / "a", base)
    assert one_line(error)


def test_an_adapter_of_experts_is_merged_as_peft_merges_it(tmp_path):
    base = save(make("mixtral", **MOE), tmp_path / "base")
    options = {"target_parameters": ["mlp.experts.down_proj"], "target_modules": ["q_proj"]}
    merged, ids = adapter(base, tmp_path / "a", **options), torch.arange(3, 13)[None]
    with torch.no_grad():
        loaded = load_changed(tmp_path / "a", base)
        assert torch.allclose(loaded(ids).logits, merged(ids).logits, atol=1e-5)
        assert not torch.allclose(loaded(ids).logits, load_model(base)(ids).logits, atol=1e-3)


def test_an_adapter_stored_as_pickle(tmp_path):
    base = save(make("llama"), tmp_path / "base")
    adapter(base, tmp_path / "a")
    (tmp_path / "a" / "adapter_model.safetensors").rename(tmp_path / "a" / "adapter_model.bin")
    for read in (load_changed, lambda a, b: list(weights.matrix_pairs(b, a))):
        with pytest.raises(UserError, match="holds no safetensors"):
            read(tmp_path / "a", base)


def test_an_adapter_of_a_base_without_prefix(tmp_path):
    base = save(make("gpt2"), tmp_path / "base")
    merged = adapter(base, tmp_path / "a", target_modules=["c_attn"]).state_dict()
    rewrite(base, with_bare_masks)
    changed = {n: w for n, v, w in weights.matrix_pairs(base, tmp_path / "a") if w is not v}
    assert len(changed) == 3
    for name, w in changed.items():
        assert torch.allclose(w.float(), merged[name].T, atol=1e-5)


def test_an_adapter_beside_the_configuration_of_its_base(tmp_path):
    """As some trainers save it: it stays an adapter."""
    base = save(make("llama"), tmp_path / "base")
    merged, ids = adapter(base, tmp_path / "a"), torch.arange(3, 13)[None]
    shutil.copy(tmp_path / "base" / "config.json", tmp_path / "a")
    assert model_folder(str(tmp_path / "a"), adapters=True) == tmp_path / "a"
    with pytest.raises(UserError, match="is a LoRA adapter"):
        model_folder(str(tmp_path / "a"))
    pairs = list(weights.matrix_pairs(base, tmp_path / "a"))
    assert sum(before is not after for _, before, after in pairs) == 6
    loaded = load_pair(base, tmp_path / "a")[1]
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, merged(ids).logits, atol=1e-5)


@pytest.mark.parametrize("files", [("adapter_config.json",), ("adapter_",)])
def test_a_model_and_an_adapter_in_one_folder(files, tmp_path):
    """transformers puts the adapter on top of weights that hold it already; step 1 would not."""
    base = save(make("llama"), tmp_path / "base")
    adapter(base, tmp_path / "a").save_pretrained(tmp_path / "merged")
    for file in (tmp_path / "a").iterdir():
        if file.name.startswith(files):
            shutil.copy(file, tmp_path / "merged")
    with pytest.raises(UserError, match=r"holds a model and adapter_config\.json") as error:
        model_folder(str(tmp_path / "merged"))
    with pytest.raises(UserError, match=r"holds a model and adapter_config\.json"):
        load_changed(tmp_path / "merged", base)
    assert one_line(error)


def test_adapters_of_another_kind_are_refused(tmp_path):
    """IA3 and LoHa are no factors to add; neither loading nor the stream passes over them."""
    import peft

    base = save(make("llama"), tmp_path / "base")
    kinds = {
        "ia3": peft.IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"]),
        "loha": peft.LoHaConfig(target_modules=["q_proj"], r=2),
    }
    for kind, config in kinds.items():
        peft.get_peft_model(load_model(base), config).save_pretrained(tmp_path / kind)
        for read in (load_changed, lambda a, b: list(weights.matrix_pairs(b, a))):
            with pytest.raises(UserError, match=f"{kind} is no LoRA adapter"):
                read(tmp_path / kind, base)


def test_an_adapter_with_a_tensor_that_has_no_place(tmp_path):
    base = save(make("llama"), tmp_path / "base")
    adapter(base, tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    more = {"base_model.model.model.layers.0.nowhere.weight": torch.ones(3, 3)}
    save_file(load_file(file) | more, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"nowhere.* has no place"):
        load_changed(tmp_path / "a", base)


# --- dtype


@pytest.mark.parametrize("named", [None, "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_the_files_tell_the_dtype(stored, named, tmp_path):
    folder = save(make_model("llama"), tmp_path / "m", stored)
    set_config(folder, dtype=None, torch_dtype=named)
    assert saving.dtype_of(folder, "source") == stored
    assert saving.dtype_of(folder, "float16") == torch.float16


def test_some_float32_norms_do_not_tell_the_dtype(tmp_path):
    folder = save(make_model("llama"), tmp_path / "m", torch.bfloat16)
    rewrite(folder, lambda t: {n: x.float() if x.ndim == 1 else x for n, x in t.items()})
    assert saving.dtype_of(folder, "source") == torch.bfloat16
