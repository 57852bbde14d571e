"""Chat templates: a conversation as tokens, and which of them are the answer's.

The answer is found by tokens: those of the prompt, rendered with the mark that makes the model
answer, begin those of the whole conversation, and the rest is the answer, its end mark included.
The line feed that some templates put behind the end mark is not. A token that merges the prompt's
end with the answer's beginning is the answer's. No punctuation is looked for.

Reasoning templates rewrite history: they drop an answer's trace, or open one in the prompt that
the whole conversation has not. There the answer can stand behind the prompt's own tokens, as the
model is asked: `Rendered.moved`.
"""

import re
from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.data.tokens import common_prefix

MARK = "(the answer)"  # stands for an answer, to see what a template puts behind it
OPENED = re.compile(r"<(\w+)>\s*$")  # a prompt that ends inside a trace, such as <think>


class Rendered(NamedTuple):
    """A conversation as text."""

    prompt: str  # all but the answer, with what makes the model answer
    behind: str  # the answer, its end mark, and what the template puts behind that
    moved: bool = False  # the answer stands behind the prompt's own tokens


def render(tokenizer, messages, *, ask, where="the text"):
    """Messages through the chat template as text.

    ask: with what makes the model answer behind them. Raises UserError where the template refuses
    them: many know no system message.
    """
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    except Exception as error:  # a template is a program of its own
        reason = " ".join(str(error).split())
        raise UserError(
            f"the chat template refuses {where} ({reason}). Change its messages, or use --raw."
        ) from None


def render_answered(tokenizer, messages, where, *, move, refuse):
    """A `Rendered` conversation, whose last message is the answer.

    move: put the answer behind the prompt in any case, not only where the template rewrites it.
    refuse: a UserError where it does that, and `move` was not asked for.
    """
    prompt = render(tokenizer, messages[:-1], ask=True, where=where)
    whole = render(tokenizer, messages, ask=False, where=where)
    why = rewritten(prompt, whole, messages[-1]["content"])
    if not why and not move:
        return Rendered(prompt, whole[len(prompt) :])
    if refuse and not move:
        raise UserError(
            f"the chat template {why}: {where}. Use --after-prompt, which puts the answer behind "
            "the prompt, or --raw."
        )
    marked = [*messages[:-1], {**messages[-1], "content": MARK}]
    end = render(tokenizer, marked, ask=False, where=where).rpartition(MARK)[2]
    return Rendered(prompt, continuation(prompt, messages[-1]["content"]) + end, moved=True)


def rewritten(prompt, whole, answer):
    """How a whole conversation is not its prompt with the answer behind it; None where it is."""
    if not whole.startswith(prompt):
        return "renders the prompt in another way once it is answered"
    if "".join(answer.split()) not in "".join(whole[len(prompt) :].split()):
        return "leaves out a part of the answer (a trace, for instance)"
    return None


def continuation(prompt, answer):
    """An answer as it goes on behind a prompt: inside the trace that the prompt opened, if any.

    An answer without a trace closes it at once.
    """
    opened = OPENED.search(prompt)
    if not opened:
        return answer
    tag = opened[1]
    if f"</{tag}>" not in answer:
        return f"\n</{tag}>\n\n{answer}"
    return answer.lstrip().removeprefix(f"<{tag}>").lstrip("\n")


def token_ids(tokenizer, texts):
    """The ids of texts that a template rendered: special tokens stand in them already."""
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def tokens_and_answers(tokenizer, rendered):
    """[(token ids, a bool for each: is it the answer's?)] of a list of `Rendered`."""
    prompts = token_ids(tokenizer, [one.prompt for one in rendered])
    wholes = token_ids(tokenizer, [one.prompt + one.behind for one in rendered])
    special, answered = special_ids(tokenizer), []
    for one, before, whole in zip(rendered, prompts, wholes, strict=True):
        ids, start = whole, common_prefix(whole, before)
        if one.moved and start < len(before):  # a token would merge both
            ids, start = before + token_ids(tokenizer, [one.behind])[0], len(before)
        end = answer_end(tokenizer, ids, start, special)
        answered.append((ids, [start <= place < end for place in range(len(ids))]))
    return answered


def special_ids(tokenizer):
    """The ids of a tokenizer's special tokens."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def answer_end(tokenizer, ids, start, special):
    """Where the answer ends: behind its end mark, where blanks alone follow that."""
    marks = [place for place in range(start, len(ids)) if ids[place] in special]
    if not marks or tokenizer.decode(ids[marks[-1] + 1 :]).strip():
        return len(ids)
    return marks[-1] + 1
