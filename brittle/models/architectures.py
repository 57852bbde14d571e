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

# Sizes by their common name, and what some configurations (GPT-2, BLOOM, MPT, GPT-Neo) call them.
# The configuration of a loaded model answers to both names, its config.json does not.
OTHER_NAMES = {
    "hidden_size": ("n_embd", "d_model", "n_embed"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "intermediate_size": ("n_inner",),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "max_position_embeddings": ("n_positions", "max_seq_len"),
}
# LongCat's num_hidden_layers are its attentions, two a block.
OWN_NAMES = {"longcat_flash": {"num_hidden_layers": "num_layers"}}
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
# These families keep their experts as stacks [experts, in, out]; all others as [experts, out, in].
TURNED_EXPERTS_FAMILIES = {
    "aria_text",
    "gpt_oss",
    "llama4",
    "llama4_text",
    "openai_privacy_filter",
}
TURNED_EXPERTS = re.compile(r"\.experts\.(gate_up_proj|down_proj|fc1\.weight|fc2\.weight)$")
# Inkling's profiles of distances, [in, out].
TURNED_PROFILES = re.compile(r"\.rel_logits_proj\.proj$")
# A stack of biases, or of scales a head, has the shape of a matrix.
BIAS = re.compile(r"(^|[._])(bias|clip\.scale)$")

# Parts of a model that read images or sound or speak, what leads from there to the language model,
# and heads that predict several tokens. Their blocks are none of the language model's.
TOWER = re.compile(
    r"(^|[._])"
    r"(vision|visual|image|video|audio|speech|protein|multi_modal|multimodal|mm|connector"
    r"|projector|resampler|qformer|talker|codec|token2wav|code2wav|vqmodel|mtp|dit|diffusion_head)"
    r"([._]|$)"
    # Granite Speech's encoder of sound, beside its language_model (a text encoder has its family's
    # name before it: cpmant.encoder)
    r"|^(model\.)?encoder\."
)

# dtypes of safetensors and their names in torch, the finest first
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Tensors of files that no model has as parameters: masks and rotary frequencies that older
# versions of transformers stored.
STORED_BUFFER = re.compile(
    r"(\.(attn|attention)\.(bias|masked_bias)|\.rotary_emb\.(inv_freq|cos_cached|sin_cached))$"
)
# Whole numbers that are no weights: a causal mask under the name of a module.
STORED_MASK = re.compile(r"(^|[._])(causal_)?mask$")
# What a quantised checkpoint holds beside or in place of a weight.
QUANTISED = re.compile(
    r"(\.(qweight|qzeros|W_q|g_idx|scales|weight_packed|weight_scale|weight_scale_inv|SCB)"
    r"|\.(absmax|quant_map|nested_absmax)|_(blocks|scales|scale_inv))$"
)

# Families without a stack of transformer blocks of one kind: state-space models and hybrids.
STATE_SPACE = re.compile(
    r"mamba|ssm|rwkv|recurrent|xlstm|jamba|bamba|zamba|hybrid|nemotron_h|falcon_h1|lfm2|hyena"
)
# Kinds of blocks, in the configuration's list of them, that are no attention.
STATE_BLOCK = re.compile(r"mamba|linear|recurrent|conv|ssm|rwkv")

# Families that read a text from both sides, unless they are made a decoder.
ENCODERS = re.compile(
    r"(distil|al|camem|megatron-|mobile|modern|rem|roc_)?bert|bert-generation"
    r"|(xlm-)?roberta(-xl|-prelayernorm)?|big_bird|data2vec-text|deberta(-v2)?|electra|ernie"
    r"|flaubert|reformer|roformer|xlm|xlnet|xmod"
)

LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")
ATTENTION = re.compile(
    r"(^|[._])"
    r"(attn|attention|self_attn|q_proj|k_proj|v_proj|o_proj|out_proj|query|key|value)"
    r"([._]|$)"
)
MLP = re.compile(
    r"(^|[._])"
    r"(mlps?|ffn|feed_forward|feedforward|experts|block_sparse_moe|moe|fc1|fc2|fc_in|fc_out)"
    r"([._]|$)"
)
# Modules that make queries, keys and values. PEFT's own default for GPT-NeoX is query_key_value.
QKV = re.compile(
    r"(query_key_value|c_attn|Wqkv|[qkv]_proj|[qkv]_lin|q_[ab]_proj|kv_a_proj_with_mqa|kv_b_proj)$"
)
# Matrices that bring the MLP back to the residual stream.
DOWN = re.compile(
    r"(^|\.)(down_proj|w2|c_proj|fc2|fc_out|dense_4h_to_h|output_linear|output\.dense)"
    r"(\.weight)?$"
)

# Which expert reads a token; no matrix of an MLP.
ROUTER = re.compile(r"(^|\.)(gate|router|wg)(\.weight)?$")

TOKEN_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings|tokens_embed"
    r"|input_embedding)\.weight$"
    r"|^(transformer\.)?w\.weight$"  # CTRL
)
HEADS = ("lm_head.weight", "embed_out.weight")
# The name of the unembedding, for families where it is not the first of HEADS.
OWN_HEADS = {"gpt_neox": "embed_out.weight"}

