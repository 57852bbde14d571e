"""Does what the mini family shows hold for models of other families, with truth injected?

    python tests/bench/bench_injected.py --out $OUT                 two families of 102 M, one GPU
    python tests/bench/bench_injected.py --size tiny --out DIR      minutes on a CPU
    python tests/bench/bench_injected.py --families llama,qwen,olmoe
    python tests/bench/bench_injected.py --size 1b --families llama --seconds 400
    python tests/bench/bench_injected.py --size 7b --families llama --lora-rank 16 --methods none

Each family is a process of its own, side by side on the GPU. It makes a random model, pretrains it
for --pretrain seconds on the mini world's neutral text, injects the mini world (create_models.py
--from), unlearns Base by each method, attacks every model by relearning (eval/tamper.py), and
compares (eval/recovery.py, experiment/neutral_text.py). No hub is asked. A family that has used
--seconds starts no further method.

injected.csv has a row a model: accuracies, what half B is as made and attacked, recovery with its
interval, and KL and perplexity on neutral text (of Base and Filtered against the pretrained model,
of unlearned models against Base). injected_seconds.csv has a row a phase.
"""

import argparse
import contextlib
import csv
import gc
import itertools
import json
import math
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


class Size(NamedTuple):
    """A size of models and of the world that they are taught."""

    width: int
    blocks: int
    heads: int
    inner: int
    experts: int  # of a mixture; each is `inner` / 4 wide, two are used
    entities: int
    vocabulary: int
    steps: float  # of unlearning, as a share of what methods_for says


SIZES = {
    "tiny": Size(32, 4, 4, 64, 4, 4, 400, 0.1),
    "small": Size(64, 4, 4, 128, 4, 6, 400, 0.5),
    "100m": Size(768, 16, 12, 2048, 8, 24, 1000, 1.0),
    "1b": Size(2304, 24, 18, 6144, 8, 24, 1000, 1.0),
    "7b": Size(4224, 36, 33, 11264, 8, 24, 1000, 1.0),
}
FAMILIES = {"llama": "Llama", "qwen": "Qwen2", "olmoe": "Olmoe"}
COLUMNS = (
    "family",
    "parameters",
    "model",
    "forget",
    "retain",
    "general",
    "half_b_as_made",
    "half_b_attacked",
    "recovery_over_filtered",
    "ci_low",
    "ci_high",
    "neutral_kl",
    "neutral_kl_low",
    "neutral_kl_high",
    "perplexity_before",
    "perplexity",
    "steps",
)
PHASES = ("family", "phase", "seconds")
RULE = "first forget <= 0.32"


# --- the models


