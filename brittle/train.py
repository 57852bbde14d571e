"""The one training loop: sums named loss terms, steps, logs, stops on NaN, resumes. It never asks which method runs."""

import math
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial

import torch

from brittle.checkpoint import load_checkpoint, save_checkpoint, steps_done
from brittle.distributed import averaged, is_sharded, means, whole
from brittle.errors import UserError
from brittle.losses import wide
from brittle.models import blocks
from brittle.optim import Muon


@dataclass
class Settings:
    """How to train. One optimizer step is `batch_size * grad_accum` examples a process; lengths in optimizer steps."""

    steps: int
    lr: float = 1e-5
    batch_size: int = 4
    grad_accum: int = 1
    schedule: str = "cosine"  # cosine, linear: to zero over the run; constant; trapezoid: linear decay over the last 40 %
    stretches: tuple = ()  # lengths of parts of the run that each have the whole schedule; the run as one where empty
    warmup: int = 0
    weight_decay: float = 0.0
    grad_clip: float = 1.0  # 0 is off
    optimizer: str = "adamw"  # muon: block matrices by Muon at `muon_lr`, the rest by AdamW at `lr`; sgd: plain
    muon_lr: float = 0.02
    checkpointing: bool = False  # recompute activations in the backward pass: less memory, a third more time
    save_every: int = 0  # checkpoint every so many steps; 0 is never
    seed: int = 0


def lr_factor(settings, step):
    """The learning rate's factor in [0, 1] at optimizer step `step` (from 0)."""
    steps = settings.steps
    for length in settings.stretches:
        if step < length:
            steps = length
            break
        step -= length
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    if settings.schedule == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * step / steps))
    if settings.schedule == "linear":
        return warm * (steps - step) / steps
    if settings.schedule == "trapezoid":
        return warm * min(1.0, (steps - step) / (0.4 * steps))
    if settings.schedule != "constant":
        raise UserError(f"--schedule {settings.schedule}: choose cosine, linear, constant or trapezoid.")
    return warm


def make_optimizers(model, settings):
    """[(optimizer, its full learning rate), ...] over the trainable parameters."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    # fused: the default on GPU holds temporaries as large as the weights, for which a 7B model has no room
    fused = True if trainable and trainable[0].is_cuda else None
    adamw = {"lr": settings.lr, "betas": (0.9, 0.95), "weight_decay": settings.weight_decay, "fused": fused}
    if settings.optimizer == "adamw":
        return [(torch.optim.AdamW(trainable, **adamw | {"betas": (0.9, 0.999)}), settings.lr)]
    if settings.optimizer == "sgd":
        return [(torch.optim.SGD(trainable, lr=settings.lr, weight_decay=settings.weight_decay), settings.lr)]
    if settings.optimizer != "muon":
        raise UserError(f"--optimizer {settings.optimizer}: choose adamw, muon or sgd.")
    matrices = [p for p in blocks(model).parameters() if p.requires_grad and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    made = [(Muon(matrices, lr=settings.muon_lr, weight_decay=settings.weight_decay), settings.muon_lr)] if matrices else []
    rest = [p for p in trainable if id(p) not in chosen]
    return made + ([(torch.optim.AdamW(rest, **adamw), settings.lr)] if rest else [])


class Frozen:
    """The reference of a loss: `with reference as model:` gives the starting weights, without gradients.

    Only what trains is kept twice: inside the block the trainable parameters hold their starting values.
    """

    def __init__(self, model):
        self.model = model
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.start = [p.detach().clone() for p in self.trained]

    def pairs(self):
        """[(parameter, its starting value), ...]"""
        return list(zip(self.trained, self.start, strict=True))

    def _swap(self, requires_grad):
        for k, p in enumerate(self.trained):
            if hasattr(p, "full_tensor"):  # FSDP2 gathers from storage of its own: values are exchanged, not tensors
                now = p.detach().clone()
                p.detach().copy_(self.start[k])
                self.start[k].copy_(now)
                continue
            p.requires_grad_(requires_grad)  # autocast keeps bfloat16 copies of what requires gradients
            p.data, self.start[k] = self.start[k], p.data

    def __enter__(self):
        self.was_training, self.no_grad = self.model.training, torch.no_grad()
        self.no_grad.__enter__()
        self._swap(False)
        return self.model.eval()

    def __exit__(self, *error):
        self._swap(True)
        self.model.train(self.was_training)
        self.no_grad.__exit__(*error)


@contextmanager
def progress_bar(total, start, label):
    from tqdm import tqdm

    with tqdm(total=total, initial=start, desc=label, disable=label is None, mininterval=1, dynamic_ncols=True) as bar:
        yield bar


def check_terms(values, step):
    """Every loss term {name: float} must be finite: a run that breaks is stopped, not saved."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"step {step}: the loss term '{name}' is {value}. Nothing was saved. Lower --lr or raise the retain weight."
            )


def norm_of(tensors):
    """The Euclidean norm of a list of tensors as one vector, a scalar tensor."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(wide(t)) for t in tensors]))


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
            for tensors in self.buffers.values() if self.combine else [[p.grad for p in self.trainable if p.grad is not None]]:
                self.average(tensors)
        if self.combine:
            buffers, self.buffers = self.buffers, {}  # `combine` may take the buffers out and reuse their memory
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
    start, history = load_checkpoint(checkpoint, model, optimizers, about, state, names) if resume else (0, [])
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
            sums = means(sums, accelerator)  # read here alone: the GPU has had no pause since the step began
            check_terms(sums, step + 1)
            if not torch.isfinite(norm):
                raise UserError(f"step {step + 1}: the gradient norm is {float(norm)}. Nothing was saved. Lower --lr.")
            for optimizer, _ in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if mask:
                mask.after_step()
            row = {"step": step + 1, **sums, "grad_norm": norm.item(), "lr": settings.lr * lr_factor(settings, step)}
            done = after_step and after_step(step + 1, row)
            history.append(row)
            bar.set_postfix({k: f"{v:.3g}" for k, v in sums.items()}, refresh=False)
            bar.update()
            if checkpoint and settings.save_every and (step + 1) % settings.save_every == 0 and step + 1 < settings.steps:
                save_checkpoint(checkpoint, model, optimizers, step + 1, history, about, state, names)
            if done:
                break
    return history


def make_accelerator(device):
    """Accelerate's handle on device, precision and processes: float32 master weights, bfloat16 autocast on GPU."""
    from accelerate import Accelerator

    return Accelerator(cpu=device.type == "cpu", mixed_precision="no" if device.type == "cpu" else "bf16")
