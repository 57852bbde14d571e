"""The deep-ignorance preset without the hub: its three model ids in a cache of the hub's shape
(bfloat16, sharded), its data as parquet folders of the same schema. The spine's steps run on them
word for word as they would on the real ones.
"""

import csv
import importlib
import tomllib

import pandas as pd
import torch

from support.places import ROOT

PRESET = tomllib.loads((ROOT / "experiment/presets/deep-ignorance.toml").read_text())
STEPS = (
    "data",
    "harness",
    "tamper",
    "recovery",
    "1",
    "4",
    "6",
    "report",
)  # and no figures: they read tables alone


def cached_model(cache, name, source, change=0.0):
    """`source` in the hub's cache layout under `name`: bfloat16, in shards of at most 40 KB,
    weights moved by `change`.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = cache / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                change * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            )
    model.config.__dict__.pop("family", None)  # nothing says that these are of the mini family
    model.save_pretrained(snapshot, max_shard_size="40KB")
    AutoTokenizer.from_pretrained(source).save_pretrained(snapshot)
    assert len(list(snapshot.glob("*.safetensors"))) > 1


def parquet(path, rows):
    path.parent.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(path)


def hub_like_data(folder):
    """WMDP, MMLU and WikiText folders; returns the arguments that name them."""
    choices = ["red", "green", "blue", "grey"]
    items = [
        {"question": f"What is the colour of item {i}?", "choices": choices, "answer": i % 4}
        for i in range(24)
    ]
    subjects = ("anatomy", "law", "virology", "history")
    parquet(folder / "wmdp/wmdp-bio/test-00000-of-00001.parquet", items)
    parquet(
        folder / "mmlu/all/test-00000-of-00001.parquet",
        [{**r, "subject": subjects[i % 4]} for i, r in enumerate(items)],
    )
    lines = [
        {"text": f"Line {i} of a long article about the towns and the trades of a quiet country."}
        for i in range(30)
    ]
    parquet(folder / "wikitext/wikitext-2-raw-v1/train-00000-of-00001.parquet", lines)
    return " ".join(f"--{name}-path {folder / name}" for name in ("wmdp", "wikitext", "mmlu"))


def test_the_spine_on_hub_shaped_models_and_data(family, tmp_path, fork, monkeypatch):
    from huggingface_hub import constants

    # the harness of each model is a fork of its own: lm-eval is imported before them, once
    importlib.import_module("lm_eval.models.huggingface")
    cache = tmp_path / "cache"
    cached_model(cache, PRESET["base"], family.base)
    cached_model(cache, PRESET["filtered"], family.filtered)
    cached_model(cache, PRESET["unlearned"], family.base, change=0.01)
    arguments = dict(PRESET["arguments"])
    arguments["create_datasets.py"] += f" {hub_like_data(tmp_path / 'hub')}"
    arguments["eval/tamper.py"] = "--lr 1e-3 --steps 2 --eval-at 1 --batch-size 4"
    preset = {**PRESET, "data": str(tmp_path / "data"), "root": str(tmp_path / "out")}
    text = [f"{k} = {v!r}".replace("'", '"') for k, v in preset.items() if k != "arguments"]
    text += ["[arguments]", *(f'"{script}" = "{more}"' for script, more in arguments.items())]
    (tmp_path / "hub.toml").write_text("\n".join(text))
    only = [part for step in STEPS for part in ("--only", step)]
    # read from the environment when huggingface_hub is imported; the fork has imported it already
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    preset_file = tmp_path / "hub.toml"
    pipeline = fork(
        "experiment/pipeline.py", "--preset", preset_file, *only, HF_HUB_CACHE=str(cache)
    )
    done = pipeline.wait(600)
    assert done.code == 0, done.out[-3000:] + done.err[-3000:]
    with open(tmp_path / "out/summary.csv", newline="") as file:
        rows = {row["role"]: row for row in csv.DictReader(file)}
    assert {r: rows[r]["model"] for r in rows} == {
        r: PRESET[r].replace("/", "_") for r in ("base", "filtered", "unlearned")
    }
    assert all(
        rows[r][f"{split}_accuracy"] for r in rows for split in ("forget", "retain", "general")
    )
    assert float(rows["unlearned"]["update_relative_norm"]) > 0
    names = "__to__".join(PRESET[r].replace("/", "_") for r in ("base", "unlearned"))
    with open(tmp_path / "out" / names / "param_stats/per_matrix.csv", newline="") as file:
        assert sum(1 for _ in csv.DictReader(file)) > 4
