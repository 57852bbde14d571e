"""Examples: the token ids of a row, and which of them are its answer.

    rows = items.read_text_rows(path)                  str, Pair or Chat each (brittle/data/rows.py)
    examples = encode_rows(tokenizer, rows, 512)       Example each
    ids = prompt_ids(tokenizer, "Who is she?")         what a model is asked with

A tokenizer with a chat template renders prompts and answers through it, as the model was trained:
`tokenizer.apply_chat_template(messages)`, token for token. Nothing is put before or behind that, so
a template's own BOS stands once. Where there is no template, or with `raw`, prompt and answer are
one text, joined by a blank.

Which tokens are the answer's, brittle/data/templates.py finds out by comparing tokens. Where a
template rewrites answers, as those of reasoning models do, unlearning ends with an error, and
`after_prompt` puts the answer behind the tokens that the model is asked with.
"""

import sys
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar, NamedTuple

from brittle.base import options
from brittle.base.errors import UserError
from brittle.data.rows import (
    Chat,
    each_answer,
    plain,
    plain_prompt,
    turns_of,
    unframed,
    with_answer,
)
from brittle.data.templates import render, render_answered, token_ids, tokens_and_answers
from brittle.data.tokens import common_prefix, encode_prompts

PLACES = ("answer", "all")


@dataclass(frozen=True)
class Reading:
    """How rows are read; its fields are flags (options.spread).

    raw           no chat template
    system        a system message before each conversation that has none
    after_prompt  the answer behind the prompt's tokens, where the template rewrites the answer
    """

    raw: options.Raw = False
    system: options.System = ""
    after_prompt: options.AfterPrompt = False

    loss_on: ClassVar[str] = "answer"
    positions: ClassVar[str] = "answer"

    def about(self):
        """What a record says of it: nothing of the default."""
        return {} if self == type(self)() else {"reading": asdict(self)}

    def arguments(self):
        """Its flags, as a script that reads takes them."""
        flags = [("--raw", self.raw), ("--after-prompt", self.after_prompt)]
        system = ["--system", self.system] if self.system else []
        return [flag for flag, given in flags if given] + system

    def templated(self, tokenizer):
        """Does a conversation go through the tokenizer's chat template?"""
        return bool(getattr(tokenizer, "chat_template", None)) and not self.raw


@dataclass(frozen=True)
class TrainingReading(Reading):
    """Also which tokens count.

    loss_on    which predicted tokens a loss counts: the answer's, or all
    positions  which states a representation method moves or keeps: those that predict a token of
               the answer, or all
    """

    loss_on: options.LossOn = "answer"
    positions: options.Positions = "answer"

    def __post_init__(self):
        for flag, value in (("--loss-on", self.loss_on), ("--positions", self.positions)):
            if value not in PLACES:
                raise UserError(f"{flag} {value}: choose answer or all.")


DEFAULT = Reading()
TRAINING = TrainingReading()


class Counts(NamedTuple):
    """What sums over an example are divided by."""

    tokens: int  # positions whose prediction counts
    targets: int  # predicted tokens that count
    states: int  # positions whose state counts


@dataclass(frozen=True)
class Example:
    """The token ids of one row, and which of them are its answer.

    answer: a bool for each token; None for a text that asks nothing, where every token counts.
    row: what it was made of, a Pair or a Chat, so that it can be made with another answer.
    entity: what it is about, where that is known: the group of an interval.
    """

    ids: list
    answer: list | None = None
    reading: Reading = DEFAULT
    row: object = field(default=None, compare=False)
    entity: str | None = field(default=None, compare=False)

    def __len__(self):
        return len(self.ids)

    @property
    def start(self):
        """The place of the answer's first token; None where there is no answer."""
        return None if self.answer is None else self.answer.index(True)

    @property
    def prompt(self):
        """The token ids before the answer; all of them where there is none."""
        return self.ids[: self.start]

    @property
    def told(self):
        """The token ids up to the end of the answer: without a template's line feed behind it."""
        return self.ids if self.answer is None else self.ids[: self.start + sum(self.answer)]

    @property
    def said(self):
        """The place of the first token that the model says: its answer's, else the second."""
        return self.start or 1

    @property
    def targets(self):
        """A bool for each token: does a loss count its prediction? None for every one."""
        return self.answer if self.reading.loss_on == "answer" else None

    @property
    def predicting(self):
        """A bool for each position: does it predict a token that a loss counts? None for all."""
        return None if self.targets is None else [*self.targets[1:], False]

    @property
    def states(self):
        """A bool for each position: does a representation method look at it? None for all."""
        if self.answer is None or self.reading.positions == "all":
            return None
        return [*self.answer[1:], False]

    def counts(self):
        n = len(self.ids)
        targets = n - 1 if self.targets is None else sum(self.targets[1:])
        tokens = n if self.targets is None else targets
        return Counts(tokens, targets, n if self.states is None else sum(self.states))

    def cut(self, length):
        """The first `length` tokens; None where no token of the answer is left to predict."""
        if len(self.ids) <= length:
            return self
        answer = None if self.answer is None else self.answer[:length]
        if answer is not None and not any(answer[1:]):
            return None
        return replace(self, ids=self.ids[:length], answer=answer)

    def reply(self, tokenizer, answer):
        """The example with the text `answer` in place of its answer."""
        return encode_whole(tokenizer, [with_answer(self.row, answer)], self.reading)[0]


def as_example(ids):
    """An Example as it is; a list of token ids as a text without an answer."""
    return ids if isinstance(ids, Example) else Example(ids)


