"""The joint of prompt and answer: how the two become one text, and which tokens are the answer's.

Data from elsewhere bring blanks at the end of a question or at the start of a choice. A blank of
its own is another token, and a model that knows the answer does not expect it there. So every
place that puts an answer behind a prompt asks `join`, and every place that lets a model continue
a prompt asks `encode_prompts`.
"""


def before_joint(prompt):
    """The prompt without the blanks at its end; line feeds there are a template's, and stay."""
    bare = prompt.rstrip()
    end = prompt[len(bare) :]
    return bare + end[: end.rfind("\n") + 1]


def join(question, answer):
    """One text of a question and its answer, with one blank at the joint whatever they bring."""
    return f"{question.rstrip()} {answer.strip()}".lstrip()


def join_template(prompt, answer, marks=()):
    """One text of a prompt that a template made and its answer: one blank at the joint, or none.

    There is none where the prompt ends with a line feed or with one of the `marks` (special tokens,
    see `marks_of`): then its end is the joint, and what follows it in a chat is the answer.
    """
    before, answer = before_joint(prompt), answer.strip()
    marked = before == prompt and before.endswith(tuple(marks))
    if not before or before.endswith("\n") or marked:
        return before + answer
    return f"{before} {answer}"


def marks_of(tokenizer):
    """The special tokens of a tokenizer as text."""
    added = [str(t) for t in tokenizer.added_tokens_decoder.values() if t.special]
    return tuple(dict.fromkeys([*tokenizer.all_special_tokens, *added]))


def encode_prompts(tokenizer, prompts):
    """The token ids of prompts that a model continues: nothing stands behind their last word."""
    return tokenizer([before_joint(prompt) for prompt in prompts])["input_ids"]


def common_prefix(a, b):
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length


def prompt_length(pieces):
    """Tokens of a text that ask: up to its last token ending in "?" or ":" that something follows,
    else half of them.
    """
    ends = [i for i, piece in enumerate(pieces[:-1], 1) if piece.rstrip().endswith(("?", ":"))]
    return ends[-1] if ends else max(1, len(pieces) // 2)


def answer_mask(batch, starts):
    """[B, T-1] bool: where a token of the answer is predicted.

    `starts` [B] is the place of each answer's first token.
    """
    import torch

    position = torch.arange(1, batch["input_ids"].size(1), device=starts.device)
    return (position >= starts[:, None]) & (batch["attention_mask"][:, 1:] == 1)
