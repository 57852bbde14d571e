"""Tiny random models of each architecture, and batches, for the tests of methods and training."""

import functools

import torch

from brittle.data.batches import Batch, Stream, pad
from brittle.data.examples import Example, TrainingReading

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
    """A padded batch of token id lists or Examples; `left` pads on the left (with the position ids
    that it needs), `extra` adds columns of padding.
    """
    padded = pad(token_lists, PAD)
    made = Batch({key: widened(value, extra) for key, value in padded.items()})
    vars(made).update({key: widened(value, extra) for key, value in vars(padded).items()})
    if left:
        shifts = (made["attention_mask"] == 0).sum(1).tolist()
        for values in (made, vars(made)):
            for value in values.values():
                if torch.is_tensor(value) and value.dim() == 2:
                    for row, shift in enumerate(shifts):
                        value[row] = value[row].roll(shift)
        made["position_ids"] = (made["attention_mask"].cumsum(1) - 1).clamp_min(0)
    return made


def widened(value, extra):
    """A [B, T] tensor with `extra` columns of zeros; anything else as it is."""
    if not torch.is_tensor(value) or value.dim() != 2:
        return value
    return torch.cat([value, value.new_zeros(len(value), extra)], 1)


def examples(count=8, seed=0, **reading):
    """Examples of `ids`: every second one has an answer, its last two or three tokens."""
    made = []
    for k, tokens in enumerate(ids(count, seed)):
        start = len(tokens) - 2 - k % 4 // 2
        answer = [place >= start for place in range(len(tokens))] if k % 2 else None
        made.append(Example(tokens, answer, TrainingReading(**reading)))
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
