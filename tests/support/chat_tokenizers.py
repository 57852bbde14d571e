"""Small tokenizers shaped like those of published chat models: their special tokens, how they treat
blanks, where BOS comes from, and their chat templates, reconstructed shortly.
"""

import functools
from typing import NamedTuple

from support.tiny_models import make_model

LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% for message in messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
QWEN = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>' + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"
)
# the assistant's turn loses its trace; the prompt opens one (the template of January 2025)
DEEPSEEK_R1 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}"
    "{% else %}{% set content = message['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)
OLMOE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<|system|>\\n' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'assistant' %}{% if not loop.last %}"
    "{{ '<|assistant|>\\n' + message['content'] + eos_token + '\\n' }}"
    "{% else %}{{ '<|assistant|>\\n' + message['content'] + eos_token }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"
)

# how Llama-3 and Qwen cut a text before their merges: line feeds stay together
LINES = (
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


class Shape(NamedTuple):
    """What a family's tokenizer is like.

    blanks: `gpt2` (bytes), `lines` (bytes, line feeds together, as Llama-3 and Qwen), or `meta`
    (SentencePiece's, which puts a blank first). bos_itself: the tokenizer puts BOS before a text.
    special: its special tokens, BOS and EOS first.
    """

    template: str | None
    blanks: str
    bos_itself: bool
    special: tuple
    system: bool = True  # does the template know a system message?


FAMILIES = {
    "llama2": Shape(LLAMA_2, "meta", True, ("<s>", "</s>", "<unk>")),
    "llama3": Shape(
        LLAMA_3,
        "lines",
        True,
        ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    ),
    "mistral": Shape(MISTRAL, "meta", True, ("<s>", "</s>", "<unk>"), system=False),
    "qwen": Shape(QWEN, "lines", False, (None, "<|im_end|>", "<|im_start|>", "<|endoftext|>")),
    "phi": Shape(None, "gpt2", False, (None, "<|endoftext|>")),
    "gemma": Shape(
        GEMMA,
        "meta",
        True,
        ("<bos>", "<eos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        system=False,
    ),
    "deepseek_r1": Shape(
        DEEPSEEK_R1,
        "lines",
        True,
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
    ),
    "olmoe": Shape(OLMOE, "gpt2", False, ("|||IP_ADDRESS|||", "<|endoftext|>")),
}
WORDS = (
    "Who was born in Rome? Ada Lind was born in Rome. What is a minute? A unit of time.",
    "user\nassistant\nsystem\nmodel\nthink\n\n You are a helpful assistant. Be short.",
    "[INST] [/INST] <<SYS>> <</SYS>> Where does she live? She lives in a delta.",
)


@functools.cache
def make_chat_tokenizer(family):
    """A tokenizer shaped like that of `family`, with a few hundred tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    shape = FAMILIES[family]
    special = [token for token in shape.special if token]
    byte = shape.blanks != "meta"
    tokenizer = Tokenizer(models.BPE(byte_fallback=not byte, unk_token=None if byte else "<unk>"))
    if byte:
        first = pre_tokenizers.Split(Regex(LINES), "isolated") if shape.blanks == "lines" else None
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=first is None)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, level]) if first else level
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
        bytes_and_blanks = [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
        tokenizer.decoder = decoders.Sequence(bytes_and_blanks)
    every_byte = pre_tokenizers.ByteLevel.alphabet() if byte else []
    own_bytes = [] if byte else [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[*special, *own_bytes],
        initial_alphabet=every_byte,
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS * 3, trainer)
    bos, eos = shape.special[:2]
    if shape.bos_itself:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"],
            pair=[bos, "$A", "$B:1"],
            special_tokens=[(bos, tokenizer.token_to_id(bos))],
        )
    names = {"bos_token": bos, "eos_token": eos, "pad_token": eos}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        extra_special_tokens=special[2:],
        **{name: token for name, token in names.items() if token},
    )
    fast.chat_template = shape.template
    return fast


ARCHITECTURES = {
    "llama2": "llama",
    "llama3": "llama",
    "mistral": "mistral",
    "qwen": "qwen2",
    "phi": "phi",
    "gemma": "llama",
    "deepseek_r1": "qwen2",
    "olmoe": "olmoe",
}


def make_chat_model(family, seed=0):
    """A random model of the family's architecture, with the vocabulary of its tokenizer."""
    tokenizer = make_chat_tokenizer(family)
    return make_model(
        ARCHITECTURES[family],
        seed,
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
