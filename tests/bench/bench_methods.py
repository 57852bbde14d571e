"""What does a step of each method cost, in plain fine-tuning steps on the same tokens, model and
dtype?

    uv run tests/bench/bench_methods.py                              a small GPT-NeoX, seconds on CPU
    uv run tests/bench/bench_methods.py --size 1.4b --batch 8        on a GPU, float32 weights under bfloat16 autocast
    uv run tests/bench/bench_methods.py --size 6.9b --batch 4 --length 512 --checkpointing --no-naive
    uv run tests/bench/bench_methods.py ... --methods npo,rmu --markdown
    uv run tests/bench/bench_methods.py --sequential --size 6.9b --batch 4 --length 512      see bench_sequential.py

The model is built in place with random weights. A step is the project's own loop with its
optimizer; the unit, one fine-tuning step on a batch of as many texts as either set has, is timed
around each method, so a ratio is of neighbours in time. `bound` is what the method's passes should
cost (forward 1/3, backward 2/3 of a pass; blocks that are not needed left out). `naive` is a
Hugging Face Trainer with the same loss as a user would write it: a second model, whole forward
passes, all hidden states.
"""

import argparse
import gc
import itertools
import os
import statistics
import sys
import time

import bench_sequential
import torch
from naive_methods import run_naive

SIZES = {  # blocks, width, heads, vocabulary
    "tiny": (4, 64, 4, 500),
    "small": (8, 256, 8, 2000),
    "1.4b": (24, 2048, 16, 50304),
    "6.9b": (32, 4096, 32, 50432),
}
METHODS = "ga_simple,ga,grad_diff,kl_min,dpo,dpo:readme,idk,npo,simnpo,me,rmu,cb,lat,cb_lat,ngdiff,wt_dist_reg"


def build_model(size, length, device):
    """A GPT-NeoX with random float32 weights, made on its device: no copy on the CPU."""
    from transformers import AutoModelForCausalLM, GPTNeoXConfig

    layers, width, heads, vocabulary = SIZES[size]
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        use_cache=False,
        intermediate_size=4 * width,
        max_position_embeddings=max(length, 64),
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


class Words:
    """A tokenizer for refusals, of random words."""

    def __call__(self, texts, add_special_tokens=False):
        return {"input_ids": [[2 + len(w) for w in text.split()] for text in texts]}

    def decode(self, ids):
        return "w"


def make_data(args, vocabulary):
    """Forget and retain streams of full-length random texts."""
    from types import SimpleNamespace

    from brittle.data.batches import Stream

    g, count = torch.Generator().manual_seed(0), 4 * args.batch

    def stream(seed):
        ids = torch.randint(2, vocabulary, (count, args.length), generator=g).tolist()
        return Stream(ids, 0, args.batch, 1, seed, torch.device(args.device))

    return SimpleNamespace(forget=stream(1), retain=stream(2), tokenizer=Words())


def clean(model):
    """Back to a model that trains whole, and as much free memory as there was."""
    for p in model.parameters():
        p.requires_grad_(True)
        p.grad = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def run_loop(model, terms, args, accelerator, combine=None, optimizer="adamw"):
    """(median seconds a step behind the first two, peak GB) of the project's training loop."""
    from brittle.training.loop import train
    from brittle.training.settings import Settings
    from brittle.training.steps import AfterStep

    stamps = []

    def after(step, row):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())

    settings = Settings(steps=args.steps + 2, lr=1e-7, batch_size=args.batch, optimizer=optimizer)
    train(model, terms, settings, accelerator, hooks=[AfterStep(after)], combine=combine)
    taken = [b - a for a, b in itertools.pairwise(stamps[1:])]
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else float("nan")
    return statistics.median(taken), peak


def unit(model, data, args, accelerator):
    from brittle.models.logprobs import nll

    clean(model)
    return run_loop(
        model,
        lambda step, micro, progress: {"nll": nll(model, data.forget.batches(step)[0])},
        args,
        accelerator,
    )


