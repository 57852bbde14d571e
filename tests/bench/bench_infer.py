"""Answers of a file of prompts: one by one, batched, and transformers' own generate; and whether
they are the same tokens.

    uv run tests/bench/bench_infer.py                                    200 questions, the mini base model, CPU
    uv run tests/bench/bench_infer.py --model M --device cuda --dtype bfloat16 --batch-size 200
Two rows a way: answers that end where the model ends them, and answers of --max-new-tokens each
(nothing ends them).
"""

import time
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options


def timed(device, work):
    """(seconds, result) of `work()`."""
    import torch

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    wait()
    started = time.perf_counter()
    done = work()
    wait()
    return time.perf_counter() - started, done


def theirs(loaded, ids, count, stop):
    """transformers' generate, one prompt at a time."""
    import torch

    made = []
    for prompt in ids:
        one = torch.tensor([prompt], device=loaded.model.device)
        out = loaded.model.generate(
            one,
            attention_mask=torch.ones_like(one),
            max_new_tokens=count,
            do_sample=False,
            use_cache=True,
            eos_token_id=sorted(stop) or None,
            pad_token_id=loaded.tokenizer.pad_token_id,
        )
        made.append([t for t in out[0, len(prompt) :].tolist() if t not in stop])
    return made


def main(
    model: options.Model = "outputs/models/mini-base",
    prompts: Annotated[Path, typer.Option(help="Prompts: lines, or JSONL.")] = Path(
        "data/mini/mcq_forget.jsonl"
    ),
    count: Annotated[int, typer.Option(help="Prompts to read.")] = 200,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of an answer.")] = 32,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
):
    """Time the three ways."""
    from brittle.inference.loaded import Loaded, Setup
    from brittle.inference.prompts import read_prompts
    from brittle.models.generate import Sampling, generate

    loaded = Loaded(model, Setup(device=device, dtype=dtype))
    ids = [loaded.encode(p) for p in list(read_prompts(prompts))[:count]]
    sampling, pad, where = (
        Sampling(max_new_tokens),
        loaded.tokenizer.pad_token_id,
        loaded.model.device,
    )
    generate(loaded.model, ids[:2], sampling, loaded.stop, pad)  # warm
    print(
        f"{loaded.name} on {where}, {loaded.model.dtype}, {len(ids)} prompts, at most {max_new_tokens} tokens"
    )
    print(
        "| answers | way | seconds | tokens/s | against one by one | tokens equal |\n|---|---|---:|---:|---:|---|"
    )
    for label, stop in (("ended by the model", loaded.stop), ("full length", set())):
        ways = {
            "one by one": lambda stop=stop: generate(
                loaded.model, ids, sampling, stop, pad, batch_size=1
            ),
            f"batches of {batch_size}": lambda stop=stop: generate(
                loaded.model, ids, sampling, stop, pad, batch_size=batch_size
            ),
            "transformers, one by one": lambda stop=stop: theirs(loaded, ids, max_new_tokens, stop),
        }
        first = None
        for way, work in ways.items():
            seconds, made = timed(where, work)
            first = first or (seconds, made)
            tokens, same = (
                sum(map(len, made)),
                sum(a == b for a, b in zip(made, first[1], strict=True)),
            )
            print(
                f"| {label} | {way} | {seconds:.2f} | {tokens / seconds:.0f} | {first[0] / seconds:.1f} x | {same}/{len(made)} |"
            )


if __name__ == "__main__":
    command.run(main)
