"""Tiny random models of every supported family, and scripts as modules; shared by the tests of the
diagnostics.
"""

import importlib.util
import sys

import torch

from support.places import ROOT

MINI_SIZES = {"hidden_size": 32, "layers": 2, "heads": 4, "seed": 0}  # of the mini family
WORDS = [f"w{i}" for i in range(40)]
SIZES = {
    "vocab_size": 48,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
FAMILIES = {
    "gpt_neox": {},
    "gpt2": {"n_inner": 64},
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "mistral": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "phi": {},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4},
}


def script(name):
    """The module of experiment/<name>.py."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiment" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def make_model(family="gpt_neox", seed=0, **changes):
    """A random causal language model of `family`: 3 blocks, width 32."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)
    config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family], **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).eval()


def make_tokenizer():
    """Word-level: w0 ... w39, one token each."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {w: i for i, w in enumerate(["<eos>", "<pad>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


def save(model, folder, dtype=None, **options):
    """`model` and the tokenizer in `folder`, as a string."""
    (model.to(dtype) if dtype else model).save_pretrained(folder, **options)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def texts(count, seed=0, shortest=3, longest=12, words=WORDS):
    """`count` random word strings of different lengths."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high):
        return int(torch.randint(high, (1,), generator=generator))

    return [
        " ".join(words[draw(len(words))] for _ in range(shortest + draw(longest - shortest + 1)))
        for _ in range(count)
    ]


def write_texts(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
