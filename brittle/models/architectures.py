"""What differs between architectures: names of parameters, names of sizes, orientation of matrices.

This is the one home of these facts. A new architecture is added here and nowhere else: compare the
names of its parameters and its config.json with the tables below. What every architecture has is
found in the model itself: brittle/models/blocks.py finds the blocks and the final norm.

A `config` is a configuration of transformers or the dict of a config.json.
"""

import re

from brittle.base.errors import UserError

# A model that carries its activation filter has a model type of its own (models/filtered.py).
FILTERED = "filtered_"

# Sizes by their common name, and what some configurations (GPT-2) call them. The configuration of
# a loaded model answers to both names, its config.json does not.
OTHER_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "intermediate_size": "n_inner",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
# Sizes that settle the shapes of the weights.
SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "vocab_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "num_experts",
)

# GPT-2's family keeps its linear layers as Conv1D, stored [in, out].
# Everywhere else a matrix is [out, in].
TRANSPOSED_FAMILIES = {"gpt2", "openai-gpt", "decision_transformer", "imagegpt"}
TRANSPOSED = re.compile(r"\.(c_attn|c_fc|c_proj|q_attn)\.weight$")

LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")
ATTENTION = re.compile(
    r"(^|[._])"
    r"(attn|attention|self_attn|q_proj|k_proj|v_proj|o_proj|out_proj|query|key|value)"
    r"([._]|$)"
)
MLP = re.compile(
    r"(^|[._])"
    r"(mlp|ffn|feed_forward|feedforward|experts|block_sparse_moe|moe|fc1|fc2|fc_in|fc_out)"
    r"([._]|$)"
)
# Modules that make queries, keys and values. PEFT's own default for GPT-NeoX is query_key_value.
QKV = re.compile(r"(query_key_value|c_attn|[qkv]_proj|[qkv]_lin)$")

TOKEN_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings)\.weight$")
HEADS = ("lm_head.weight", "embed_out.weight")
# The name of the unembedding, for families where it is not the first of HEADS.
OWN_HEADS = {"gpt_neox": "embed_out.weight"}

# Families with a step behind the unembedding name it in their configuration. This value switches
# it off.
LOGIT_STEPS = {
    "final_logit_softcapping": None,
    "logit_scale": 1,
    "logits_scaling": 1,
    "lm_head_multiplier": 1,
}


def read(config, key):
    """The value of `key` in a configuration, None where it is not there."""
    return config.get(key) if isinstance(config, dict) else getattr(config, key, None)


def size(config, name):
    """A size by its common name; None where the configuration does not say."""
    value = read(config, name)
    if value is None and name in OTHER_NAMES:
        value = read(config, OTHER_NAMES[name])
    return value


def model_type(config):
    """The architecture's name in transformers, also where a filter was baked into the model."""
    return str(read(config, "model_type")).removeprefix(FILTERED)


def architecture(config):
    """What an activation filter belongs to: the model type and three sizes."""
    return {
        "model_type": model_type(config),
        "hidden_size": size(config, "hidden_size"),
        "num_hidden_layers": size(config, "num_hidden_layers"),
        "vocab_size": size(config, "vocab_size"),
    }


def context_length(config):
    """The longest input in tokens; 2048 where the configuration does not say."""
    return size(config, "max_position_embeddings") or 2048


def is_transposed(config, name):
    """Is the matrix called `name` stored [in, out] in this architecture?"""
    return model_type(config) in TRANSPOSED_FAMILIES and bool(TRANSPOSED.search(name))


def as_rows(weight, name, config):
    """The matrix `weight` as [.., out, in]: a view, so that writing into it writes the weight."""
    return weight.mT if is_transposed(config, name) else weight


def layer_of(name):
    """Block index in a parameter's name, -1 where there is none."""
    match = LAYER.search(name)
    return int(match.group(1)) if match else -1


def group_of(name):
    """`attn`, `mlp` or `other` (embeddings, unembedding), by a parameter's name."""
    if ATTENTION.search(name):
        return "attn"
    return "mlp" if MLP.search(name) else "other"


def is_qkv(name):
    """Does the module called `name` make queries, keys or values?"""
    return bool(QKV.search(name))


def embedding_name(names):
    """The token embedding among the parameters' names of a checkpoint, or None."""
    return next((name for name in names if TOKEN_EMBEDDING.search(name)), None)


def head_name(names, config):
    """The unembedding among the parameters' names of a checkpoint.

    None where there is none, or where it is tied to the token embedding.
    """
    head = next((name for name in HEADS if name in names), None)
    tied = read(config, "tie_word_embeddings")
    if tied is None:
        tied = model_type(config) in TRANSPOSED_FAMILIES
    return None if tied else head


def untied_head_name(config):
    """What the unembedding is called where it is a parameter of its own."""
    return OWN_HEADS.get(model_type(config), HEADS[0])


def check_logits(config):
    """Raise UserError for a family that scales or caps what the unembedding gives."""
    for key, off in LOGIT_STEPS.items():
        value = read(config, key)
        if value not in (None, off):
            raise UserError(
                f"{read(config, 'model_type')} has {key} {value:g} behind its unembedding, "
                "which filters do not reckon with. Use a family whose logits are what the "
                "unembedding gives (Llama, Mistral, Qwen2, Phi, GPT-NeoX, GPT-2, OLMoE)."
            )
