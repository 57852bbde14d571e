"""The one training loop: sums named loss terms, steps, logs, stops on NaN, resumes.

It never asks which method runs. What acts around its steps is a list of hooks (training/steps.py).
"""

import math
from dataclasses import asdict, replace
from functools import partial

import torch

from brittle.base.bars import progress_bar
from brittle.base.errors import UserError
from brittle.training.cost import Cost
from brittle.training.distributed import averaged, is_sharded, means, summed, whole
from brittle.training.settings import lr_factor, make_optimizers

NO_TERMS = ("step", "grad_norm", "lr", "flops")  # columns of the history that are no losses


def check_terms(values, step):
    """Every loss term {name: float} must be finite: a run that breaks is stopped, not saved."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"step {step}: the loss term '{name}' is {value}. Nothing was saved. "
                "Lower --lr or raise the retain weight."
            )


class Gradients:
    """Gradients of a step: of the sum of terms in .grad, or of each term in a buffer of its own.

    Buffers are used where a `combine` is given. They are filled over *all* micro-batches before
    they are combined: what is not linear in the gradients (norms, signs) must see the whole step's,
    or accumulation would change the method.
    """

    def __init__(self, trainable, combine=None, average=None):
        """average(tensors): their means over processes, where those hold the whole model each."""
        self.trainable = trainable
        self.combine = combine
        self.average = average
        self.buffers = {}

    def add(self, terms, accelerator, share):
        """Add the gradients of one micro-batch's terms, weighted by `share`."""
        if not self.combine:
            accelerator.backward(sum(terms.values()) * share)
            return
        for k, (name, term) in enumerate(terms.items(), 1):
            accelerator.backward(term * share, retain_graph=k < len(terms))
            own = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.trainable]
            for p in self.trainable:
                p.grad = None
            # the first micro-batch's gradients become the buffer themselves
            for buffer, gradient in zip(self.buffers.setdefault(name, own), own, strict=True):
                if buffer is not gradient:
                    buffer.add_(gradient)

    def finish(self, lr):
        """Leave the step's gradients in .grad: averaged over processes, combined over terms."""
        if not self.combine:
            if self.average:
                self.average([p.grad for p in self.trainable if p.grad is not None])
            return
        if self.average:
            for tensors in self.buffers.values():
                self.average(tensors)
        # `combine` may take the buffers out and reuse their memory
        buffers, self.buffers = self.buffers, {}
        for p, gradient in zip(self.trainable, self.combine(buffers, lr), strict=True):
            p.grad = gradient


class Stepper:
    """The optimizer steps of one model: losses, gradients, clipping, stepping."""

    def __init__(self, model, settings, accelerator, hooks, combine):
        self.model = model
        self.settings = settings
        self.accelerator = accelerator
        self.hooks = hooks
        self.combine = combine
        self.cost = Cost()
        self.average = None
        if accelerator.num_processes > 1 and not is_sharded(model):
            self.average = partial(averaged, accelerator=accelerator)

    def renew(self):
        """New optimizers over what trains now."""
        self.optimizers = make_optimizers(self.model, self.settings)
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.gradients = Gradients(self.trainable, self.combine, self.average)

    def begin(self, progress):
        """Tell the hooks how far the run is. True where one of them needs new optimizers."""
        fresh = [hook.begin_step(progress) for hook in self.hooks]
        return any(fresh)

    def accumulate(self, terms_at, step):
        """Gradients of all micro-batches; returns {term: its mean over them, a tensor}."""
        count = self.settings.grad_accum
        sums = {}
        for micro in range(count):
            with self.cost, self.accelerator.autocast():
                terms = terms_at(step, micro, step / self.settings.steps)
            self.gradients.add(terms, self.accelerator, 1 / count)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term.detach().float() / count
        return sums

    def clip(self):
        """Clip the gradients. Returns their norm before, a tensor."""
        limit = self.settings.grad_clip or math.inf
        return whole(torch.nn.utils.clip_grad_norm_(self.trainable, limit))

    def step(self, terms_at, step):
        """Optimizer step `step` (from 0). Returns its row of the history."""
        factor = lr_factor(self.settings, step)
        for optimizer, full in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = full * factor
        spent = self.cost.flops
        sums = self.accumulate(terms_at, step)
        spent = summed(self.cost.flops - spent, self.accelerator)
        self.gradients.finish(self.settings.lr * factor)
        for hook in self.hooks:
            hook.before_step()
        norm = self.clip()
        # values are read here alone: the GPU has had no pause since the step began
        sums = means(sums, self.accelerator)
        check_terms(sums, step + 1)
        if not torch.isfinite(norm):
            raise UserError(
                f"step {step + 1}: the gradient norm is {float(norm)}. Nothing was saved. "
                "Lower --lr."
            )
        for optimizer, _ in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        lr = self.settings.lr * factor
        return {"step": step + 1, **sums, "grad_norm": norm.item(), "lr": lr, "flops": spent}


def train(
    model,
    terms_at,
    settings,
    accelerator,
    *,
    hooks=(),
    checkpoints=None,
    combine=None,
    label="train",
):
    """Minimise the sum of `terms_at(step, micro, progress)` -> {name: scalar}.

    Returns the history: one row a step, {step, terms, grad_norm, lr, flops} and what hooks add.
    `flops` are those of the step's losses and gradients (cost.Cost), of all processes; measuring
    hooks cost nothing.

    hooks: StepHooks, called in their order. checkpoints: checkpoint.Checkpoints, where the run
    writes some or goes on from one. combine: see `Gradients`. label: of the progress bar; None for
    no bar. Raises UserError on a NaN or infinite term, naming step and term.
    """
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    stepper = Stepper(model, settings, accelerator, hooks, combine)
    start, history = 0, []
    for hook in hooks:
        hook.start(names)
    if checkpoints:
        about = {"settings": asdict(settings), **checkpoints.about}
        checkpoints = replace(checkpoints, about=about)
    if checkpoints and checkpoints.resume:
        # a checkpoint holds the optimizers of the step before it
        stepper.begin(max(0, checkpoints.steps_done() - 1) / settings.steps)
        stepper.renew()
        start, history = checkpoints.load(model, names, stepper.optimizers)
    else:
        stepper.begin(0.0)
        stepper.renew()
    shown = label if accelerator.is_main_process else None
    with progress_bar(settings.steps, start, shown) as bar:
        for step in range(start, settings.steps):
            if stepper.begin(step / settings.steps):
                stepper.renew()
            row = stepper.step(terms_at, step)
            losses = {name: f"{row[name]:.3g}" for name in row if name not in NO_TERMS}
            ends = [hook.after_step(step + 1, row) for hook in hooks]  # each hook has its turn
            history.append(row)
            bar.set_postfix(losses, refresh=False)
            bar.update()
            if checkpoints and is_saved(step + 1, settings):
                checkpoints.save(model, names, stepper.optimizers, step + 1, history)
            if any(ends):
                break
    return history


def is_saved(step, settings):
    """Is a checkpoint due behind `step` steps?

    None is due at the end, where the model itself is saved.
    """
    due = settings.save_every and step % settings.save_every == 0
    return bool(due) and step < settings.steps


def make_accelerator(device):
    """Accelerate's handle on device, precision and processes.

    Weights are float32; on GPU passes run in bfloat16 autocast.
    """
    from accelerate import Accelerator

    precision = "no" if device.type == "cpu" else "bf16"
    return Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