# What families do to the logits behind the unembedding, by the setting that holds the number.
SOFT_CAP = "final_logit_softcapping"
LOGIT_STEPS = {
    SOFT_CAP: lambda logits, cap: (logits / cap).tanh() * cap,  # Gemma 2
    "logit_scale": lambda logits, scale: logits * scale,  # Cohere
    "logits_scaling": lambda logits, scale: logits / scale,  # Granite
}


def _value(config, key):
    return config.get(key) if isinstance(config, dict) else getattr(config, key, None)


def text_config(config):
    """The configuration of the language model: `config` itself, or its text_config."""
    nested = _value(config, "text_config")
    return config if nested is None else nested


def read(config, key):
    """The value of `key` in a configuration, or in its text_config; None where it is not there."""
    value = _value(config, key)
    return _value(text_config(config), key) if value is None else value


def size(config, name):
    """A size of the language model by its common name; None where the configuration is silent."""
    text = text_config(config)
    name = OWN_NAMES.get(model_type(text), {}).get(name, name)
    values = (_value(text, key) for key in (name, *OTHER_NAMES.get(name, ())))
    return next((value for value in values if value is not None), None)


def model_type(config):
    """The architecture's name in transformers, also where a filter was baked into the model."""
    return str(read(config, "model_type")).removeprefix(FILTERED)


def model_types(config):
    """The names of the model and of the language model in it.

    transformers loads and saves the language model alone of some nested models (Llama 4).
    """
    return {model_type(config), model_type(text_config(config))}


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
    """Is the matrix called `name`, or the stack of matrices, stored [.., in, out]?"""
    family = model_type(config)
    if TURNED_PROFILES.search(name):
        return True
    if family in TURNED_EXPERTS_FAMILIES:
        return bool(TURNED_EXPERTS.search(name))
    return family in TRANSPOSED_FAMILIES and bool(TRANSPOSED.search(name))


def is_matrix(shape, name=""):
    """Is a tensor of this shape a matrix, 2-D, or a 3-D stack of them (mixture-of-experts weights)?

    Norms and biases are not; nor is a stack of biases, which only `name` tells from a matrix.
    """
    return len(shape) in (2, 3) and min(shape) > 1 and not BIAS.search(name)


def as_rows(weight, name, config):
    """The matrix `weight` as [.., out, in]: a view, so that writing into it writes the weight."""
    return weight.mT if is_transposed(config, name) else weight


def layer_of(name):
    """Block of the language model in a parameter's name, -1 where there is none."""
    match = LAYER.search(name)
    return int(match.group(1)) if match and not TOWER.search(name) else -1


