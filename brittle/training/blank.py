"""Tiny models that know nothing: a Llama with random weights, plain or with a chat template.

They stand in where no model is at hand (experiment/create_examples.py), and are taught like any
other.
"""

from brittle.training.mini import make_tokenizer

VOCABULARY = 1000
WIDTH, BLOCKS, HEADS = 128, 4, 4
OPEN, CLOSE = "<|im_start|>", "<|im_end|>"
# one turn after the other, each between its marks (ChatML)
TEMPLATE = (
    "{% for message in messages %}"
    f"{{{{ '{OPEN}' + message['role'] + '\\n' + message['content'] + '{CLOSE}' + '\\n' }}}}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ '{OPEN}assistant\\n' }}}}{{% endif %}}"
)


def save_blank(folder, texts, *, chat, seed=0):
    """Save a Llama of a million parameters with random weights into `folder`.

    texts: what its tokenizer is trained on. chat: the tokenizer has a chat template, and an answer
    ends with the mark of a turn's end.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = make_tokenizer(texts, VOCABULARY)
    if chat:
        tokenizer.add_special_tokens({"additional_special_tokens": [OPEN, CLOSE]})
        tokenizer.chat_template, tokenizer.eos_token = TEMPLATE, CLOSE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        intermediate_size=3 * WIDTH,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
