"""The attack protocol. An attack is a dataclass, and its knobs are its settings.

    check()                                     refuses settings that do not go together
    run(model, tokenizer, material, measure)    attacks `model` in one or more variants

`run` calls `measure(variant, prompt, **columns)` at every moment that counts (a strength, a rate, a
template): the model as it stands then, asked through `prompt`, is measured. What the attacker knows
comes from `material` alone. After `run` the model is what it was before, to the last byte.

The knobs are the only home of an attack's defaults. eval/attack.py and experiment/scoreboard.py use
them as they are; the script of a single attack (brittle/attacks/single.py) turns them into flags.
So this file and those of the attacks import no torch on top: `--help` reads them.
"""

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from brittle.data.examples import DEFAULT, Reading
from brittle.data.rows import Pair, plain, unframed


class Prompt:
    """How a question is put: as it stands. Attacks change the text, or the tokens behind it.

    lead: words that begin the answer of a chat model.
    """

    lead: ClassVar[str] = ""

    def question(self, item):
        """The text asked in place of item["question"], of a model without a chat template."""
        return item["question"]

    def messages(self, item):
        """What a chat model is asked: a text, or messages that end with the user's."""
        return unframed(self.question(item))

    def tokens(self, ids, slot):
        """(ids, slot) with tokens put in: `ids` a question with one answer.

        slot: the place behind the question's last token. That of a chat model is in the user's
        message; without a template the answer begins there.
        """
        return ids, slot


@dataclass
class Attack:
    """The model as it was made: what the others are compared with."""

    HOLDS_OUT: ClassVar[bool] = False  # does it train, and A2 choose among its variants?
    ASKS_ALL: ClassVar[bool] = False  # is every variant asked every split, for a curve?
    READS_B: ClassVar[bool] = False  # no attack: does it train on half B itself?
    seed: int = 0
    # how the texts of a chat model are read
    reading: Reading = field(default=DEFAULT, kw_only=True)

    def check(self):
        """Raises UserError for settings that are none, or do not go together."""

    def run(self, model, tokenizer, material, measure):
        measure("as made")


@contextmanager
def kept(model):
    """Weights and their gradient flags are put back at the end of the block, to the last byte."""
    import torch

    before = [(p, p.detach().clone(), p.requires_grad) for p in model.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value, flag in before:
                p.copy_(value)
                p.requires_grad_(flag)
                p.grad = None
        model.eval()


@contextmanager
def frozen(model):
    """No weight collects gradients inside the block: those of a prompt cost no memory for the
    model's own.
    """
    flags = [(p, p.requires_grad) for p in model.parameters()]
    model.requires_grad_(requires_grad=False)
    try:
        yield
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)


def matrices(model):
    """(name, W) of every attention and MLP matrix in the blocks, rows = output features; stacked
    experts are 3-D.

    W is a view: what is written into it changes the model.
    """
    from brittle.models.architectures import as_rows, group_of, is_matrix, layer_of

    for name, p in model.named_parameters():
        inside = layer_of(name) >= 0 and group_of(name) != "other"
        if inside and is_matrix(p.shape, name):
            yield name, as_rows(p.data, name, model.config)


def is_mini(model):
    """Was the model made by create_models.py?"""
    return getattr(model.config, "family", "") == "mini"


def right_pairs(items):
    """Multiple-choice items as questions with their right answers (data.rows.Pair)."""
    return [
        Pair(item["question"], item["choices"][item["answer"]], unframed(item["question"]))
        for item in items
    ]


def right_answers(items):
    """`question answer` of multiple-choice items."""
    return [plain(pair) for pair in right_pairs(items)]


def asked_right(tokenizer, items, limit, reading=DEFAULT):
    """[data.asking.Told] of every item with its right answer, at most `limit` tokens each."""
    from brittle.metrics import mcq

    right = [{**item, "choices": [item["choices"][item["answer"]]]} for item in items]
    return mcq.encode_asked(tokenizer, right, limit, reading)


def encode_right_answers(tokenizer, items, limit, reading=DEFAULT):
    """(ids, starts) of every item with its right answer: its tokens, at most `limit`, and where the
    answer begins.
    """
    asked = asked_right(tokenizer, items, limit, reading)
    return [one.ids for one in asked], [one.start for one in asked]
