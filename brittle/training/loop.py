"""The one training loop: sums named loss terms, steps, logs, stops on NaN, resumes. It never asks which method runs."""

import math
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

import torch

from brittle.base.errors import UserError
from brittle.training.checkpoint import load_checkpoint, save_checkpoint, steps_done
from brittle.training.distributed import averaged, is_sharded, means, whole
from brittle.training.settings import lr_factor, make_optimizers


@contextmanager
def progress_bar(total, start, label):
    from tqdm import tqdm

    with tqdm(
        total=total,
        initial=start,
        desc=label,
        disable=label is None,
        mininterval=1,
        dynamic_ncols=True,
    ) as bar:
        yield bar


def check_terms(values, step):
    """Every loss term {name: float} must be finite: a run that breaks is stopped, not saved."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"step {step}: the loss term '{name}' is {value}. Nothing was saved. Lower --lr or raise the retain weight."
            )


class Gradients:
    """Gradients of a step: of the sum of terms in .grad, or where a `combine` is given of each term in a buffer of its own.

    Buffers are filled over *all* micro-batches before they are combined: what is not linear in the gradients (norms, signs)
    must see the whole step's, or accumulation would change the method.
    """

    def __init__(self, trainable, combine=None, average=None):
        """average(tensors): their means over processes, where those hold the whole model each."""
        self.trainable, self.combine, self.buffers, self.average = trainable, combine, {}, average

    def add(self, terms, accelerator, share):
        if not self.combine:
            return accelerator.backward(sum(terms.values()) * share)
        for k, (name, term) in enumerate(terms.items(), 1):
            accelerator.backward(term * share, retain_graph=k < len(terms))
            found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.trainable]
            for p in self.trainable:
                p.grad = None
            for b, g in zip(self.buffers.setdefault(name, found), found, strict=True):
                if b is not g:
                    b.add_(g)

    def finish(self, lr):
        if self.average:
            for tensors in (
                self.buffers.values()
                if self.combine
                else [[p.grad for p in self.trainable if p.grad is not None]]
            ):
                self.average(tensors)
        if self.combine:
            buffers, self.buffers = (
                self.buffers,
                {},
            )  # `combine` may take the buffers out and reuse their memory
            for p, g in zip(self.trainable, self.combine(buffers, lr), strict=True):
                p.grad = g


def train(
    model, terms_at, settings, accelerator, checkpoint=None, resume=False, after_step=None, label="train", about=None,
    combine=None, mask=None, state=None, phase=None,
):  # fmt: skip
    """Minimise the sum of `terms_at(step, micro, progress)` -> {name: scalar}. Returns the history: one row a step.

    checkpoint: folder for `save_every` and `resume`; about: what must be equal for a checkpoint to be this run's.
    after_step(step, row) runs behind every optimizer step (steps done so far), may add to the row, and ends the run early
    by returning True. combine, mask: see `Gradients` and masks.Mask. state: a dict of numbers kept in checkpoints.
    phase(progress) runs before every step; where it returns True other parameters may train from there, by new optimizers.
    Raises UserError on a NaN or infinite term, naming step and term.
    """
    names = [n for n, p in model.named_parameters() if p.requires_grad]  # what trains in any phase
    average = None
    if accelerator.num_processes > 1 and not is_sharded(model):
        average = partial(averaged, accelerator=accelerator)

    def make():
        trainable = [p for p in model.parameters() if p.requires_grad]
        return make_optimizers(model, settings), trainable, Gradients(trainable, combine, average)

    if phase and resume:  # a checkpoint holds the optimizers of the step before it
        phase(max(0, steps_done(checkpoint) - 1) / settings.steps)
    elif phase:
        phase(0.0)
    optimizers, trainable, gradients = make()
    about = {"settings": asdict(settings), **(about or {})}
    start, history = (
        load_checkpoint(checkpoint, model, optimizers, about, state, names) if resume else (0, [])
    )
    with progress_bar(settings.steps, start, label if accelerator.is_main_process else None) as bar:
        for step in range(start, settings.steps):
            if phase and phase(step / settings.steps):
                optimizers, trainable, gradients = make()
            for optimizer, full in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = full * lr_factor(settings, step)
            sums = {}
            for micro in range(settings.grad_accum):
                with accelerator.autocast():
                    terms = terms_at(step, micro, step / settings.steps)
                gradients.add(terms, accelerator, 1 / settings.grad_accum)
                for name, term in terms.items():
                    sums[name] = sums.get(name, 0.0) + term.detach().float() / settings.grad_accum
            gradients.finish(settings.lr * lr_factor(settings, step))
            if mask:
                mask.before_step()
            norm = whole(torch.nn.utils.clip_grad_norm_(trainable, settings.grad_clip or math.inf))
            sums = means(
                sums, accelerator
            )  # read here alone: the GPU has had no pause since the step began
            check_terms(sums, step + 1)
            if not torch.isfinite(norm):
                raise UserError(
                    f"step {step + 1}: the gradient norm is {float(norm)}. Nothing was saved. Lower --lr."
                )
            for optimizer, _ in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if mask:
                mask.after_step()
            row = {
                "step": step + 1,
                **sums,
                "grad_norm": norm.item(),
                "lr": settings.lr * lr_factor(settings, step),
            }
            done = after_step and after_step(step + 1, row)
            history.append(row)
            bar.set_postfix({k: f"{v:.3g}" for k, v in sums.items()}, refresh=False)
            bar.update()
            if (
                checkpoint
                and settings.save_every
                and (step + 1) % settings.save_every == 0
                and step + 1 < settings.steps
            ):
                save_checkpoint(
                    checkpoint, model, optimizers, step + 1, history, about, state, names
                )
            if done:
                break
    return history


def make_accelerator(device):
    """Accelerate's handle on device, precision and processes: float32 master weights, bfloat16 autocast on GPU."""
    from accelerate import Accelerator

    return Accelerator(
        cpu=device.type == "cpu", mixed_precision="no" if device.type == "cpu" else "bf16"
    )
