"""What combines with any method: which weights train, masks, adapters, evaluation on the way.

A wrapper is known here alone: its knobs are fields of `Wrappers`, its checks stand below them, and
what it does around optimizer steps is a StepHook that `Wrappers.hooks` returns.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.knobs import flag, knob
from brittle.data.texts import read_lines
from brittle.methods.base import Method
from brittle.training.keep import Rule

RANK = 16  # of adapters, where none is given


@dataclass
class Wrappers:
    """Its fields are flags, like a method's."""

    trainable: str = knob(
        "", "Train only the parameters that match this regex, or that this .json file lists."
    )
    weight_mask: str = knob(
        "none", "Mask on the entries that train: none, wagle.", choices=("none", "wagle")
    )
    mask_ratio: float = knob(0.9, "Share of the entries that train (wagle).", low=0, high=1)
    mask_mu: float = knob(
        1e-3, "Weight of the forget gradient against the retain gradient (wagle's mu).", low=1e-30
    )
    adapter: str = knob(
        "auto",
        "What trains: the weights (full), low-rank adapters (lora; of rank 16 where none is "
        "given), auto (lora where there is a rank).",
        choices=("auto", "full", "lora"),
    )
    lora_rank: int = knob(
        0, "Rank of low-rank adapters, merged when saved; 0 is full fine-tuning.", low=0
    )
    lora_alpha: float = knob(16.0, "Scale of the adapters: alpha / rank.", low=0)
    lora_targets: str = knob(
        "all", "Modules with adapters: all (linear), attn, mlp, qkv, or a regex."
    )
    save_adapter: str = knob("no", "Save the adapter as well, in adapter/.", choices=("no", "yes"))
    save_dtype: str = knob(
        "source",
        "Dtype of the saved weights: source (the model's own), float32, bfloat16, float16.",
        choices=("source", "float32", "bfloat16", "float16"),
    )
    eval_every: int = knob(0, "Steps between evaluations during training; 0 is none.", low=0)
    keep: str = knob("last", "Weights to keep: last, or best by --rule.", choices=("last", "best"))
    rule: str = knob(
        "first forget <= filtered", "Which evaluation is best (see brittle/training/keep.py)."
    )
    filtered: str = knob(
        "", "The filtered model, where --rule names it: folder or Hugging Face id."
    )
    kl_budget: float = knob(
        0.0,
        "Nats a token by which predictions on neutral text may move: training ends there. "
        "0 is no limit.",
        low=0,
    )
    chat: str = knob(
        "",
        "Chats to mix into the retain set: JSONL of {messages: [{role, content}, ...]}, or texts.",
    )
    chat_share: float = knob(0.2, "Share of the retain texts that are chats.", low=0, high=0.9)

    def check(self, name, method):
        """Raise UserError for combinations that make no sense; settle what follows from others.

        name, method: of the method that they are combined with.
        """
        self.settle_adapters(method)
        method.check()
        self.check_mask(name, method)
        self.check_adapters(name, method)
        check_regex("trainable", self.trainable)
        check_regex("lora_targets", self.lora_targets)
        self.check_keep(name, method)

    def settle_adapters(self, method):
        if self.adapter == "full" and self.lora_rank:
            raise UserError(
                f"--adapter full, but --lora-rank {self.lora_rank}: "
                "use --adapter lora, or leave the rank out."
            )
        if self.adapter == "lora" and not self.lora_rank:
            self.lora_rank = RANK
        method.adapters = bool(self.lora_rank)

    def check_mask(self, name, method):
        if self.weight_mask == "none":
            return
        if method.phased:
            raise UserError(
                f"--weight-mask ranks all entries at once, but in {name} blocks take turns. "
                "Use another method."
            )
        if method.one_step:
            raise UserError(
                f"--weight-mask holds back entries at every step of a training, and {name} makes "
                "one step from a gradient. Use another method."
            )
        if self.lora_rank and method.kind != "weight-space":
            raise UserError(
                "--weight-mask chooses entries of the model's own weights, which --lora-rank "
                "freezes. Use one."
            )

    def check_adapters(self, name, method):
        if self.lora_rank and method.kind == "weight-space":
            raise UserError(
                f"--lora-rank: {name} acts on the weights themselves, all of them. "
                "Use full fine-tuning."
            )
        if self.save_adapter == "yes" and not self.lora_rank:
            raise UserError("--save-adapter yes: there is no adapter without --lora-rank.")

    def check_keep(self, name, method):
        if self.keep != "best":
            return
        if not self.eval_every:
            raise UserError("--keep best compares evaluations: say how often with --eval-every.")
        if self.kl_budget:
            raise UserError(
                "--keep best and --kl-budget both say which weights are kept. Use one of them."
            )
        if type(method).fit is not Method.fit:
            raise UserError(
                f"--keep best: {name} makes its weights after the training, "
                "so no step of it can be kept."
            )
        Rule(self.rule)

    def check_processes(self, name, method):
        """Raise UserError for what does not run in several processes."""
        if method.kind not in ("loss", "representation"):
            raise UserError(
                f"{name} reads or writes whole weights, so it runs in one process. "
                "Leave accelerate launch out."
            )
        used = {
            "--lora-rank": self.lora_rank and not method.replicates,
            "--weight-mask": self.weight_mask != "none",
            "--keep best": self.keep == "best",
            "--kl-budget": self.kl_budget > 0,
        }
        for option, is_used in used.items():
            if is_used:
                raise UserError(f"{option} works in one process only. Leave accelerate launch out.")

    def choose(self, model, method, seed):
        """Leave gradients to what trains. Returns the PEFT model around `model`, or None."""
        from brittle.models.blocks import train_only
        from brittle.training import adapters

        names = method.trains(model)
        if self.trainable:
            names = read_names(model, self.trainable)
        if self.lora_rank:
            return adapters.add(
                model, names, self.lora_rank, self.lora_alpha, self.lora_targets, seed
            )
        if names is not None:
            train_only(model, names)
        return None

    def reference(self, model, wrapped, method):
        """The frozen starting model for `method`; None where it reads none."""
        from brittle.training.reference import AdapterOff, Frozen

        if not method.needs_reference:
            return None
        return AdapterOff(wrapped) if wrapped else Frozen(model)

    def hooks(self, model, streams):
        """What acts around the optimizer steps (training.steps.StepHook): the weight mask."""
        from brittle.methods import masks

        if self.weight_mask == "none":
            return []
        mask = masks.wagle(model, streams, self.mask_ratio, self.mask_mu)
        print(f"wagle: {mask.density():.2%} of the trainable entries train")
        return [mask]


def check_regex(name, text):
    """Raise UserError where the knob `name` holds no regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise UserError(f"{flag(name)} {text}: not a regular expression ({error}).") from None


def read_names(model, chosen):
    """Parameter names by a regex, or by a JSON file: a list, or {"parameters": list}."""
    every = [name for name, _ in model.named_parameters()]
    if chosen.endswith(".json"):
        try:
            listed = json.loads("\n".join(read_lines(Path(chosen))))
            listed = listed["parameters"] if isinstance(listed, dict) else listed
            unknown = sorted(set(listed) - set(every))
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"--trainable {chosen}: a JSON list of parameter names is wanted."
            ) from None
        if unknown or not listed:
            raise UserError(
                f"--trainable {chosen}: {unknown[0] if unknown else 'an empty list'} names no "
                "parameter of the model."
            )
        return listed
    names = [name for name in every if re.search(chosen, name)]
    if not names:
        raise UserError(
            f"--trainable {chosen}: matches none of {len(every)} parameters, such as "
            f"{every[len(every) // 2]}."
        )
    return names