def started(name, model, data, accelerator, blocks):
    """The method with knobs that fit the model (a quarter of its blocks for representation
    methods), started.
    """
    from brittle.base.knobs import build, knobs
    from brittle.methods import method_class
    from brittle.models.blocks import train_only
    from brittle.training.reference import Frozen

    layer = max(0, blocks // 4 - 1)  # 7 of 32 blocks, the place of the publications
    fitting = {"layer_id": (layer,), "lat_layer": layer, "lat_steps": 4, "lr_probe_every": 0}
    name, _, variant = name.partition(":")
    cls = method_class(name)
    rule = build(
        cls,
        name,
        {k: v for k, v in fitting.items() if k in knobs(cls)}
        | ({"variant": variant} if variant else {}),
    )
    names = rule.trains(model)
    if names is not None:
        train_only(model, names)
    with accelerator.autocast():
        rule.start(model, Frozen(model) if rule.needs_reference else None, data)
    return rule, layer


def bound(name, blocks, layer):
    """Passes that the method needs, with the slack that it is allowed; None where no bound is
    stated.
    """
    used, above = (layer + 1) / blocks, (blocks - layer - 1) / blocks
    if name == "ga_simple":
        return 1.05
    if name in ("ga", "grad_diff", "npo", "simnpo", "me", "ngdiff", "dpo:readme"):
        return 2.1
    if name in (
        "dpo",
        "idk",
    ):  # refusals and a retain term: three passes, of which the refusals' is as short as they are
        return 3.1
    if name == "kl_min":
        return 2.1 + 1 / 3
    if name == "rmu":
        return 1.15 * used * (2 + 1 / 3)
    if name == "cb":
        return 1.15 * used * (2 + 2 / 3)
    if name == "lat":
        return 2.1 + 4 * above + used / 3
    if name == "cb_lat":
        return 1.15 * (used * (3 + 2 / 3) + 4 * above)
    return None


def naive_step(name, model, data, args, layer):
    clean(model)
    return run_naive(name, model, data, args, layer)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=8, help="texts of either set a step")
    parser.add_argument("--length", type=int, default=128, help="tokens a text")
    parser.add_argument("--steps", type=int, default=5, help="timed steps, behind two of warm-up")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument(
        "--no-naive", action="store_true", help="leave the Trainer out (it needs a second model)"
    )
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--sequential",
        action="store_true",
        help="the phases of sequential unlearning, instead of methods",
    )
    parser.add_argument("--layers", help="phases of --sequential (every block)")
    parser.add_argument("--retain", default="l2,kl", help="retain terms of --sequential")
    parser.add_argument(
        "--gradients", default="same_sign", help="how --sequential combines gradients (kl)"
    )
    args = parser.parse_args()
    from brittle.training.loop import make_accelerator

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1 if args.device == "cpu" else 8)))
    accelerator, blocks = make_accelerator(torch.device(args.device)), SIZES[args.size][0]
    model = build_model(args.size, args.length, args.device).train()
    if args.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    data = make_data(args, model.config.vocab_size)
    count, hardware = sum(p.numel() for p in model.parameters()), "CPU, one process"
    if torch.cuda.is_available():
        hardware = torch.cuda.get_device_name()
    print(
        f"{count / 1e6:.1f} M parameters, {args.batch} + {args.batch} texts of {args.length} tokens a step; {hardware}; "
        f"torch {torch.__version__}"
    )
    if args.sequential:
        bench_sequential.run(model, data, args, accelerator)
        return
    print(
        "| method | ms a step | units | bound | units a pass vs plain | tokens/s | peak GB | naive ms | naive / ours |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    last, peak = unit(model, data, args, accelerator)
    print(
        f"| plain fine-tuning | {last * 1e3:.1f} | 1.00 | | 100 % | {args.batch * args.length / last:.0f} | {peak:.1f} | | |"
    )
    for name in args.methods.split(","):
        try:
            clean(model)
            rule, layer = started(name, model, data, accelerator, blocks)

            def terms(step, micro, progress, rule=rule):
                return rule.losses(
                    data.forget.batches(step)[0], data.retain.batches(step)[0], progress
                )

            taken, peak = run_loop(
                model,
                terms,
                args,
                accelerator,
                rule.combine,
                "sgd" if name == "ngdiff" else "adamw",
            )
            del rule, terms
            after, _ = unit(model, data, args, accelerator)
            naive = None if args.no_naive else naive_step(name, model, data, args, layer)
        except torch.OutOfMemoryError:
            print(f"| {name} | out of memory | | | | | | | |", flush=True)
            clean(model)
            continue
        one, limit = (last + after) / 2, bound(name, blocks, layer)
        last = after
        passes = 1 if name == "ga_simple" else 2
        cells = [
            name,
            f"{taken * 1e3:.1f}",
            f"{taken / one:.2f}",
            f"{limit:.2f}" if limit else "",
            f"{one * passes / taken:.0%}" if limit in (1.05, 2.1) else "",
            f"{passes * args.batch * args.length / taken:.0f}",
            f"{peak:.1f}",
            f"{naive * 1e3:.1f}" if naive else "",
            f"{naive / taken:.2f}" if naive else "",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
