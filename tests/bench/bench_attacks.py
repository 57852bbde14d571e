"""What does each attack cost on one model?

    uv run tests/bench/bench_attacks.py                                   the mini base, on CPU
    uv run tests/bench/bench_attacks.py --size 6.9b --device cuda --dtype bfloat16 --attacks none,quantize,noise,ablate,gcg
    uv run tests/bench/bench_attacks.py --size 1.4b --device cuda         float32: relearning trains all weights

With --size a GPT-NeoX with random weights and the mini tokenizer stands in: its answers mean
nothing, its costs do.
"""

import argparse
import time
from pathlib import Path

import torch

from brittle.attacks import attack_class, chosen
from brittle.attacks.session import AttackSession
from brittle.models.load import load_tokenizer


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="outputs/models/mini-base")
    parser.add_argument("--data", type=Path, default=Path("data/mini"))
    parser.add_argument("--size", choices=("small", "1.4b", "6.9b"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--attacks", default="")
    parser.add_argument("--max-items", type=int, default=200)
    given = parser.parse_args()
    session = AttackSession(
        Path(given.model), given.data, given.max_items, device=given.device, dtype=given.dtype
    )
    if given.size:
        from bench_methods import build_model

        model = build_model(given.size, 256, given.device).to(getattr(torch, given.dtype)).eval()
        session.loaded += [model, load_tokenizer(given.model)]
    session.model()
    print("| attack | variants | wall s | CPU s | GPU GiB |\n| --- | --: | --: | --: | --: |")
    for name in chosen(given.attacks):
        if given.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        wall, cpu = time.time(), time.process_time()
        meter, _ = session.run(attack_class(name)())
        if given.device != "cpu":
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() / 2**30 if given.device != "cpu" else 0
        variants = len({row["variant"] for row in meter.rows})
        print(
            f"| {name} | {variants} | {time.time() - wall:.1f} | {time.process_time() - cpu:.1f} | {peak:.1f} |",
            flush=True,
        )
        for note in meter.notes[:1]:
            print(f"note: {note}")


if __name__ == "__main__":
    main()
