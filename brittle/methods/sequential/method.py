"""Sequential: block by block from the deepest, through a frozen suffix (EleutherAI 2026,
github.com/EleutherAI/unlearn).

    loss = c_f(p) forget(z) + c_r(p) retain + l2sp ||w - w_start||^2

p is the share of the phase that is done, and z = suffix_start(h_{L+1}): in the phase of block L the
forget texts run through the model up to L, then through the *starting* blocks above L, final norm
and unembedding. That is a frozen probe, which says what could still be read out of block L. `full`
trains block L alone; with low-rank adapters every block's adapter trains in every phase.

c_f(p) = remove_coef (1 - p/4), times a factor that goes from 1 at the first phase's block to
`forget_layer_scale` at block 0. c_r(p) = retain_coef p (`zero`) or retain_coef (1 + 3p)/4
(`quarter`).

Forget losses are in sequential/losses.py: at uniform predictions max_entropy is 1, its floor; it is
about 2 on an untouched model. Combinations of gradients are in sequential/gradients.py: in theory
kl's gradient is zero at the start as well, so that a filter passes what rounding leaves of it, and
nll is to be preferred. AdamW behind gradient clipping hardly sees the scale of the loss: the
coefficients matter as a ratio. Optimizer steps are the only unit of length, and no setting carries
over from one number of steps to another.

block_output   z starts behind block L.
block_input    z starts before it: block L itself gets no forget gradient (adapters only).
live           z is the model's own output, without a frozen probe.
"""

import functools
from dataclasses import dataclass
from typing import ClassVar

from brittle.base.errors import UserError
from brittle.base.knobs import knob, listed, log_range, one_of
from brittle.methods.base import Method
from brittle.methods.sequential.phases import (
    Phases,
    budget,
    depth_factor,
    forget_factor,
    parse_layers,
    retain_factor,
)
from brittle.models.blocks import block_count