def prompt_ids(tokenizer, prompt, reading=DEFAULT):
    """Token ids of a question as the model is asked it, through its chat template.

    prompt: a text, or messages [{role, content}, ...] that end with the user's. A text in the frame
    of our data files ("Question: Who? Answer:", rows.framed) is asked without it.
    """
    if not reading.templated(tokenizer):
        if not isinstance(prompt, str):
            prompt = plain_prompt(
                Chat((*((m["role"], m["content"]) for m in prompt), ("assistant", "")))
            )
        return encode_prompts(tokenizer, [prompt])[0]
    messages = messages_asked(prompt, reading)
    return token_ids(tokenizer, [render(tokenizer, messages, ask=True)])[0]


def messages_asked(prompt, reading=DEFAULT):
    """The messages [{role, content}, ...] of a prompt, as `prompt_ids` asks it."""
    asked = [{"role": "user", "content": unframed(prompt)}] if isinstance(prompt, str) else prompt
    if reading.system and asked[0]["role"] != "system":
        return [{"role": "system", "content": reading.system}, *asked]
    return list(asked)


def encode_rows(
    tokenizer,
    rows,
    max_length,
    reading=DEFAULT,
    name="texts",
    entities=None,
    *,
    refuse=True,
    each=True,
):
    """The Examples of rows (str, Pair or Chat), each cut at `max_length` tokens.

    entities: what each row is about; None is not known. refuse: as of `encode_whole`. each: a
    conversation gives an Example for each of the assistant's messages (rows.each_answer), where
    losses count answers alone; else one, of the last.

    Says on stderr how many were cut, how many of them inside the answer, and how many are left out
    since their answer begins behind the cut. Raises UserError where nothing is left to predict.
    """
    if each and reading.loss_on == "answer":
        parted = [each_answer(row) for row in rows]
        if entities is not None:
            about = zip(entities, parted, strict=True)
            entities = [entity for entity, own in about for _ in own]
        rows = [one for own in parted for one in own]
    examples = encode_whole(tokenizer, rows, reading, name, refuse=refuse)
    if entities is not None:
        about = zip(examples, entities, strict=True)
        examples = [replace(example, entity=entity) for example, entity in about]
    short = [example.cut(max_length) for example in examples]
    _say_cut(examples, short, max_length, name)
    left = [example for example in short if example is not None]
    if not any(example.counts().targets > 0 for example in left):
        raise UserError(f"the {name} hold no tokens to predict (each has fewer than two).")
    return left


def encode_said(
    tokenizer, rows, max_length, reading=DEFAULT, name="texts", entities=None, *, each=False
):
    """The Examples of rows, as a model learned them: `encode_rows` of what it says.

    A chat model says answers, through its template. A model without one says whole texts, as in its
    pretraining.
    """
    if not reading.templated(tokenizer):
        rows = [plain(row) for row in rows]
    settings = {"refuse": False, "each": each}
    return encode_rows(tokenizer, rows, max_length, reading, name, entities, **settings)


def _say_cut(examples, short, max_length, name):
    """Say on stderr what a limit of tokens takes away. Raises UserError where it leaves nothing."""
    cut = sum(len(example) > max_length for example in examples)
    lost = sum(example is None for example in short)
    if lost == len(examples) > 0:
        raise UserError(
            f"the answers of all {lost} {name} begin behind token {max_length}. Raise --max-length."
        )
    if not cut:
        return
    longer = f"{cut} of {len(examples)} {name} are longer than {max_length} tokens"
    note = f"note: {longer} and are cut there"
    inside = sum(
        example.answer is not None and left is not None and len(left) < len(example)
        for example, left in zip(examples, short, strict=True)
    )
    if inside:
        note += f", {inside} of them inside the answer"
    if lost:
        note += f"; {lost} whose answer begins behind that are left out"
    print(f"{note}.", file=sys.stderr)


def encode_whole(tokenizer, rows, reading=DEFAULT, name="texts", *, refuse=False):
    """The Examples of rows, uncut and in their order.

    Where the template rewrites an answer, it stands behind the prompt's tokens (`after_prompt`).
    refuse: that is a UserError, for what a method trains on.
    """
    templated = reading.templated(tokenizer)
    as_text = [i for i, row in enumerate(rows) if isinstance(row, str) or not templated]
    examples = [None] * len(rows)
    encoded = tokenizer([plain(rows[i]) for i in as_text])["input_ids"] if as_text else []
    asked = [i for i in as_text if not isinstance(rows[i], str)]
    prompts = encode_prompts(tokenizer, [plain_prompt(rows[i]) for i in asked]) if asked else []
    prompts = dict(zip(asked, prompts, strict=True))
    for i, ids in zip(as_text, encoded, strict=True):
        answer = None
        if i in prompts:
            # a token that merges the prompt's end with the answer's beginning is the answer's
            start = common_prefix(ids, prompts[i])
            answer = [place >= start for place in range(len(ids))]
        examples[i] = Example(ids, answer, reading, None if answer is None else rows[i])
    through = [i for i, example in enumerate(examples) if example is None]
    rendered = [
        render_answered(
            tokenizer,
            turns_of(rows[i], reading.system),
            f"number {i + 1} of the {name}",
            move=reading.after_prompt,
            refuse=refuse,
        )
        for i in through
    ]
    for i, (ids, answer) in zip(through, tokens_and_answers(tokenizer, rendered), strict=True):
        examples[i] = Example(ids, answer, reading, rows[i])
    return examples
