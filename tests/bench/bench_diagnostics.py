"""How long each diagnostic takes, imports paid once, as inside the pipeline; one table.

    uv run tests/bench/bench_diagnostics.py                     the mini pair (outputs/models/mini-base, mini-filtered)
    uv run tests/bench/bench_diagnostics.py --pair small        a random 6-block, width-256 pair, and torch.linalg.svd beside it
    uv run tests/bench/bench_diagnostics.py --pair 6.9b --device cuda       a random bf16 GPT-NeoX pair with a planted update
Run it on an otherwise idle machine; RESULTS.md keeps the numbers.
"""

import importlib.util
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from brittle import cli
from brittle.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SIZES = {  # hidden size, blocks, heads, vocabulary: small, and Pythia's
    "small": (256, 6, 4, 1000), "1.4b": (2048, 24, 16, 50304), "2.8b": (2560, 32, 32, 50304), "6.9b": (4096, 32, 32, 50432),
}  # fmt: skip
PARAMETERS = [("collect_param_stats", "param_stats", {}), ("null_space_analysis", "null_space_analysis", {}),
              ("mlp_nullspace_alignment", "mlp_nullspace", {}), ("singular_value_spectrum", "singular_value_spectrum", None),
              ("plot_param_stats", "param_plots", None), ("analyze_mlp_vs_attn", "mlp_attn_analysis", None)]  # fmt: skip
TEXTS = [(name, folder, {}) for name, folder in (
    ("collect_activation_norms", "activation_stats"), ("activation_separation_analysis", "activation_separation"),
    ("activation_covariance_analysis", "activation_covariance"), ("row_space_projection_analysis", "row_space_projection"),
    ("local_lipschitzness_analysis", "lipschitzness"), ("basin_analysis", "basin_analysis"))]  # fmt: skip
MODEL = [("linear_probe_analysis", "linear_probes", {}), ("layerwise_wmdp_accuracy", "wmdp_logit_lens", {"lens": "logit"}),
         ("layerwise_wmdp_accuracy", "wmdp_tuned_lens", {"lens": "tuned"})]  # fmt: skip


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiment" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random_pair(folder, size, dtype, device):
    """Two GPT-NeoX folders: random weights, and the same plus a rank-8 update of every block matrix (2 % of its norm)."""
    import shutil

    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, GPTNeoXConfig

    width, layers, heads, vocabulary = SIZES[size]
    config = GPTNeoXConfig(vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                           intermediate_size=4 * width, max_position_embeddings=2048, bos_token_id=0, eos_token_id=0,
                           dtype=dtype)  # fmt: skip
    with torch.device("meta"):
        shapes = {n: p.shape for n, p in AutoModelForCausalLM.from_config(config).named_parameters()}
    draw = torch.Generator(device).manual_seed(0)
    for side in "ab":
        (folder / side).mkdir(parents=True)
        config.save_pretrained(folder / side)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(ROOT / "outputs/models/mini-base" / name, folder / side / name)
    groups = {}
    for name in shapes:
        groups.setdefault(name.split(".layers.")[-1].split(".")[0] if ".layers." in name else "other", []).append(name)
    for number, names in enumerate(groups.values()):
        a, b = {}, {}
        for name in names:
            shape = shapes[name]
            if len(shape) == 1:  # norms and biases
                a[name] = (torch.ones if "norm" in name and name.endswith("weight") else torch.zeros)(shape, device=device)
                b[name] = a[name].clone()
            else:
                a[name] = 0.02 * torch.randn(shape, generator=draw, device=device)
                u, v = (torch.randn(n, 8, generator=draw, device=device) for n in shape)
                update = u @ v.T if ".layers." in name else torch.zeros(shape, device=device)
                b[name] = a[name] + 0.02 * a[name].norm() * update / update.norm().clamp_min(1e-9)
        for side, weights in (("a", a), ("b", b)):
            path = folder / side / f"model-{number:05d}.safetensors"
            save_file({n: w.to(getattr(torch, dtype)).cpu().contiguous() for n, w in weights.items()}, path)
    for side in "ab":
        index(folder / side)
    return folder / "a", folder / "b"


