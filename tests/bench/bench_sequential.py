"""What does a step of sequential unlearning cost in each phase, against the passes it needs, and
how much memory at most?

Called by bench_methods.py --sequential. The passes that the phase of block L needs of each set, in
the time of one block's forward pass (backward: 1 for the gradient of the input, 1 for that of the
weights; `head` is norm and unembedding):
    forget       L forward without a graph, block L forward and 2 backward, N - L - 1 blocks and the head forward and 1 backward
    retain l2    (current) L forward without a graph, block L forward and 2 backward, the starting block L forward
    retain kl    L forward, N - L blocks and the head forward for theta and theta_0, 1 backward through those above L, 2 in L
A block's and the head's time are measured by forward passes on the same texts, without gradients.
"""

import gc
import itertools
import statistics
import time

import torch

from brittle.training.steps import StepHook


def seconds(call, repeat=3):
    taken = []
    for _ in range(repeat + 1):
        _wait()
        begin = time.perf_counter()
        call()
        _wait()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken[1:])


def _wait():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak():
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else float("nan")


def unit_times(model, batch, accelerator):
    """(seconds of one block's forward pass, of the head's), without gradients."""
    from brittle.models.hooks import hidden

    last = model.config.num_hidden_layers - 1
    model.requires_grad_(
        False
    )  # as in a phase: autocast keeps no bfloat16 copies of weights that do not train
    with torch.no_grad(), accelerator.autocast():
        first = seconds(lambda: hidden(model, batch, [0]))
        below = seconds(lambda: hidden(model, batch, [last]))
        whole = seconds(lambda: model(**batch))
    model.requires_grad_(True)
    return (below - first) / last, max(whole - below, 0.0)


def floor(block, blocks, retain, one, head):
    """Seconds of the passes that the phase of `block` needs (see above)."""
    above = blocks - block - 1
    forget = block + 3 + 2 * above
    if retain == "kl":
        return (forget + block + 2 * (1 + above) + above + 2) * one + 5 * head
    return (forget + block + 4) * one + 2 * head


class Watch(StepHook):
    """Stands in for a keeper: notes the time and the memory behind every step."""

    def __init__(self):
        self.rows = []

    def after_step(self, step, row):
        _wait()
        self.rows.append((row["block"], time.perf_counter(), peak()))
        return False


def round_to_bfloat16(model):
    """As published checkpoints are: exactly representable, which halves what the starting blocks
    take.
    """
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16())


def run(model, data, args, accelerator):
    from brittle.base.knobs import build
    from brittle.methods import method_class
    from brittle.methods.wrappers import Wrappers
    from brittle.training import fitting

    blocks = model.config.num_hidden_layers
    round_to_bfloat16(model)
    batch = data.forget.batches(0)[0]
    model.eval()
    one, head = unit_times(model, batch, accelerator)
    layers = args.layers or f"{blocks - 1}:0:1"
    for retain in args.retain.split(","):
        knobs = {
            "layers": layers,
            "steps_per_layer": args.steps + 1,
            "retain_loss": retain,
            "retain_blocks": "current",
            "retain_ramp": "quarter",
            "gradients": args.gradients,
        }
        if retain == "l2":
            knobs["gradients"] = "sum"
        rule, wrappers, watch = (
            build(method_class("sequential"), "sequential", knobs),
            Wrappers(adapter="full"),
            Watch(),
        )
        wrappers.check("sequential", rule)
        given = {"lr": 1e-7, "schedule": "linear", "checkpointing": args.checkpointing}
        settings = fitting.make_settings(rule, given, data, batch_size=args.batch)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        fitting.Fit(model, rule, wrappers, data, settings, accelerator, (watch,), label=None).run()
        units = f"a block {one * 1e3:.1f} ms, the head {head * 1e3:.1f} ms"
        print(f"\nretain {retain}, gradients {knobs['gradients']}; forward: {units}")
        print(
            "| block | ms a step | floor ms | step / floor | peak GB so far |\n|---|---|---|---|---|"
        )
        for block in rule.planned.blocks:
            stamps = [(t, p) for b, t, p in watch.rows if b == block]
            taken = statistics.median(b - a for (a, _), (b, _) in itertools.pairwise(stamps))
            least = floor(block, blocks, retain, one, head)
            print(
                f"| {block} | {taken * 1e3:.1f} | {least * 1e3:.1f} | {taken / least:.2f} | {stamps[-1][1]:.1f} |",
                flush=True,
            )
        del rule
        for p in model.parameters():
            p.requires_grad_(True)
            p.grad = None