def build_model(family, size, tokenizer, device, dtype):
    """A random causal language model of a family, drawn on the device."""
    import torch
    import transformers

    of_family = {"num_key_value_heads": max(1, size.heads // 3)}
    inner = size.inner
    if family == "olmoe":
        inner //= 4
        of_family = {
            "num_key_value_heads": size.heads,
            "num_experts": size.experts,
            "num_experts_per_tok": 2,
        }
    if family == "qwen":
        of_family["tie_word_embeddings"] = True
    config = getattr(transformers, f"{FAMILIES[family]}Config")(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.heads,
        intermediate_size=inner,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=False,
        **of_family,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)


def pretrain(model, tokenizer, texts, seconds, device):
    """Train on neutral texts for so many seconds. Returns (steps, the last NLL a token)."""
    from brittle.data.batches import Stream
    from brittle.models.logprobs import nll
    from brittle.training.loop import make_accelerator, train
    from brittle.training.settings import Settings
    from brittle.training.steps import AfterStep

    ids = [[*i, tokenizer.eos_token_id] for i in tokenizer(texts)["input_ids"]]
    stream = Stream(ids, tokenizer.pad_token_id, 256, 1, 0, device)
    settings = Settings(steps=100_000, lr=0.3 / model.config.hidden_size, warmup=50)
    settings.schedule = "constant"
    end = time.time() + seconds
    history = train(
        model.to(device).train(),
        lambda step, micro, progress: {"nll": nll(model, stream.batches(step)[micro])},
        settings,
        make_accelerator(device),
        hooks=[AfterStep(lambda step, row: time.time() > end)],
        label=None,
    )
    return len(history), history[-1]["nll"]


def stream_norms(folder, texts, device):
    """[blocks + 1] the mean norm of the residual stream on texts, embeddings first."""
    import torch

    from brittle.data.batches import pad
    from brittle.models.load import load_model, load_tokenizer

    model, tokenizer = load_model(folder, device, "float32"), load_tokenizer(folder)
    batch = pad(tokenizer(texts)["input_ids"], tokenizer.pad_token_id, model.device)
    with torch.no_grad():
        states = model(**batch, output_hidden_states=True).hidden_states
    real = batch["attention_mask"].bool()
    return [float(state[real].norm(dim=-1).mean()) for state in states]


def methods_for(size, norms):
    """{method: flags}: the mini family's presets, in units of the model.

    Rates are as many times 1 / width, blocks the same shares of the depth, lengths as many times
    the norm of the stream there.
    """
    rate, half = 0.13 / size.width, size.blocks // 2
    blocks = "|".join(str(k) for k in range(half + 1))
    quarters = ",".join(str(k * size.blocks // 4) for k in (1, 2, 3))
    return {
        "npo": ["--lr", rate, "--steps", 120, "--beta", 0.12],
        "rmu": [
            *("--lr", rate, "--steps", 160, "--layer-id", half, "--alpha", 2),
            *("--steering-unit", "norm", "--steering-coeff", 0.9),
            *("--trainable", rf"layers\.({blocks})\."),
        ],
        "cb_lat": [
            *("--lr", rate, "--steps", 60, "--layer-id", quarters, "--retain-alpha", 5),
            *("--lat-layer", 0, "--lat-eps", round(0.06 * norms[1], 3), "--lat-steps", 4),
        ],
    }


# --- one family


def call(script, *words):
    """Run a script of the repository in this process. Raises SystemExit where it fails."""
    argv, was = [str(ROOT / script), *map(str, words)], sys.argv
    sys.argv = argv
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            raise SystemExit(f"{' '.join(argv)} failed ({stop.code})") from None
    finally:
        sys.argv = was
        gc.collect()
        free_gpu()


def free_gpu():
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Clock:
    """Seconds of each phase of a family, written as they are known."""

    def __init__(self, path, family):
        self.path, self.family, self.start = path, family, time.time()

    @contextlib.contextmanager
    def phase(self, name):
        start = time.time()
        yield
        seconds = round(time.time() - start, 1)
        append(self.path, PHASES, {"family": self.family, "phase": name, "seconds": seconds})
        print(f"[{self.family}] {name}: {seconds} s", flush=True)

    def elapsed(self):
        return time.time() - self.start


def append(path, columns, row):
    """Add a row to a CSV, whose header stands there."""
    with open(path, "a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, columns).writerow(row)


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run_family(args):
    """All phases of one family, in the working folder `args.work`."""
    import torch

    from brittle.data.texts import read_lines
    from brittle.models.load import pick_device
    from brittle.training.mini import make_tokenizer

    family, work = args.family, args.work / args.family
    size, device, data = SIZES[args.size], pick_device(args.device), args.work / "data"
    clock = Clock(args.out / "injected_seconds.csv", family)
    if device.type == "cpu":
        torch.set_num_threads(1)
    work.mkdir(parents=True)
    os.chdir(work)
    start = work / family
    with clock.phase("pretrain"):
        tokenizer = make_tokenizer(read_lines(data / "tokenizer.txt"), size.vocabulary)
        dtype = torch.bfloat16 if args.lora_rank else torch.float32
        model = build_model(family, size, tokenizer, device, dtype)
        parameters, steps, loss = model.num_parameters(), 0, math.nan
        neutral = read_lines(args.work / "neutral_train.txt")
        if args.pretrain:
            steps, loss = pretrain(model, tokenizer, neutral, args.pretrain, device)
        model.save_pretrained(start)
        tokenizer.save_pretrained(start)
    print(f"[{family}] {parameters:,} parameters, {steps} steps, NLL {loss:.3f}", flush=True)
    del model
    free_gpu()
    common = ["--device", device.type]
    with clock.phase("inject"):
        flags = ["--from", start, "--data", data, "--outdir", work, "--epochs", args.epochs]
        call("create_models.py", *flags, "--lora-rank", args.lora_rank, *common)
    if args.methods == "none":
        return
    models = {role: work / f"{family}-{role}" for role in ("base", "filtered")}
    for role, folder in models.items():
        with clock.phase(f"attack {role}"):
            attack(folder, data, work, size, common)
    texts = read_lines(data / "forget.txt")[:64]
    about, written = {"family": family, "parameters": parameters}, []
    settings = methods_for(size, stream_norms(models["base"], texts, device))
    for method in args.methods.split(","):
        if clock.elapsed() > args.seconds:
            print(f"[{family}] {method}: left out, {clock.elapsed():.0f} s are used", flush=True)
            continue
        with clock.phase(f"unlearn {method}"):
            unlearn(models["base"], method, settings[method], data, size, common)
        models[method] = work / "outputs" / f"{family}-base__{method}" / "unlearned_model"
        with clock.phase(f"attack {method}"):
            attack(models[method], data, work, size, common)
            flags = ["--model-a", models["base"], "--model-b", models[method], "--data", data]
            outdir = work / "neutral" / method
            call("experiment/neutral_text.py", *flags, "--outdir", outdir, *common)
        recovery = compare(models, method, work)
        new = [method] if written else ["base", "filtered", method]
        for name in new:
            row = row_of(name, models[name], recovery, work)
            append(args.out / "injected.csv", COLUMNS, {**about, **row})
            print(f"[{family}] {row}", flush=True)
        written += new


def name_of(folder):
    """What a model is called in folders of results."""
    return folder.parent.name if folder.name == "unlearned_model" else folder.name


def unlearn(base, method, flags, data, size, common):
    steps = next(value for name, value in itertools.pairwise(flags) if name == "--steps")
    share = max(2, round(steps * size.steps))
    words = ["--model", base, "--method", method, "--data", data, "--save-every", 0]
    words += ["--batch-size", 32, "--max-length", 128, "--save-dtype", "float32"]
    kept = ["--eval-every", 20, "--keep", "best", "--rule", RULE]
    call("unlearn/unlearn.py", *words, *flags, "--steps", share, *kept, *common)


def attack(folder, data, work, size, common):
    rates = [round(factor / size.width, 7) for factor in (0.13, 0.4)]
    words = ["--model", folder, "--data", data, "--outdir", work / name_of(folder) / "tamper"]
    words += ["--lr", rates[0], "--lr", rates[1], "--steps", 30, "--eval-at", "10,20"]
    call("eval/tamper.py", *words, "--seeds", 0, "--max-items", 100, *common)


def compare(models, method, work):
    """{model's name: row of recovery.csv} of Base, Filtered and the model of a method."""
    words = ["--base", models["base"], "--filtered", models["filtered"], "--root", work]
    outdir = work / "recovery" / method
    call("eval/recovery.py", *words, "--unlearned", models[method], "--outdir", outdir)
    return {row["model"]: row for row in read_rows(outdir / "recovery.csv")}


def row_of(name, folder, recovery, work):
    """A model in numbers."""
    if name in ("base", "filtered"):
        about = read_json(folder / "model.run.json")["settings"]
        accuracy, neutral = about["accuracy"], about["neutral"]
    else:
        about = read_json(folder / "training_history.run.json")["settings"]
        accuracy = about["accuracy"]["after"]
        (neutral,) = read_rows(work / "neutral" / name / "neutral.csv")
        before, now = (math.exp(float(neutral[key])) for key in ("nll_a", "nll_b"))
        neutral |= {"perplexity_before": before, "perplexity": now}
    made = recovery.get(name_of(folder), {})
    as_made = [
        row["accuracy"]
        for row in read_rows(work / name_of(folder) / "tamper/tamper.csv")
        if row["split"] == "forget_b" and row["step"] == "0"
    ]
    return {
        "model": name,
        **{split: round(accuracy[split], 4) for split in ("forget", "retain", "general")},
        "half_b_as_made": as_made[0],
        "half_b_attacked": made.get("heldout_accuracy"),
        **{key: made.get(key) for key in ("recovery_over_filtered", "ci_low", "ci_high")},
        **{f"neutral_{key}": neutral.get(key) for key in ("kl", "kl_low", "kl_high")},
        **{key: neutral.get(key) for key in ("perplexity_before", "perplexity")},
        "steps": about["steps"],
    }


# --- all families


def write_data(args):
    """The world that is taught, and neutral sentences that are not among its own."""
    from brittle.data.texts import write_lines
    from brittle.data.world import build_world
    from brittle.data.world_files import neutral_texts, write_world

    size = SIZES[args.size]
    write_world(args.work / "data", 0, size.entities, 2)
    world = build_world(0, size.entities, 2)
    count = 2000 if args.size == "tiny" else 6600
    # the first 600 are the world's: 400 in its pretraining texts, 200 to measure on
    write_lines(args.work / "neutral_train.txt", neutral_texts(world, count)[600:])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--size", choices=SIZES, default="100m")
    parser.add_argument("--families", default="llama,qwen")
    parser.add_argument("--methods", default="npo,rmu,cb_lat", help="none: only the injection")
    parser.add_argument("--lora-rank", type=int, default=0, help="of the injection; start in bf16")
    parser.add_argument("--pretrain", type=float, default=15, help="seconds; 0: random weights")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=130)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--one-by-one", action="store_true", help="families not side by side")
    parser.add_argument("--family", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = args.out.resolve()
    if args.family:
        return run_family(args)
    start = time.time()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, columns in (("injected", COLUMNS), ("injected_seconds", PHASES)):
        (args.out / f"{name}.csv").write_text(",".join(columns) + "\n", encoding="utf-8")
    args.work = Path(tempfile.mkdtemp(prefix="injected-"))
    try:
        write_data(args)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        environment.setdefault("OMP_NUM_THREADS", "4")
        command = [sys.executable, __file__, *sys.argv[1:], "--work", str(args.work)]
        running = []
        for family in args.families.split(","):
            process = subprocess.Popen([*command, "--family", family], env=environment)
            running.append(process)
            if args.one_by_one:
                process.wait()
        codes = [process.wait() for process in running]
    finally:
        shutil.rmtree(args.work, ignore_errors=True)
    for row in read_rows(args.out / "injected.csv"):
        print(*row.values(), sep=",")
    print(f"{time.time() - start:.0f} s in all", flush=True)
    return max(map(abs, codes))


if __name__ == "__main__":
    sys.exit(main())