def index(folder):
    """model.safetensors.index.json of the shards in `folder`."""
    import json

    from safetensors import safe_open

    where = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            where |= dict.fromkeys(file.keys(), path.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def measure(label, work, device):
    """Run `work()` and print its line: wall and CPU seconds, peak memory."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started, cpu, failed = time.time(), time.process_time(), ""
    try:
        work()
    except UserError as error:
        failed = f"  {error}"
    wall, cpu = time.time() - started, time.process_time() - cpu
    gpu = torch.cuda.max_memory_allocated() / 2**30 if device.startswith("cuda") else 0
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"| {label:<34} | {wall:7.1f} | {cpu:7.1f} | {gpu:8.1f} | {host:9.1f} |{failed}", flush=True)
    return wall


def against_svd(a, b, device):
    """All singular values (and vectors) of every dW, W_a and W_b: by Gram matrices, and by torch.linalg.svd in float64."""
    import torch

    from brittle import linalg, weights

    kept = [m for _, w_a, w_b in weights.matrix_pairs(a, b, device) for m in (w_b.double() - w_a.double(), w_a, w_b)]
    times = {}
    ways = (("spectra: brittle.linalg.spectrum", linalg.spectrum), ("spectra: torch.linalg.svdvals", torch.linalg.svdvals),
            ("vectors: brittle.linalg.svd", linalg.svd), ("vectors: torch.linalg.svd", torch.linalg.svd))  # fmt: skip
    for label, function in ways:
        times[label] = measure(label, lambda f=function: [f(m.double()) for m in kept], device)
    gram, _, vectors, svd = times.values()
    print(f"\n{len(kept)} matrices: spectra {svd / gram:.0f} x, with vectors {svd / vectors:.1f} x faster than torch.linalg.svd")


def main(
    pair: Annotated[str, typer.Option(help="mini, or a random pair: small, 1.4b, 2.8b, 6.9b.")] = "mini",
    dtype: Annotated[str, typer.Option(help="Stored dtype of a random pair.")] = "bfloat16",
    device: cli.Device = "cpu",
    outdir: Annotated[str, typer.Option(help="Where to build and write (default: a temporary folder).")] = "",
    data: Annotated[Path, typer.Option(help="Folder of the texts and questions.")] = Path("data/mini"),
    words: Annotated[int, typer.Option(help="Join consecutive lines until a text has this many words (0: as they are).")] = 0,
    only: Annotated[str, typer.Option(help="Comma-separated script names (default: all).")] = "",
):
    """Wall and CPU seconds, and peak memory, of every diagnostic."""
    import matplotlib.pyplot as plt  # noqa: F401  (paid before the clock starts, as in the pipeline)
    import pandas as pd  # noqa: F401
    import scipy.stats
    import torch
    import transformers.models.gpt_neox.modeling_gpt_neox

    assert scipy.stats and transformers
    torch.set_num_threads(cli.threads())
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(outdir or temporary)
        a, b = (Path("outputs/models/mini-base"), Path("outputs/models/mini-filtered"))
        if pair != "mini":
            started = time.time()
            a, b = random_pair(root / "models", pair, dtype, device)
            print(f"{pair} pair in {dtype} made in {time.time() - started:.0f} s")
        texts = {split: data / f"{split}.txt" for split in ("forget", "retain")}
        if words:
            for split in texts:
                texts[split] = joined(texts[split], root / f"{split}.txt", words)
        sys.argv = sys.argv[:1]
        print(f"\n| {'step':<34} |  wall s |   CPU s |  GPU GiB |  host GiB |")
        print(f"|{'-' * 36}|--------:|--------:|---------:|----------:|")
        if device.startswith("cuda"):
            torch.linalg.eigvalsh(torch.eye(8, device=device, dtype=torch.float64))  # the solver's own start-up
        wanted, total = set(filter(None, only.split(","))), {}
        for kind, steps in (("parameter", PARAMETERS), ("activation", TEXTS), ("model", MODEL)):
            for name, folder, options in steps:
                if wanted and name not in wanted:
                    continue
                keywords = {} if options is None else {**options, "device": device}
                keywords |= {"activation": texts, "model": {**texts, "data": data}}.get(kind, {})
                if name == "layerwise_wmdp_accuracy":
                    keywords = {**options, "device": device, "data": data, "train": texts["retain"]}
                models = (str(a), str(b))[: 1 if kind == "model" else 2]
                label = f"{name} {(options or {}).get('lens', '')}".strip()

                run = script(name).main

                def work(run=run, models=models, folder=folder, keywords=keywords):
                    run(*models, root / "out" / folder, **keywords)

                wall = measure(label, work, device)
                total[kind] = total.get(kind, 0) + wall
        print("\n" + ", ".join(f"{kind} steps {seconds:.0f} s" for kind, seconds in total.items()))
        if pair == "small":
            against_svd(a, b, device)


def joined(source, target, words):
    """A file whose texts are consecutive lines of `source`, at least `words` words each."""
    texts, part = [], []
    for line in source.read_text(encoding="utf-8").split("\n"):
        part += line.split()
        if len(part) >= words:
            texts.append(" ".join(part))
            part = []
    repeats = -(-500 // max(1, len(texts)))
    target.write_text("\n".join((texts * repeats)[:500]) + "\n", encoding="utf-8")
    return target


if __name__ == "__main__":
    cli.run(main)
