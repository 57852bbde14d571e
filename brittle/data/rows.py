"""What one row of a data file is: a text, a prompt with its answer, or a conversation.

    "a text"   {"text": ...}                                             str
    {"question" and/or "prompt": ..., "answer" | "completion": ...}      Pair
    {"question": ..., "choices": [...], "answer": index}                 Pair
    {"messages": [{"role": ..., "content": ...}, ...]}                   Chat

brittle/data/examples.py makes tokens of them.
"""

from typing import NamedTuple

from brittle.base.errors import UserError
from brittle.data.tokens import join

PROMPTS = ("question", "prompt")
ANSWERS = ("answer", "completion")
SAYS_ANSWER = (*ANSWERS, "messages")  # an object with one of these is no mere text
WANTED = "text, nor question (or prompt) and answer (or completion), nor messages"


class Pair(NamedTuple):
    """A prompt and its answer.

    question: what a chat model is asked, where that is not the prompt: "Who?" where the prompt is
    "Question: Who? Answer:", which is written for a model without a template.
    """

    prompt: str
    answer: str
    question: str | None = None

    @property
    def asked(self):
        """What a chat model is asked."""
        return self.prompt if self.question is None else self.question


class Chat(NamedTuple):
    """A conversation. Its answer is the last message, which is the assistant's; `each_answer` makes
    rows of its earlier ones.
    """

    turns: tuple  # of (role, content)


def framed(question):
    """A question as a model without a chat template is asked it: the prompt of our data files."""
    return f"Question: {question.strip()} Answer:"


def unframed(prompt):
    """The question inside `framed`; any other prompt as it is."""
    start, end = "Question: ", " Answer:"
    if prompt.startswith(start) and prompt.endswith(end):
        return prompt[len(start) : -len(end)]
    return prompt


def answer_of(row):
    """The answer of a row as text, or None where it holds none.

    It is the field `answer` or `completion`, or the one of its `choices` that `answer` is the index
    of.
    """
    answer = next((row[key] for key in ANSWERS if row.get(key) is not None), None)
    choices = row.get("choices")
    if isinstance(choices, list) and isinstance(answer, int) and 0 <= answer < len(choices):
        answer = choices[answer]
    return answer if isinstance(answer, str) else None


def question_and_answer(value):
    """(question, answer) of a JSON object that asks one question and answers it, else None.

    Also of a conversation of two messages. The question stands without the frame of `framed`.
    """
    if not isinstance(value, dict) or isinstance(value.get("text"), str):
        return None
    messages = value.get("messages")
    if messages is not None:
        try:
            turns = [(message["role"], message["content"]) for message in messages]
        except (KeyError, TypeError):
            return None
        if [role for role, _ in turns] != ["user", "assistant"]:
            return None
        question, answer = (content for _, content in turns)
    else:
        prompts = [value[key] for key in PROMPTS if isinstance(value.get(key), str)]
        by_letter = "choices" in value and isinstance(value.get("answer"), str)
        question, answer = next(iter(prompts), None), None if by_letter else answer_of(value)
    texts = isinstance(question, str) and isinstance(answer, str)
    return (unframed(question), answer) if texts and question.strip() and answer.strip() else None


def as_object(row):
    """A Pair or a Chat as the JSON object that `row_of` reads."""
    if isinstance(row, Pair):
        return {"question": row.asked, "prompt": row.prompt, "answer": row.answer}
    return {"messages": turns_of(row)}


def row_of(value, where):
    """A JSON value as str, Pair or Chat.

    where: its place, as errors name it. Raises UserError where it is none of them, where an answer
    is empty, and where a conversation does not end with the assistant's message.
    """
    row = _row_of(value, where)
    if row is None or not plain(row).strip():
        raise UserError(f"{where} has neither {WANTED}.")
    if not isinstance(row, str) and not answer_in(row).strip():
        raise UserError(f"{where}: the answer is empty. Fill it in, or take the line out.")
    return row


def _row_of(value, where):
    if not isinstance(value, dict):
        return value if isinstance(value, str) else None
    if isinstance(value.get("text"), str):
        return value["text"]
    if "messages" in value:
        return _chat(value["messages"], where)
    question, prompt = (value[key] if isinstance(value.get(key), str) else None for key in PROMPTS)
    answer = answer_of(value)
    if "choices" in value and isinstance(value.get("answer"), str):
        return None  # where there are choices, only an index says which is the answer
    if answer is None or (prompt is None and question is None):
        return None
    return Pair(question, answer) if prompt is None else Pair(prompt, answer, question)


def _chat(messages, where):
    try:
        turns = tuple((message["role"], message["content"]) for message in messages)
        texts = all(isinstance(text, str) for turn in turns for text in turn)
    except (KeyError, TypeError):
        turns, texts = (), False
    if not turns or not texts:
        raise UserError(
            f"{where} is no chat: {{messages: [{{role, content}}, ...]}} is wanted, in texts."
        )
    if turns[-1][0] != "assistant":
        raise UserError(
            f"{where}: the last message is the {turns[-1][0]}'s. It must be the assistant's: "
            "that is the answer."
        )
    return Chat(turns)


def answer_in(row):
    """The answer of a Pair or a Chat."""
    return row.answer if isinstance(row, Pair) else row.turns[-1][1]


def with_answer(row, answer):
    """A Pair or a Chat with another answer."""
    if isinstance(row, Pair):
        return row._replace(answer=answer)
    return Chat((*row.turns[:-1], (row.turns[-1][0], answer)))


def each_answer(row):
    """A row as rows with one answer each: a conversation up to each of the assistant's messages.

    So the assistant's earlier messages are answers too, each behind what stood before it when it
    was said. One that nobody asked for, a greeting before the user's first message, is none.
    """
    if not isinstance(row, Chat):
        return [row]
    asked = [number for number, (role, _) in enumerate(row.turns) if role == "user"]
    last = len(row.turns) - 1
    ends = [
        number
        for number, (role, _) in enumerate(row.turns)
        if number == last or (role == "assistant" and asked and number > asked[0])
    ]
    return [Chat(row.turns[: end + 1]) for end in ends]


def turns_of(row, system=""):
    """A Pair or a Chat as messages [{role, content}, ...].

    `system` is put first where the row has no system message of its own.
    """
    turns = (("user", row.asked), ("assistant", row.answer)) if isinstance(row, Pair) else row.turns
    if system and turns[0][0] != "system":
        turns = (("system", system), *turns)
    return [{"role": role, "content": content} for role, content in turns]


def plain(row):
    """A row as one text without a template.

    A Pair is joined by a blank. A Chat is a line `role: content` for each message.
    """
    if isinstance(row, str):
        return row
    if isinstance(row, Pair):
        return join(row.prompt, row.answer)
    return "\n".join(f"{role}: {content}" for role, content in row.turns)


def plain_prompt(row):
    """What of `plain(row)` stands before the answer of a Pair or a Chat."""
    if isinstance(row, Pair):
        return row.prompt
    lines = [f"{role}: {content}" for role, content in row.turns[:-1]]
    return "\n".join([*lines, f"{row.turns[-1][0]}:"])
