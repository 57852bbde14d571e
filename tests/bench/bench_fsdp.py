"""How much faster is unlearning on several GPUs, and does it stay the same run?

    python tests/bench/bench_fsdp.py                                                                   tokens/s of one GPU
    accelerate launch --config_file unlearn/fsdp.yaml --num_processes 4 tests/bench/bench_fsdp.py      of four, sharded
    python tests/bench/bench_fsdp.py --make DIR        a random GPT-NeoX (bfloat16) with the mini family's tokenizer, and texts:
                                                       for unlearn.py with 1 and 4 processes, whose losses --compare A B prints

A step is the project's own loop with NPO and a retain term on --batch texts of either set a process
(float32 weights).
"""

import argparse
from pathlib import Path

import torch
from bench_methods import SIZES, build_model, make_data, run_loop

from brittle.base.tables import read_rows


def make(folder, size, length):
    """A model folder and two files of long texts that the mini world's sentences are joined to."""
    from brittle.models.load import load_tokenizer

    model = build_model(size, length, "cuda" if torch.cuda.is_available() else "cpu")
    model.to(torch.bfloat16).save_pretrained(folder / "model")
    load_tokenizer("outputs/models/mini-base").save_pretrained(folder / "model")
    for name in ("forget", "retain"):
        lines = Path(f"data/mini/{name}.txt").read_text(encoding="utf-8").splitlines()
        joined = [" ".join(lines[i : i + 20]) for i in range(0, len(lines) - 20, 20)]
        (folder / f"{name}.txt").write_text("\n".join(joined) + "\n", encoding="utf-8")


def compare(paths):
    """The terms of two training histories beside each other, and their largest relative
    difference.
    """
    histories = [read_rows(path) for path in paths]
    worst = 0.0
    for rows in zip(*histories, strict=True):
        terms = [k for k in rows[0] if k not in ("step", "lr", "grad_norm")]
        pairs = {t: [row[t] for row in rows] for t in terms}
        worst = max([worst] + [abs(a - b) / max(abs(a), 1e-9) for a, b in pairs.values()])
        print(rows[0]["step"], *(f"{t} {a:.5f} {b:.5f}" for t, (a, b) in pairs.items()), sep="  ")
    print(f"largest relative difference: {worst:.2%}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="1.4b")
    parser.add_argument(
        "--batch", type=int, default=8, help="texts of either set a step and process"
    )
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--make", type=Path)
    parser.add_argument("--compare", type=Path, nargs=2)
    args = parser.parse_args()
    if args.make or args.compare:
        return make(args.make, args.size, args.length) if args.make else compare(args.compare)
    from brittle.methods import method_class
    from brittle.training.distributed import shard
    from brittle.training.loop import make_accelerator
    from brittle.training.reference import Frozen

    accelerator = make_accelerator(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    args.device = str(accelerator.device)
    world = accelerator.num_processes
    model = build_model(args.size, args.length, args.device).train()
    if world > 1:
        shard(model, accelerator)
    data = make_data(args, model.config.vocab_size)
    rule = method_class("npo")()
    with accelerator.autocast():
        rule.start(model, Frozen(model), data)

    def terms(step, micro, progress):
        return rule.losses(data.forget.batches(step)[0], data.retain.batches(step)[0], progress)

    taken, peak = run_loop(model, terms, args, accelerator)
    if accelerator.is_main_process:
        tokens = 2 * world * args.batch * args.length / taken
        print(
            f"{world} processes: {taken * 1e3:.1f} ms a step, {tokens:.0f} tokens/s, {peak:.1f} GB a process"
        )


if __name__ == "__main__":
    main()
