"""How a question with an answer behind it becomes tokens, where the model goes by a chat template.

    [asked] = encode_answers(tokenizer, ["Question: Who? Answer:"], [["Ann"]], reading)
    asked.ids, asked.start, asked.slot

The question is the user's message (prompt_ids of brittle/data/examples.py). The answer begins where
the template puts an assistant's message: behind a blank in Llama-2's, behind an empty trace in
those of reasoning models, which is so closed before the answer. The end mark behind it is left out,
as in lm-eval, so an answer is scored as a text that may go on.
"""

from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.data.examples import DEFAULT, encode_whole, messages_asked
from brittle.data.rows import Pair
from brittle.data.templates import (
    MARK,
    OPENED,
    continuation,
    render,
    special_ids,
    token_ids,
)
from brittle.data.tokens import common_prefix


class Told(NamedTuple):
    """A question with one answer, as tokens.

    ids: all tokens. start: the place of the answer's first one. slot: the place behind the user's
    last word, where tokens can be put in; without a template it is `start`.
    """

    ids: list
    start: int
    slot: int

    def cut(self, length):
        """The last `length` tokens; one at least stands before the answer."""
        gone = max(0, len(self.ids) - length)
        start, slot = max(1, self.start - gone), max(1, self.slot - gone)
        return Told(self.ids[gone:], start, slot)

    def put(self, prompt):
        """With the tokens that an attack's prompt puts in at the slot."""
        ids, slot = prompt.tokens(self.ids, self.slot)
        return Told(ids, self.start + len(ids) - len(self.ids), slot)


class Opened(NamedTuple):
    """A question through the template, as text.

    prompt: what the model is asked with. lead: what stands between that and an answer's first word.
    asked: how many characters of the prompt reach to the user's last word.
    """

    prompt: str
    lead: str
    asked: int


def opened(tokenizer, prompt, reading=DEFAULT, lead=""):
    """The `Opened` question `prompt` (a text, or messages that end with the user's).

    lead: words that begin the answer. Raises UserError where the template changes the question.
    """
    messages = messages_asked(prompt, reading)
    asked = render(tokenizer, messages, ask=True)
    answered = [*messages, {"role": "assistant", "content": MARK}]
    whole = render(tokenizer, answered, ask=False)
    if whole.startswith(asked) and MARK in whole[len(asked) :]:
        before = whole[len(asked) : whole.rindex(MARK)]
    else:
        before = continuation(asked, "")
    question = messages[-1]["content"].strip()
    if question not in asked:
        raise UserError(f"the chat template changes the question {question[:60]!r}. Use --raw.")
    return Opened(asked, before + lead, asked.rindex(question) + len(question))


def encode_answers(tokenizer, prompts, answers, reading=DEFAULT, lead=""):
    """[Told] of each prompt with each of its answers, flat, through the chat template.

    prompts: texts or messages. answers: a list of texts for each. lead: words that begin every
    answer, and are not scored. A token that merges the prompt's end with the answer is the
    answer's.
    """
    questions = [opened(tokenizer, prompt, reading, lead) for prompt in prompts]
    blank = " " if lead else ""
    told = [
        (number, question.lead + blank + answer.strip())
        for number, question in enumerate(questions)
        for answer in answers[number]
    ]
    before = token_ids(tokenizer, [question.prompt for question in questions])
    open_ids = token_ids(tokenizer, [question.prompt + question.lead for question in questions])
    user_ids = token_ids(tokenizer, [question.prompt[: question.asked] for question in questions])
    wholes = token_ids(tokenizer, [questions[number].prompt + text for number, text in told])
    encoded = []
    for (number, text), ids in zip(told, wholes, strict=True):
        start, asked = common_prefix(ids, open_ids[number]), before[number]
        if common_prefix(ids, asked) < len(asked) and questions[number].lead:
            # a token would merge the prompt's end with what the model says: it is asked without
            behind = token_ids(tokenizer, [text, questions[number].lead])
            ids, start = asked + behind[0], len(asked) + common_prefix(*behind)
        slot = common_prefix(ids, user_ids[number])
        encoded.append(Told(ids, min(start, len(ids) - 1), slot))
    return encoded


def end_id(tokenizer, reading=DEFAULT):
    """The id of the mark that ends an assistant's message, else the tokenizer's end of text."""
    if reading.templated(tokenizer):
        last = encode_whole(tokenizer, [Pair("a", "b")], reading)[0].told[-1]
        if last in special_ids(tokenizer):
            return last
    return tokenizer.eos_token_id


def opens_trace(tokenizer, reading=DEFAULT):
    """Does the chat template begin a trace in the prompt, as those of reasoning models do?"""
    if not reading.templated(tokenizer):
        return False
    return bool(OPENED.search(opened(tokenizer, "a", reading).prompt))


def opened_ids(tokenizer, prompt, reading=DEFAULT, lead=""):
    """Token ids that a model goes on from: the question through its template, and `lead`.

    What the template puts before an answer stands there too: a trace that it opens is closed.
    """
    question = opened(tokenizer, prompt, reading, lead)
    return token_ids(tokenizer, [question.prompt + question.lead])[0]
