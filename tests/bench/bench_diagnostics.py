"""How long each diagnostic takes, imports paid once, as inside the pipeline; one table.

    uv run tests/bench/bench_diagnostics.py                     the mini pair (outputs/models/mini-base, mini-filtered)
    uv run tests/bench/bench_diagnostics.py --pair small        a random 6-block, width-256 pair, and torch.linalg.svd beside it
    uv run tests/bench/bench_diagnostics.py --pair 6.9b --device cuda       a random bf16 GPT-NeoX pair with a planted update
    uv run tests/bench/bench_diagnostics.py --pair 2.8b --device cpu --steps 1
Run it on an otherwise idle machine; RESULTS.md keeps the numbers. On the CPU each step of a random
pair runs in a process of its own, so that its peak memory is its own.
"""

import importlib.util
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from pairs import ROOT, joined, random_pair

from brittle.base import command
from brittle.base.errors import UserError
from brittle.base.options import Device

PARAMETERS = [
    ("collect_param_stats", "param_stats", {}),
    ("null_space_analysis", "null_space_analysis", {}),
    ("mlp_nullspace_alignment", "mlp_nullspace", {}),
    ("singular_value_spectrum", "singular_value_spectrum", None),
    ("plot_param_stats", "param_plots", None),
    ("analyze_mlp_vs_attn", "mlp_attn_analysis", None),
]
TEXTS = [
    (name, folder, {})
    for name, folder in (
        ("collect_activation_norms", "activation_stats"),
        ("activation_separation_analysis", "activation_separation"),
        ("activation_covariance_analysis", "activation_covariance"),
        ("row_space_projection_analysis", "row_space_projection"),
        ("local_lipschitzness_analysis", "lipschitzness"),
        ("basin_analysis", "basin_analysis"),
    )
]
MODEL = [
    ("linear_probe_analysis", "linear_probes", {}),
    ("layerwise_wmdp_accuracy", "wmdp_logit_lens", {"lens": "logit"}),
    ("layerwise_wmdp_accuracy", "wmdp_tuned_lens", {"lens": "tuned"}),
]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiment" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(label, work, device, apart=False):
    """Run `work()` and print its line: wall and CPU seconds, peak memory; `apart`: in a fork."""
    import torch

    if apart:
        return in_a_fork(label, work)
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
    print(
        f"| {label:<34} | {wall:7.1f} | {cpu:7.1f} | {gpu:8.1f} | {host:9.1f} |{failed}", flush=True
    )
    return wall


def in_a_fork(label, work):
    """`measure` of a process of its own: wall seconds, CPU seconds and the peak of its resident
    memory.
    """
    import traceback

    sys.stdout.flush()
    started = time.time()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status, used = os.wait4(pid, 0)
    wall, cpu, failed = (
        time.time() - started,
        used.ru_utime + used.ru_stime,
        "  failed" if status else "",
    )
    print(
        f"| {label:<34} | {wall:7.1f} | {cpu:7.1f} | {0:8.1f} | {used.ru_maxrss / 2**20:9.1f} |{failed}",
        flush=True,
    )
    return wall


def against_svd(a, b):
    """Steps 1, 7, 10 and spectrum: the same rows, all decompositions by brittle.linalg and by
    torch.linalg.svd in float64.

    spectrum and, of dW, step 7 read what step 1 decomposed; by torch.linalg.svd they decompose it
    themselves.
    """
    import torch

    from brittle.maths import linalg
    from brittle.models import architectures, weights

    pairs = list(weights.matrix_pairs(a, b))
    mlp = [
        pair
        for pair in pairs
        if architectures.group_of(pair[0]) == "mlp" and architectures.layer_of(pair[0]) >= 0
    ]
    ours = {name: getattr(linalg, name) for name in ("spectrum", "svd")}
    linalg.spectrum(torch.eye(8))  # the solver's own start-up
    kept, params = {}, script("collect_param_stats")

    def spectra(again):
        if again:
            for name, w_a, w_b in pairs:
                kept.update({f"{key}/{name}": s for key, s in params.spectra_of(w_a, w_b).items()})
        matrices = [
            {"name": n, "layer": 0, "group": "", "shape0": len(w), "shape1": w.shape[1]}
            for n, w, _ in pairs
        ]
        return list(script("singular_value_spectrum").rows(matrices, kept))

    steps = {
        "1": lambda: list(params.rows(pairs, kept, {"broken": [], "rounding": []})),
        "7": lambda: list(
            script("null_space_analysis").rows(
                pairs, 10, 3, [0], kept if linalg.svd is ours["svd"] else {}
            )
        ),
        "10": lambda: list(script("mlp_nullspace_alignment").rows(mlp, [])),
        "spectrum": lambda: spectra(again=linalg.svd is not ours["svd"]),
    }
    count, times = {}, {}

    def plain(full):
        def svd(w, k=None, dtype=None):  # always in float64
            count[full] = count.get(full, 0) + 1
            u, s, vt = torch.linalg.svd(w.double(), full_matrices=full)
            k = min(k or min(w.shape), *w.shape)
            return u[:, :k], s[:k], vt.mT[:, :k]

        return {"spectrum": lambda w, dtype=None: svd(w)[1], "svd": svd}

    for _ in range(
        3
    ):  # each time the fastest of three, in turn, so that a slow minute of the machine is nobody's
        for label, functions in (
            ("brittle.maths.linalg", ours),
            ("torch.linalg.svd", plain(True)),
            ("reduced", plain(False)),
        ):
            for name, function in functions.items():
                setattr(linalg, name, function)
            for step, work in steps.items():
                cpu = time.process_time()
                work()
                times[label, step] = min(times.get((label, step), 1e9), time.process_time() - cpu)
    for name, function in ours.items():
        setattr(linalg, name, function)
    print(
        f"\n{len(pairs)} pairs of matrices, {count[True] // 3} decompositions; CPU s"
        "\n| step | brittle.linalg | torch.linalg.svd | "
        "full_matrices=False |\n|---|---:|---:|---:|"
    )
    for step in (*steps, "all"):
        found = [
            sum(t for (of, at), t in times.items() if of == label and step in (at, "all"))
            for label in dict.fromkeys(of for of, _ in times)
        ]
        print(
            f"| {step} | {found[0]:.2f} | {found[1]:.2f} ({found[1] / found[0]:.1f} x) | "
            f"{found[2]:.2f} ({found[2] / found[0]:.1f} x) |"
        )