@dataclass
class Sequential(Method):
    replicates: ClassVar[bool] = True
    phased: ClassVar[bool] = True
    layers: str = knob(
        "28:16:4", "Blocks in training order, START:END:STEP, deepest first.", blocks=True
    )
    steps_per_layer: int = knob(
        0,
        "Optimizer steps a phase; 0: --steps over all phases, else a pass over the forget texts.",
        low=0,
    )
    deep_layer_step_scale: float = knob(
        1.0, "Factor on a phase's steps, from 1 at START to this at block 0.", low=1e-3
    )
    probe: str = knob(
        "frozen",
        "Read the forget texts out by the start's suffix, or the live one.",
        choices=("frozen", "live"),
    )
    probe_start: str = knob(
        "block_output", "Where the suffix starts.", choices=("block_output", "block_input")
    )
    forget_loss: str = knob(
        "max_entropy",
        "Forget term.",
        choices=("max_entropy", "ce_random", "entropy_topk", "entropy_rev", "npo_probe"),
    )
    top_k: int = knob(100, "Logits that entropy_topk reads.", low=2)
    beta: float = knob(0.1, "Inverse temperature of npo_probe.", low=1e-6)
    retain_loss: str = knob(
        "l2",
        "Retain term: l2 (of hidden states), kl (to the start), nll.",
        choices=("l2", "kl", "nll"),
        search=one_of("l2", "kl", "nll"),
    )
    retain_blocks: str = knob(
        "all", "Blocks whose outputs l2 compares: all, current, or numbers with commas."
    )
    kl_reduction: str = knob(
        "token", "kl: mean over tokens, or their sum a text.", choices=("token", "sum")
    )
    remove_coef: float = knob(5.0, "Weight of the forget term.", low=0, search=log_range(0.5, 100))
    retain_coef: float = knob(5.0, "Weight of the retain term.", low=0, search=log_range(0.5, 500))
    retain_ramp: str = knob(
        "zero", "How the retain weight grows in a phase.", choices=("zero", "quarter", "const")
    )
    forget_layer_scale: float = knob(
        1.0, "Factor on the forget weight, from 1 at START to this at block 0.", low=0
    )
    schedule_scope: str = knob(
        "phase", "Rate schedule: anew a phase, or one over the run.", choices=("phase", "run")
    )
    gradients: str = knob(
        "sum",
        "How retain and forget gradients combine.",
        choices=("sum", "same_sign", "asymmetric"),
    )
    l2sp_coef: float = knob(
        0.0, "Weight of the squared distance of the block's weights to the start.", low=0
    )

    @property
    def needs_reference(self):
        # without adapters it keeps a reference of its own, block by block
        return self.adapters

    def check(self):
        """Raises UserError for knobs that do not go together."""
        blocks, asked = parse_layers(self.layers), f"--gradients {self.gradients}"
        if self.adapters and self.gradients != "sum":
            raise UserError(
                f"{asked} filters one block's gradients: it applies to --adapter full. With "
                "adapters use sum."
            )
        if self.adapters and self.l2sp_coef:
            raise UserError(
                "--l2sp-coef holds one block's weights: it applies to --adapter full. With "
                "adapters leave it out."
            )
        if self.gradients != "sum" and self.retain_loss == "l2":
            raise UserError(
                f"{asked}: at the start l2 has no gradient to agree with, so nothing would ever "
                "train. Use --retain-loss nll or kl."
            )
        if self.probe == "frozen" and self.probe_start == "block_input":
            if not self.adapters:
                raise UserError(
                    "--probe-start block_input gives the block in training no forget gradient: use "
                    "--adapter lora."
                )
            if 0 in blocks:
                raise UserError(
                    f"--layers {self.layers}: with --probe-start block_input nothing lies before "
                    "block 0. End at 1."
                )

    def trains(self, model):
        """Names of the parameters of every phase's block; with adapters on every block."""

        from brittle.models.blocks import blocks, check_blocks

        order = parse_layers(self.layers)
        check_blocks(model, order, f"--layers {self.layers} has block")
        self.read_blocks(model, order[0])
        if self.adapters:
            return None
        inside = {id(p) for block in order for p in blocks(model)[block].parameters()}
        return [name for name, p in model.named_parameters() if id(p) in inside]

    def read_blocks(self, model, block):
        """The blocks whose outputs l2 compares in the phase of `block`."""

        from brittle.models.blocks import check_blocks

        if self.retain_blocks == "all":
            return list(range(block_count(model)))
        if self.retain_blocks == "current":
            return [block]
        try:
            chosen = sorted({int(number) for number in listed(self.retain_blocks)})
        except ValueError:
            chosen = []
        if not chosen:
            raise UserError(
                f"--retain-blocks {self.retain_blocks}: all, current, or block numbers with commas."
            )
        check_blocks(model, chosen, "--retain-blocks")
        if self.retain_loss == "l2" and not self.adapters and chosen[-1] < block:
            raise UserError(
                f"--retain-blocks {self.retain_blocks}: block {block} trains alone and moves none "
                f"of them. Name block {block} "
                "or a deeper one, or use current."
            )
        return chosen

    def phases(self, lengths=None):
        """Phases of `lengths` steps, or of equal shares times the depth's factor."""
        blocks = parse_layers(self.layers)
        scale = functools.partial(depth_factor, self.deep_layer_step_scale, start=blocks[0])
        return Phases(blocks, lengths or [scale(block=b) for b in blocks])

    def plan(self, steps, one_pass):
        shares = self.phases().lengths
        if not self.steps_per_layer and steps and steps < len(shares):
            raise UserError(
                f"--steps {steps}: --layers {self.layers} has {len(shares)} phases, and each needs "
                "a step."
            )
        if self.steps_per_layer or not steps:
            lengths = [
                max(1, round((self.steps_per_layer or one_pass) * share)) for share in shares
            ]
        else:  # the total is exactly `steps`
            ends = [round(steps * sum(shares[: k + 1]) / sum(shares)) for k in range(len(shares))]
            lengths = [b - a for a, b in zip([0, *ends], ends, strict=False)]
        if min(lengths) < 1:
            raise UserError(
                f"--steps {steps}: too few for {len(shares)} phases with --deep-layer-step-scale. "
                "Give more."
            )
        if self.steps_per_layer and steps and steps != sum(lengths):
            raise UserError(
                f"--steps {steps}, but {len(shares)} phases of --steps-per-layer "
                f"{self.steps_per_layer} are {sum(lengths)}. "
                "Give one of the two."
            )
        self.planned = self.phases(lengths)
        return sum(lengths), tuple(lengths) if self.schedule_scope == "phase" else ()

    def budget(self, streams):
        return budget(self.planned, streams)

    def start(self, model, reference, data):
        from brittle.methods.sequential.losses import mean_logprobs
        from brittle.methods.sequential.passes import Originals
        from brittle.models.blocks import blocks
        from brittle.models.logprobs import by_example

        super().start(model, reference, data)
        self.planned = getattr(self, "planned", None) or self.phases()
        self.at, self.measured = None, {}
        inside = blocks(model)
        self.chosen = {
            b: [p for p in inside[b].parameters() if p.requires_grad] for b in self.planned.blocks
        }
        for block, chosen in self.chosen.items():
            if not chosen:
                raise UserError(
                    f"--trainable leaves nothing to train in block {block} of --layers "
                    f"{self.layers}."
                )
        if not self.adapters:
            self.reference = Originals(model)
        if self.forget_loss == "npo_probe":

            def logprobs(batch):
                return mean_logprobs(model(**batch).logits, batch)

            self.before = by_example(logprobs, data.forget, model.device)

    def phase(self, progress):
        """Enter the phase that `progress` lies in. True where new optimizers start there."""

        from brittle.methods.sequential.passes import Passes

        index, _ = self.planned.at(progress)
        if self.at == index:
            return False
        self.at, block = index, self.planned.blocks[index]
        self.passes = Passes(self.model, self.reference, block, below_fixed=not self.adapters)
        self.read = self.read_blocks(self.model, block)
        if self.adapters:
            return self.schedule_scope == "phase"
        # all blocks up to here: a resumed run starts in the middle
        for trained in self.planned.blocks[: index + 1]:
            self.reference.keep(trained)
        self.model.requires_grad_(requires_grad=False)
        for p in self.chosen[block]:
            p.requires_grad_(requires_grad=True)
        return True

    def losses(self, forget, retain, progress):
        from brittle.maths.precision import wide

        self.phase(progress)
        index, p = self.planned.at(progress)
        block, start = self.planned.blocks[index], self.planned.blocks[0]
        raw = {"forget": self.forget_term(forget, progress), "retain": self.retain_term(retain)}
        self.measured = {"block": block, **{f"{k}_loss": v.detach() for k, v in raw.items()}}
        depth = depth_factor(self.forget_layer_scale, block, start)
        terms = {
            "forget": self.remove_coef * forget_factor(p) * depth * raw["forget"],
            "retain": self.retain_coef * retain_factor(self.retain_ramp, p) * raw["retain"],
        }
        if self.l2sp_coef:
            pairs = [(wide(w), wide(w0)) for w, w0 in self.reference.pairs(block)]
            terms["l2sp"] = self.l2sp_coef * sum((w - w0).pow(2).sum() for w, w0 in pairs)
        return terms

    def forget_term(self, batch, progress):
        from brittle.methods.sequential.losses import forget_loss, npo_probe

        if self.probe == "live":
            z = self.passes.live(batch)
        else:
            z = self.passes.probe(batch, self.probe_start)
        if self.forget_loss == "npo_probe":
            return npo_probe(z, batch, self.before[batch.index].to(z.device), self.beta)
        return forget_loss(self.forget_loss, z, batch, self.seed, progress, self.top_k)

    def retain_term(self, batch):
        from brittle.methods.sequential.losses import kl, nll

        if self.retain_loss == "l2":
            return self.passes.distance(batch, self.read)
        if self.retain_loss == "nll":
            return nll(self.passes.live(batch), batch)
        return kl(*self.passes.live_and_frozen(batch), batch, self.kl_reduction)

    @property
    def combine(self):
        return None if self.gradients == "sum" else self.filtered

    def filtered(self, gradients, lr):
        from brittle.methods.sequential.gradients import agreement, combine

        r, f = gradients["retain"], gradients["forget"]
        if "l2sp" in gradients:
            r = [a + b for a, b in zip(r, gradients["l2sp"], strict=True)]
        self.measured |= agreement(r, f)
        return combine(self.gradients, r, f)

    def measures(self):
        """The block in training, and its unweighted losses in the last micro-batch.

        Where gradients are filtered, also their agreement.
        """
        return {k: v.item() if hasattr(v, "item") else v for k, v in self.measured.items()}
