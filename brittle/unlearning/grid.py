"""The sequential experiment log run on another model: a row's settings scaled to it, made in
memory, measured, attacked.
"""

import copy
import math
from dataclasses import dataclass

from brittle.base.errors import UserError
from brittle.data.examples import DEFAULT, Reading
from brittle.data.items import groups_of, right_by_fact
from brittle.maths.intervals import share
from brittle.models.blocks import block_count, stream_width

LOG_BLOCKS, LOG_WIDTH, LOG_LENGTH = 32, 4096, 2048  # of the log's model and texts
AT = (10, 100)  # steps of the attack at which the log measured
STEPS = (5, 10, 20, 50, 100)  # steps among which the attack chooses
KNOBS = ("forget_loss", "probe_start", "retain_ramp", "schedule_scope", "gradients")
NUMBERS = ("remove_coef", "l2sp_coef")


def scale_block(k, blocks):
    """The block of a model with `blocks` blocks that lies where block k of the log's 32 does."""
    return round(int(k) * (blocks - 1) / (LOG_BLOCKS - 1))


def scale_layers(text, blocks):
    """START:END:STEP of the log, for a model with `blocks` blocks."""
    start, end, step = text.split(":")
    every = max(1, scale_block(step, blocks))
    return f"{scale_block(start, blocks)}:{scale_block(end, blocks)}:{every}"


def scaled(row, blocks, width, tokens, steps, lr):
    """(knobs, settings) of a log's row.

    tokens: mean length of a retain text; steps, lr: factors on the log's.
    Blocks keep their relative depth, and the number of optimizer steps is divided over the phases
    there are. kl_sum is a sum over a text: its weight is multiplied by 2048 / tokens, so that a
    token weighs what it weighed in the log.
    """
    loss, _, reduction = row["retain_loss"].partition("_")
    retain_coef = float(row["retain_coef"]) * (LOG_LENGTH / tokens if reduction == "sum" else 1)
    knobs = {k: row[k] for k in KNOBS} | {k: float(row[k]) for k in NUMBERS}
    knobs |= {
        "layers": scale_layers(row["layers"], blocks),
        "retain_loss": loss,
        "retain_coef": retain_coef,
    }
    knobs["kl_reduction"] = reduction or "token"
    retain_blocks = row["retain_blocks"]
    if retain_blocks not in ("all", "current"):
        scaled_blocks = [scale_block(k, blocks) for k in retain_blocks.split(",")]
        retain_blocks = ",".join(map(str, scaled_blocks))
    knobs["retain_blocks"] = retain_blocks
    settings = {
        "steps": max(LOG_BLOCKS // 8, round(int(row["steps"]) * steps)),
        "lr": float(row["lr"]) * lr,
        "grad_clip": float(row["grad_clip"]),
        "schedule": "linear",
        "weight_decay": 0.01,
    }
    return knobs, settings


@dataclass
class Lab:
    """What all rows share.

    sets      {forget, retain: Examples}
    items     {split: multiple-choice items}; the split `heldout` is half B of the forget facts
    relearn   relearn(model, seed, measure) attacks the model in place. It trains on a part of half
              A, and calls measure(step, merit) behind each of STEPS. `merit` is that of
              attacks/meter: the higher it is, the more of the rest of half A has come back.
    chats     Examples
    reading   whether a chat model is asked through its template
    """

    base: object
    tokenizer: object
    sets: dict
    items: dict
    relearn: object
    chats: list
    accelerator: object
    batch_size: int
    reading: Reading = DEFAULT

    def run(self, row, seed, steps, lr, lora_rank=16):
        """(knobs, settings, measures) of one row: trained, measured, attacked.

        A run that breaks has no measures but `note`.
        """
        model, how = copy.deepcopy(self.base), ({}, {})
        measures = {}
        try:
            if row["adapter"]:
                how, model, measures = self.unlearn(model, row, seed, steps, lr, lora_rank)
            measures |= self.measure(model.eval(), ("forget", "retain", "general", "heldout"))
            measures |= self.attack(model, seed)
        except UserError as error:
            measures["note"] = str(error)
        return *how, measures

    def unlearn(self, model, row, seed, steps, lr, lora_rank):
        """((knobs, settings), the unlearned model, {column: loss at the end}) of one row."""
        from brittle.base.knobs import build
        from brittle.methods import method_class
        from brittle.methods.wrappers import Wrappers
        from brittle.training import fitting
        from brittle.unlearning.sets import some_chats

        mean = sum(map(len, self.sets["retain"])) / len(self.sets["retain"])
        knobs, settings = scaled(row, block_count(model), stream_width(model), mean, steps, lr)
        rule = build(method_class("sequential"), "sequential", knobs, seed=seed)
        low = {"lora_rank": lora_rank, "lora_targets": "qkv"} if row["adapter"] == "lora" else {}
        wrappers = build(Wrappers, "sequential", {"adapter": row["adapter"], **low})
        wrappers.check("sequential", rule)
        texts = dict(self.sets)
        if float(row["chat_share"]):
            texts["retain"] = [
                *texts["retain"],
                *some_chats(self.chats, len(texts["retain"]), float(row["chat_share"]), seed),
            ]
        texts = {k: (examples, []) for k, examples in texts.items()}
        streams = fitting.make_streams(
            texts, self.tokenizer, self.batch_size, 1, seed, model.device
        )
        chosen = fitting.make_settings(
            rule, settings, streams, seed=seed, batch_size=self.batch_size
        )
        history, wrapped = fitting.Fit(
            model, rule, wrappers, streams, chosen, self.accelerator, label=None
        ).run()
        ends = {f"{term}_loss_end": history[-1][f"{term}_loss"] for term in ("forget", "retain")}
        unlearned = wrapped.merge_and_unload() if wrapped else model
        return (knobs, {**settings, "lr": chosen.lr}), unlearned, ends

    def measure(self, model, splits):
        """{column: accuracy, its interval, and {fact: (right, items)}} of the splits."""
        from brittle.metrics import mcq

        measures = {}
        for split in splits:
            items = self.items[split]
            answered = mcq.outcomes(model, self.tokenizer, items, reading=self.reading)
            right = [outcome.right for outcome in answered]
            accuracy, low, high = share(right, groups_of(items))
            measures[f"{split}_accuracy"] = accuracy
            measures[f"{split}_low"] = low
            measures[f"{split}_high"] = high
            measures[f"{split}_facts"] = right_by_fact(items, right)
        return measures

    def attack(self, model, seed):
        """{column: held-out accuracy and its interval} under attack.

        After the log's steps AT, and (without a suffix of a step) at the step with the highest
        merit, `attack_step`. Half B takes no part in that choice.
        """
        for p in model.parameters():
            p.requires_grad_()
        measures = {}
        best = -math.inf

        def measure(step, merit):
            nonlocal best
            is_best = merit > best
            if not is_best and step not in AT:
                return
            now = self.measure(model, ("heldout",))
            if step in AT:
                measures.update({f"{column}_{step}": value for column, value in now.items()})
            if is_best:
                best = merit
                measures.update({f"{column}_attacked": value for column, value in now.items()})
                measures["attack_step"] = step

        self.relearn(model, seed, measure)
        return measures