def scripts_of(steps):
    """Names of the scripts of comma-separated steps of steps.csv."""
    from brittle.pipeline.steps import read_steps

    listed = {row["step"]: Path(row["script"]).stem for row in read_steps()}
    wanted = [step for step in steps.split(",") if step]
    if missing := [step for step in wanted if step not in listed]:
        raise UserError(f"--steps {missing[0]}: choose from {', '.join(listed)}.")
    return {listed[step] for step in wanted}


def main(
    pair: Annotated[
        str, typer.Option(help="mini, or a random pair: small, 1.4b, 2.8b, 6.9b.")
    ] = "mini",
    dtype: Annotated[str, typer.Option(help="Stored dtype of a random pair.")] = "bfloat16",
    device: Device = "cpu",
    outdir: Annotated[
        str, typer.Option(help="Where to build and write (default: a temporary folder).")
    ] = "",
    data: Annotated[Path, typer.Option(help="Folder of the texts and questions.")] = Path(
        "data/mini"
    ),
    words: Annotated[
        int,
        typer.Option(
            help="Join consecutive lines until a text has this many words (0: as they are)."
        ),
    ] = 0,
    only: Annotated[str, typer.Option(help="Comma-separated script names (default: all).")] = "",
    steps: Annotated[
        str, typer.Option(help="Comma-separated steps of steps.csv (default: all).")
    ] = "",
):
    """Wall and CPU seconds, and peak memory, of every diagnostic."""
    import matplotlib.pyplot as plt  # noqa: F401  (paid before the clock starts, as in the pipeline)
    import pandas as pd  # noqa: F401
    import scipy.stats
    import torch
    import transformers.models.gpt_neox.modeling_gpt_neox

    assert scipy.stats and transformers
    torch.set_num_threads(command.threads())
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(outdir or temporary)
        a, b, apart = Path("outputs/models/mini-base"), Path("outputs/models/mini-filtered"), False
        if pair != "mini":
            a, b = root / "models" / "a", root / "models" / "b"
            started, apart = time.time(), device == "cpu"
            if not (b / "model.safetensors.index.json").is_file():  # made last
                measure(
                    f"a random pair, {pair} {dtype}",
                    lambda: random_pair(root / "models", pair, dtype, device),
                    device,
                    apart,
                )
            print(f"{pair} pair in {dtype} made in {time.time() - started:.0f} s")
        texts = {split: data / f"{split}.txt" for split in ("forget", "retain")}
        if words:
            for split in texts:
                texts[split] = joined(texts[split], root / f"{split}.txt", words)
        sys.argv = sys.argv[:1]
        print(f"\n| {'step':<34} |  wall s |   CPU s |  GPU GiB |  host GiB |")
        print(f"|{'-' * 36}|--------:|--------:|---------:|----------:|")
        if device.startswith("cuda"):
            torch.linalg.eigvalsh(
                torch.eye(8, device=device, dtype=torch.float64)
            )  # the solver's own start-up
        wanted, total = set(filter(None, only.split(","))) | scripts_of(steps), {}
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

                wall = measure(label, work, device, apart)
                total[kind] = total.get(kind, 0) + wall
        print("\n" + ", ".join(f"{kind} steps {seconds:.0f} s" for kind, seconds in total.items()))
        if pair == "small":
            against_svd(a, b)


if __name__ == "__main__":
    command.run(main)
