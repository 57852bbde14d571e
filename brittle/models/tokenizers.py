"""A tokenizer made to fit its model: padding that the model has, texts that do not end, and chat
templates that say the same every day.

What a tokenizer says of itself need not fit the model beside it: fine-tunings add a padding token
without an embedding, others have no token for padding, and a post-processor may end every text.
These functions change the loaded tokenizer, never its files.
"""

import re
import shutil
from datetime import date
from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.layout import tokenizer_files

TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")  # in a chat template
DAY = date(2024, 7, 26)  # that Llama 3.1 and 3.2 fall back to
PROBES = 1000  # vocabulary entries to try until one is a text of its own


def _around(tokenizer):
    """(ids before, ids behind) what the tokenizer puts around every text."""
    for number in range(min(PROBES, len(tokenizer))):
        text = tokenizer.decode([number])
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not own or set(own) & set(tokenizer.all_special_ids):
            continue
        whole = tokenizer(text)["input_ids"]
        for start in range(len(whole) - len(own) + 1):
            if whole[start : start + len(own)] == own:
                return whole[:start], whole[start + len(own) :]
    return [], []


def append_nothing(tokenizer):
    """Take away what the tokenizer puts behind a text (`add_eos_token`, a template's end token).

    A prompt is continued, so nothing may stand behind it, and a choice is scored as a text that
    goes on. What stands before a text stays.
    """
    before, behind = _around(tokenizer)
    if not behind:
        return
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        tokenizer.build_inputs_with_special_tokens = lambda one, two=None: (
            before + one + (two or [])
        )
        return
    from tokenizers import processors

    tokens = tokenizer.convert_ids_to_tokens(before)
    backend.post_processor = processors.TemplateProcessing(
        single=[*tokens, "$A"],
        pair=[*tokens, "$A", "$B:1"],
        special_tokens=list(zip(tokens, before, strict=True)),
    )


def fit(tokenizer, vocabulary, folder):
    """Make the tokenizer's ids those of a model with `vocabulary` embeddings (None: not known).

    Padding is always masked, so any id that exists will do: the tokenizer's own, else that of
    another special token, else the lowest of its vocabulary. A text with a token beyond the
    embeddings is a UserError.
    """
    ids = range(len(tokenizer) if vocabulary is None else vocabulary)
    if tokenizer.pad_token_id not in ids:
        others = (tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id)
        candidates = (*others, *sorted(tokenizer.get_vocab().values()))
        picked = next((i for i in candidates if i in ids), 0)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(picked)
    if tokenizer.eos_token_id not in ids:
        tokenizer.eos_token = None
    if len(tokenizer) > len(ids):
        _refuse_unknown_tokens(tokenizer, ids, folder)


def _refuse_unknown_tokens(tokenizer, ids, folder):
    """Encoding raises UserError where a text has a token that is not among `ids`."""
    encode = tokenizer._encode_plus

    def checked(*arguments, **settings):
        encoded = encode(*arguments, **settings)
        rows = encoded["input_ids"]
        rows = rows.tolist() if hasattr(rows, "tolist") else rows
        for row in rows if rows and isinstance(rows[0], list) else [rows]:
            for token in row:
                if token not in ids:
                    unknown = f"a text holds {tokenizer.convert_ids_to_tokens(token)!r}, id {token}"
                    has = f"the model of {folder} has {len(ids)} embeddings"
                    raise UserError(
                        f"{unknown}, but {has}. Give the tokenizer that the model was trained with."
                    )
        return encoded

    tokenizer._encode_plus = checked


def fix_date(tokenizer):
    """Chat templates with today's date (Llama 3.2, SmolLM3, gpt-oss) print one and the same day.

    Otherwise what was asked, and so every result, would change over night.
    """
    templates = tokenizer.chat_template
    if isinstance(templates, str):
        tokenizer.chat_template = _dated(templates)
    elif templates:
        tokenizer.chat_template = {name: _dated(text) for name, text in templates.items()}


def _dated(template):
    """A chat template with DAY in place of the date of today."""
    return TODAY.sub(lambda call: repr(DAY.strftime(call[2])), template)


def copy_tokenizer(folder, stage):
    """Copy the tokenizer's files of the folder `folder` into the folder `stage`, byte for byte."""
    for file in tokenizer_files(folder):
        copy = Path(stage) / file.relative_to(folder)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)
