"""Tiny random models of the families that people arrive with, shaped as the hub's are.

Each keeps what sets its family apart: a head width of its own, tied embeddings, soft-capped
logits, sliding windows, experts, a vocabulary padded beyond the tokenizer's.
"""

import copy
import re

import torch

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
}
GROUPED = {"num_key_value_heads": 2}
OWN_HEADS = GROUPED | {"head_dim": 12}  # heads wider than hidden_size / num_attention_heads
EXPERTS = GROUPED | {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]
SLIDING = {"sliding_window": 8, "layer_types": WINDOWS}
GPT2_SIZES = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256, "n_inner": 64}
MLA = {
    "q_lora_rank": 12,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "num_key_value_heads": 4,
}
DEEPSEEK = MLA | {
    "moe_intermediate_size": 24,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}

# {name: (model type of transformers, its own settings)}
FAMILIES = {
    "gpt_neox": ("gpt_neox", {}),
    "gpt2": ("gpt2", GPT2_SIZES),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "opt, projected": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 16}),
    "bloom": ("bloom", {"n_layer": 3, "n_head": 4}),
    "falcon": ("falcon", {"alibi": False, "multi_query": True}),
    "falcon, new decoder": (
        "falcon",
        {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "mpt": (
        "mpt",
        {"d_model": 32, "n_layers": 3, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 256},
    ),
    "gptj": ("gptj", GPT2_SIZES | {"rotary_dim": 4}),
    "llama": ("llama", GROUPED),
    "llama, tied": ("llama", GROUPED | {"tie_word_embeddings": True}),
    "mistral": ("mistral", GROUPED | {"sliding_window": 8}),
    "ministral": ("ministral", OWN_HEADS | SLIDING),
    "mixtral": ("mixtral", GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("qwen2", GROUPED | {"tie_word_embeddings": True}),
    "qwen2_moe": (
        "qwen2_moe",
        EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 24},
    ),
    "qwen3": ("qwen3", OWN_HEADS | {"tie_word_embeddings": True}),
    "qwen3_moe": ("qwen3_moe", EXPERTS | {"num_experts": 4, "head_dim": 12}),
    "gemma": ("gemma", {"num_key_value_heads": 1, "head_dim": 12}),
    "gemma2": ("gemma2", OWN_HEADS | SLIDING | {"query_pre_attn_scalar": 12}),
    "gemma3_text": ("gemma3_text", OWN_HEADS | SLIDING),
    "phi": ("phi", {}),
    "phi3": ("phi3", GROUPED | {"sliding_window": 8}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", SLIDING),
    "olmoe": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4}),
    "stablelm": ("stablelm", {"num_key_value_heads": 4}),
    "granite": (
        "granite",
        GROUPED
        | {
            "logits_scaling": 8.0,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.1,
            "tie_word_embeddings": True,
        },
    ),
    "cohere": ("cohere", GROUPED),
    "cohere2": ("cohere2", GROUPED | SLIDING),
    "smollm3": ("smollm3", GROUPED | {"no_rope_layers": [1, 1, 0], "tie_word_embeddings": True}),
    "starcoder2": ("starcoder2", GROUPED | {"sliding_window": 8}),
    "nemotron": ("nemotron", OWN_HEADS),
    "exaone4": ("exaone4", OWN_HEADS | SLIDING),
    "gpt_oss": (
        "gpt_oss",
        OWN_HEADS | SLIDING | {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "llama4_text": (
        "llama4_text",
        OWN_HEADS
        | {
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 64,
            "interleave_moe_layer_step": 2,
        },
    ),
    "deepseek_v2": ("deepseek_v2", DEEPSEEK),
    "deepseek_v3": ("deepseek_v3", DEEPSEEK),
    "glm4_moe": (
        "glm4_moe",
        OWN_HEADS
        | {
            "moe_intermediate_size": 24,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
        },
    ),
    "glm4_moe_lite": ("glm4_moe_lite", DEEPSEEK),
    "longcat_flash": (
        "longcat_flash",
        MLA
        | {
            "head_dim": 4,
            "num_layers": 3,
            "num_hidden_layers": 6,  # of attention, two a block
            "ffn_hidden_size": 48,
            "expert_ffn_hidden_size": 24,
            "n_routed_experts": 4,
            "zero_expert_num": 2,
            "moe_topk": 2,
        },
    ),
}
# hub configurations with the language model's in text_config, beside a tower that sees
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
NESTED = {
    "gemma3": ("gemma3_text", {"mm_tokens_per_image": 4}),
}


# families that cannot work, by what is said of them
REFUSED = {
    "state-space or hybrid": (
        "mamba",
        "mamba2",
        "falcon_mamba",
        "rwkv",
        "xlstm",
        "recurrent_gemma",
        "jamba",
        "bamba",
        "zamba2",
        "falcon_h1",
        "nemotron_h",
        "granitemoehybrid",
        "qwen3_next",
        "qwen3_5",
        "lfm2",
        "minimax",
        "kimi_linear",
    ),
    "encoder-decoder": ("t5", "mt5", "bart", "pegasus", "whisper"),
    "encoder": ("bert", "roberta", "xlm-roberta", "modernbert", "electra"),
}

# what the tokenizers of families lack, or do: no padding token, no BOS, a BOS before every text
NO_PADDING = re.compile(r"gpt2|gptj|llama|mistral|mixtral|phi$|starcoder2|falcon")
NO_BOS = re.compile(r"qwen|stablelm|smollm3")
BOS_FIRST = re.compile(r"llama|mi[sn]istral|mixtral|gemma|opt|cohere|deepseek")


def fit_tokenizer(tokenizer, name):
    """A copy of a tokenizer with the special tokens that the family's has."""
    from tokenizers.processors import TemplateProcessing

    fitted = copy.deepcopy(tokenizer)
    if BOS_FIRST.match(name):
        first = (fitted.bos_token, fitted.bos_token_id)
        fitted.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{first[0]} $A", special_tokens=[first]
        )
    if NO_PADDING.match(name):
        fitted.pad_token = None
    if NO_BOS.match(name):
        fitted.bos_token = None
    return fitted


def make_config(name, **changes):
    """The configuration of a family in FAMILIES or NESTED."""
    from transformers import AutoConfig

    if name not in NESTED:
        kind, own = FAMILIES[name]
        return AutoConfig.for_model(kind, **{**SIZES, **own, **changes})
    kind, own = NESTED[name]
    text = make_config(kind, **changes).to_dict()
    return AutoConfig.for_model(name, text_config=text, vision_config=TOWER, **own)


def make_family(name, seed=0, **changes):
    """A random causal language model of a family, each parameter off its special values."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(make_config(name, **changes)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
                else:
                    parameter.normal_(0, 0.15)
    return model
