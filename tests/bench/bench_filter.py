"""What do fitting and tuning an activation filter cost, in forward passes over the texts, and what
does the filter cost at inference?

    uv run tests/bench/bench_filter.py                                        a small GPT-NeoX, seconds on CPU
    uv run tests/bench/bench_filter.py --size 1.4b --device cuda              bfloat16, on a GPU
    uv run tests/bench/bench_filter.py --size 1.4b --device cuda --site auto  every candidate site, with and without a gate
    uv run tests/bench/bench_filter.py --mini outputs/models/mini-base        the four scripts as users run them, with imports

The model is built in place with random weights, texts are random tokens of full length whose second
half is the answer; forget and retain texts use different halves of the vocabulary. The unit is one
forward pass over all texts, logits included. Tuning is search and strength; leak checks generate
text and are timed with --mini.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

import torch

SIZES = {
    "tiny": (4, 64, 4, 500),
    "small": (8, 256, 8, 2000),
    "1.4b": (24, 2048, 16, 50304),
    "6.9b": (32, 4096, 32, 50432),
}


def build_model(size, length, device):
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
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def make_examples(count, length, low, high, seed):
    from brittle.filters.states import FilterText

    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(low, high, (count, length), generator=g).tolist()
    return [FilterText(row, length // 2, i * 50 // count, True) for i, row in enumerate(ids)]


def clock(device):
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def forward(model, examples, batch_size):
    from brittle.data.batches import batches

    with torch.no_grad():
        for _, batch in batches([e.ids for e in examples], 0, batch_size, model.device):
            model(**batch)


def unlikely(model, examples, count, batch_size):
    """The `count` examples of the largest loss: random weights know no text, but next to these the
    forget texts look known.
    """
    from brittle.filters.tuning import Cache

    cache = Cache(model, examples, 0, (), batch_size)
    losses = [batch.nll() for batch in cache.batches]
    return [examples[i] for i in cache.by_example(torch.cat(losses)).topk(count).indices]


def bench(args):
    from brittle.filters import fit, search
    from brittle.filters.states import candidate_sites
    from brittle.filters.strength import tune
    from brittle.filters.target import Limits
    from brittle.filters.tuning import Tuner
    from brittle.models.filter import hooked

    model = build_model(args.size, args.length, args.device)
    half = model.config.vocab_size // 2
    sets = {
        "forget": make_examples(args.texts, args.length, 2, half, 1),
        "retain": make_examples(args.texts, args.length, half, 2 * half, 2),
    }
    sets["unseen"] = unlikely(
        model, make_examples(8 * args.tune, args.length, 2, half, 3), args.tune, args.batch
    )
    sites = candidate_sites(model) if args.site == "auto" else [args.site]
    texts = sets["forget"] + sets["retain"]
    forward(model, texts[: args.batch], args.batch)
    start = clock(args.device)
    forward(model, texts, args.batch)
    unit = clock(args.device) - start
    if args.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    start = clock(args.device)
    moments = fit.moments_of(model, sets, 0, sites, args.batch)
    read = clock(args.device)
    gate = None if args.site == "auto" else False
    candidates = fit.fit_candidates(model, moments, sites, gate=gate)
    fitted = clock(args.device)
    tuner = Tuner(
        model, {n: search.sample(e, args.tune) for n, e in sets.items()}, 0, sites, args.batch
    )
    for candidate in candidates.values():
        candidate.to(model.device)
    choice = tune(tuner, search.search(tuner, candidates, Limits())[0])
    tuned = clock(args.device)
    batch = texts[: args.batch]
    start_plain = clock(args.device)
    forward(model, batch, args.batch)
    plain = clock(args.device) - start_plain
    with hooked(model, choice.filter):
        start_hooked = clock(args.device)
        forward(model, batch, args.batch)
        with_filter = clock(args.device) - start_hooked
    name = torch.cuda.get_device_name() if args.device != "cpu" else "CPU"
    peak = torch.cuda.max_memory_allocated() / 2**30 if args.device != "cpu" else float("nan")
    tokens = len(texts) * args.length
    count = sum(p.numel() for p in model.parameters()) / 1e6
    print(
        f"{count:.1f} M parameters, {len(texts)} texts of {args.length} tokens, {len(sites)} sites, "
        f"tuned on {args.tune} texts a set; {name}; torch {torch.__version__}"
    )
    print("| part | s | forward passes |\n|---|---|---|")
    parts = {
        f"one forward pass ({tokens / unit:.0f} tokens/s)": unit,
        "fit: states and moments": read - start,
        "fit: bases and gates": fitted - read,
        "tune: cache, search, strength": tuned - fitted,
        "**fit + tune**": tuned - start,
    }
    for part, seconds in parts.items():
        print(f"| {part} | {seconds:.2f} | {seconds / unit:.2f} |")
    print(
        f"hooked over plain forward pass: {with_filter / plain:.3f}; "
        f"most GPU memory {peak:.1f} GiB; {choice.filter.site}, "
        f"{'gated, ' if choice.gated else ''}k {choice.filter.k}"
    )


def bench_mini(model):
    """Wall and CPU seconds of the scripts, one after the other, in processes of their own."""
    print("| script | wall s | CPU s |\n|---|---|---|")
    total = [0.0, 0.0]
    with tempfile.TemporaryDirectory() as folder:
        where, baked = ["--filter", f"{folder}/filter"], f"{folder}/unlearned_model"
        arguments = {
            "fit_filter": ["--out", f"{folder}/filter"],
            "tune_strength": where,
            "bake_filter": [*where, "--out", baked],
            "verify_filter": [*where, "--baked", baked],
        }
        for script, more in arguments.items():
            before, start = os.times(), time.perf_counter()
            subprocess.run(
                [sys.executable, f"hooks/{script}.py", "--model", model, *more], check=True
            )
            wall, after = time.perf_counter() - start, os.times()
            cpu = (
                after.children_user
                + after.children_system
                - before.children_user
                - before.children_system
            )
            print(f"| {script} | {wall:.1f} | {cpu:.1f} |", flush=True)
            if script != "verify_filter":
                total = [total[0] + wall, total[1] + cpu]
    print(f"| **fit + tune + bake** | {total[0]:.1f} | {total[1]:.1f} |")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--site", default="post_norm", help="auto, post_norm, pre_norm or block:L")
    parser.add_argument(
        "--texts",
        type=int,
        default=0,
        help="forget texts, and as many retain texts (4096 on a GPU, 512)",
    )
    parser.add_argument(
        "--tune", type=int, default=64, help="texts a set that strengths are read on"
    )
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--mini", help="a model of the mini family: time the scripts instead")
    args = parser.parse_args()
    args.texts = args.texts or (512 if args.device == "cpu" else 4096)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1 if args.device == "cpu" else 8)))
    bench_mini(args.mini) if args.mini else bench(args)


if __name__ == "__main__":
    main()
