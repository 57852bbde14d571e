"""Tiny random models of each architecture, and batches, for the tests of methods and training."""

import functools

import torch

from brittle.data.batches import Batch, Stream, pad

VOCAB, PAD = 61, 0
# the prefix of transformers' configuration class, and its own sizes
MAKE = {
    "gpt_neox": ("GPTNeoX", {"intermediate_size": 32}),
    "gpt2": ("GPT2", {"n_positions": 64}),
    "llama": ("Llama", {"intermediate_size": 32, "num_key_value_heads": 1}),
    "mistral": ("Mistral", {"intermediate_size": 32, "num_key_value_heads": 1}),
    "qwen2": ("Qwen2", {"intermediate_size": 32, "num_key_value_heads": 1}),
    "phi": ("Phi", {"intermediate_size": 32}),
    "olmoe": (
        "Olmoe",
        {
            "intermediate_size": 24,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "num_key_value_heads": 2,
        },
    ),
}


def model(
    kind="gpt_neox", layers=3, seed=0, dtype=torch.float32, attention="sdpa", width=16, **more
):
    """A random causal language model, with weights large enough that every block matters."""
    import transformers

    prefix, extra = MAKE[kind]
    sizes = (
        {"n_embd": width, "n_layer": layers, "n_head": 2}
        if kind == "gpt2"
        else {
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "max_position_embeddings": 64,
        }
    )
    config = getattr(transformers, f"{prefix}Config")(
        vocab_size=VOCAB,
        pad_token_id=PAD,
        bos_token_id=1,
        eos_token_id=1,
        use_cache=False,
        initializer_range=0.2,
        **sizes,
        **extra,
        **more,
    )
    for name in ("attention_dropout", "hidden_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    torch.manual_seed(seed)
    made = (
        transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        .to(dtype)
        .eval()
    )
    with torch.no_grad():
        # norms and biases off their neutral values, so that nothing is tested at a special point
        for p in made.parameters():
            if p.ndim == 1:
                p.add_(0.1 * torch.randn(p.shape).to(dtype))
    return made


@functools.cache
def ids(count=8, seed=0, shortest=4, longest=11):
    """`count` token lists of different lengths, without the padding id."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=g).tolist()
    return [torch.randint(2, VOCAB, (n,), generator=g).tolist() for n in lengths]


def batch(token_lists, left=False, extra=0):
    """A padded batch; `left` pads on the left (with the position ids that it needs), `extra` adds
    columns of padding.
    """
    made = pad(token_lists, PAD)
    counts = made.index, made.n_tokens, made.n_targets
    fill = torch.zeros(len(token_lists), extra, dtype=torch.long)
    made = Batch({k: torch.cat([v, fill], 1) for k, v in made.items()})
    if left:
        for row in range(len(token_lists)):
            shift = int((made["attention_mask"][row] == 0).sum())
            for key in ("input_ids", "attention_mask"):
                made[key][row] = made[key][row].roll(shift)
        made["position_ids"] = (made["attention_mask"].cumsum(1) - 1).clamp_min(0)
    made.index, made.n_tokens, made.n_targets = counts
    return made


class Tokenizer:
    """Words w2, w3, ...: enough for refusals."""

    def __call__(self, texts, add_special_tokens=False):
        return {"input_ids": [[2 + len(word) % 50 for word in text.split()] for text in texts]}

    def decode(self, ids):
        return "".join("?" if i == 2 else f" w{i}" for i in ids)


class Data:
    """What `Method.start` gets: two streams and a tokenizer."""

    tokenizer = Tokenizer()

    def __init__(self, forget=None, retain=None, batch_size=4, micro_batches=1):
        self.forget = Stream(forget or ids(8, 1), PAD, batch_size, micro_batches, 1)
        self.retain = Stream(retain or ids(8, 2), PAD, batch_size, micro_batches, 2)