def check_states(config):
    """Raise UserError for a family whose blocks see other tokens than the text's, or none."""
    images_alone = read(config, "cross_attention_layers")
    if images_alone:
        raise UserError(
            f"blocks {', '.join(map(str, images_alone))} of this model ({model_type(config)}) read "
            "images alone, and a text passes them by. What reads or edits states cannot use it; "
            "methods and steps that read losses or weights can."
        )
    if model_type(config) == "cpmant":
        raise UserError(
            "CPM-Ant puts prompt tokens of its own before every text, so its blocks' states are "
            "not those of the text's tokens. What reads or edits states cannot use it; methods "
            "and steps that read losses or weights can."
        )


def check_one_stack(names, folder):
    """Raise UserError where the parameters called `names` have blocks in several stacks.

    Block 0 of one would be added to block 0 of another.
    """
    stacks = {
        name[: match.start(1) - 1]
        for name in names
        if (match := LAYER.search(name)) and not TOWER.search(name)
    }
    if len(stacks) > 1:
        raise UserError(
            f"{folder} has its blocks in several stacks ({', '.join(sorted(stacks)[:3])}). Only "
            "decoders of one stack are read: Llama, Qwen, Mistral, Gemma, GPT-NeoX and others."
        )


def group_of(name):
    """`attn`, `mlp` or `other`, by a parameter's name.

    Other are the embeddings, the unembedding, and all that reads images or sound.
    """
    if TOWER.search(name):
        return "other"
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


def is_down_projection(name):
    """Is the MLP matrix called `name` one that leads back to the residual stream?"""
    return bool(DOWN.search(name))


def check_readable(config, folder):
    """Raise UserError for a model that is no decoder of attention blocks, or is stored quantised.

    config: the dict of the config.json of `folder`, or a configuration.
    """
    family, text = model_type(config), text_config(config)
    kinds = [
        str(k) for key in ("layer_types", "layers_block_type") for k in _value(text, key) or []
    ]
    is_state_space = STATE_SPACE.search(family) or any(STATE_BLOCK.search(kind) for kind in kinds)
    if is_state_space:
        raise UserError(
            f"{folder} is a state-space or hybrid model ({family}). Only decoders whose blocks "
            "are all attention and MLP are read: Llama, Qwen, Mistral, Gemma, GPT-NeoX and others."
        )
    if ENCODERS.fullmatch(family) and not _value(config, "is_decoder"):
        raise UserError(
            f"{folder} is an encoder ({family}), which reads a text from both sides. Only decoders "
            "are read: Llama, Qwen, Mistral, Gemma, GPT-NeoX and others."
        )
    if _value(config, "is_encoder_decoder"):
        raise UserError(
            f"{folder} is an encoder-decoder ({family}). Only decoders are read: Llama, Qwen, "
            "Mistral, Gemma, GPT-NeoX and others."
        )
    if family == "dbrx":
        raise UserError(f"{folder}: DBRX keeps all experts in one matrix, which is not read here.")
    method = read(config, "quantization_config") or read(config, "compression_config")
    if method:
        refuse_quantised(folder, _value(method, "quant_method") or "quantization_config")


def check_tensors(names, folder):
    """Raise UserError where `names`, of the tensors in the files of `folder`, are of quantised
    weights.
    """
    packed = sorted(name for name in names if QUANTISED.search(name))
    if packed:
        refuse_quantised(folder, packed[0])


def refuse_quantised(folder, why):
    raise UserError(
        f"{folder} is stored quantised ({why}), so its files hold no weight matrices. Use the "
        "model that it was quantised from, or save a dequantised copy."
    )


def logit_step(config):
    """The function logits -> logits of what the family does behind its unembedding."""
    values = {key: read(config, key) for key in LOGIT_STEPS}

    def step(logits):
        for key, value in values.items():
            if value is not None:
                logits = LOGIT_STEPS[key](logits, value)
        return logits

    return step


def has_soft_cap(config):
    """Does the family cap its logits, so that they are no linear function of the last states?"""
    return read(config, SOFT_CAP) is not None
