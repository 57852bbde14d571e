"""Uploads to the hub, runs of Weights & Biases, jobs of clusters; and that none of them says more
than it must.
"""

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

from support.hub import response
from support.places import ROOT

SECRETS = {"HF_TOKEN": "hf_sentinel_token", "WANDB_API_KEY": "wandb_sentinel_key"}


class FakeHub:
    """HfApi's client side: what would be sent is kept, what the hub would answer is set."""

    def __init__(self):
        self.repos, self.sent, self.fail = {}, {}, {}

    def _answer(self, call):
        if call in self.fail:
            raise self.fail[call]

    def whoami(self):
        self._answer("whoami")
        return {"name": "somebody"}

    def create_repo(self, repo, private, exist_ok, repo_type):
        self._answer("create_repo")
        self.repos[repo] = private
        return types.SimpleNamespace(repo_id=repo)

    def upload_folder(self, repo_id, folder_path, ignore_patterns, commit_message):
        self._answer("upload_folder")
        folder = Path(folder_path)
        names = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
        self.sent = {
            n: (folder / n).read_bytes()
            for n in filter_repo_objects(names, ignore_patterns=ignore_patterns)
        }
        return types.SimpleNamespace(repo_url=f"https://huggingface.co/{repo_id}")


@pytest.fixture
def hub(monkeypatch):
    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return fake


@pytest.fixture
def unlearn(script, family, brief, tmp_path, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    texts = [
        "--model",
        family.base,
        "--method",
        "npo",
        "--forget",
        brief / "forget.txt",
        "--max-samples",
        "8",
    ]
    given = [
        *texts,
        "--root",
        tmp_path / "out",
        "--steps",
        "2",
        "--batch-size",
        "2",
        "--device",
        "cpu",
    ]
    return lambda *more: script("unlearn/unlearn.py", *given, *more)


def test_push_sends_model_card_and_history_and_no_more(unlearn, hub, tmp_path):
    done = unlearn("--push-to-hub", "somebody/made", "--lora-rank", "2", "--save-adapter", "yes")
    assert done.code == 0 and "uploaded: https://huggingface.co/somebody/made" in done.out, done.err
    assert hub.repos == {"somebody/made": True}  # private
    assert {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "README.md",
        "training_history.csv",
    } <= set(hub.sent)
    assert not [
        name
        for name in hub.sent
        if "adapter" in name or name.endswith(".run.json") or name.startswith(".")
    ]
    card = hub.sent["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front == {
        "library_name": "transformers",
        "tags": ["unlearning", "npo"],
    }  # no base_model: it is no hub id
    for name, content in hub.sent.items():
        for word in (*SECRETS.values(), str(tmp_path), str(Path.home())):
            assert word.encode() not in content, (name, word)


def test_a_hub_model_is_named_as_the_base():
    from brittle.unlearning.card import model_card
    from brittle.unlearning.run import RunResult

    job = types.SimpleNamespace(model="owner/name", method="npo", rule=object(), method_files=[])
    measured = RunResult(before={}, after={}, held_nll={}, notes=[])
    text = model_card(job, {"steps": 1}, {"knobs": {}, "data": {}}, measured)
    assert yaml.safe_load(text.split("---")[1])["base_model"] == "owner/name"


REFUSED = errors.HfHubHTTPError("no", response=response(403))


@pytest.mark.parametrize(
    ("repo", "call", "error", "says"),
    [
        ("a/b/c", None, None, "no repository name"),
        ("somebody/made", "whoami", errors.LocalTokenNotFoundError("none"), "HF_TOKEN in .env"),
        ("somebody/made", "whoami", REFUSED, "refuses the token (403)"),
        ("somebody/made", "whoami", ConnectionError("no route"), "cannot be reached"),
    ],
)
def test_what_will_not_be_taken_is_said_before_the_training(
    unlearn, hub, tmp_path, repo, call, error, says
):
    hub.fail = {call: error}
    done = unlearn("--push-to-hub", repo)
    assert done.code == 2 and says in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "out").exists() and not hub.sent


def test_an_upload_that_fails_leaves_the_model_and_says_how_to_go_on(unlearn, hub, tmp_path):
    hub.fail = {"upload_folder": REFUSED}
    done = unlearn("--push-to-hub", "somebody/made", "--public")
    made = tmp_path / "out" / "mini-base__npo" / "unlearned_model"
    assert (
        done.code == 2
        and f"hf upload somebody/made {made}" in done.err
        and (made / "model.safetensors").is_file()
    )
    assert hub.repos == {"somebody/made": False}


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the module: .given, .rows, .summary, .exit_code of the run."""
    fake = types.ModuleType("wandb")
    fake.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    fake.rows, fake.summary = [], {}
    fake.Settings = lambda **settings: settings
    fake.errors = types.SimpleNamespace(Error=type("Error", (Exception,), {}))

    def init(**given):
        fake.given = given
        finish = lambda exit_code: setattr(fake, "exit_code", exit_code)  # noqa: E731
        return types.SimpleNamespace(log=fake.rows.append, summary=fake.summary, finish=finish)

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_runs_are_tracked_by_group_and_without_secrets(unlearn, wandb, tmp_path, jsonl):
    refusals = tmp_path / "refusals.txt"
    refusals.write_text("I do not know.\n")
    done = unlearn("--wandb", "study", "--seed", "3", "--method", "dpo", "--refusals", refusals)
    assert done.code == 0, done.err
    assert (wandb.given["project"], wandb.given["group"], wandb.given["name"]) == (
        "study",
        "mini-base",
        "dpo-3",
    )
    assert (
        wandb.given["config"]["refusals"] == "refusals.txt" and wandb.given["config"]["steps"] == 2
    )
    assert [row["step"] for row in wandb.rows] == [1, 2] and all("lr" in row for row in wandb.rows)
    found = wandb.summary
    assert (
        found["retain_minus_forget"] == found["retain_accuracy"] - found["forget_accuracy"]
        and wandb.exit_code == 0
    )
    sent = json.dumps([wandb.given, wandb.rows, found], default=str)
    assert not [
        word for word in (*SECRETS.values(), str(tmp_path), str(Path.home())) if word in sent
    ]
    quiet = wandb.given["settings"]
    assert (
        quiet["disable_git"]
        and quiet["disable_code"]
        and quiet["x_disable_meta"]
        and quiet["console"] == "off"
    )


def test_a_run_that_breaks_is_tracked_as_such(unlearn, wandb):
    done = unlearn("--wandb", "study", "--lr", "1e30", "--steps", "20")
    assert done.code == 2 and wandb.exit_code == 1


def test_tracking_needs_a_key_and_is_off_otherwise(unlearn, wandb, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    assert unlearn().code == 0 and not hasattr(wandb, "given")
    done = unlearn("--wandb", "study")
    assert done.code == 2 and "WANDB_API_KEY" in done.err and not hasattr(wandb, "given")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert unlearn("--wandb", "study").code == 0 and wandb.given["project"] == "study"


def test_the_settings_that_silence_wandb_exist():
    fields = (
        Path(importlib.util.find_spec("wandb").origin).parent / "sdk" / "wandb_settings.py"
    )  # read: importing takes seconds
    source = (ROOT / "brittle" / "unlearning" / "tracking.py").read_text()
    call = source[source.index("wandb.Settings(") :]
    names = [
        part.split("=")[0].strip()
        for part in call[15 : call.index(")")].replace("\n", " ").split(",")
        if "=" in part
    ]
    assert len(names) >= 8 and [n for n in names if f"\n    {n}:" not in fields.read_text()] == []


def test_agents_of_the_sweep_are_plain_calls(unlearn, wandb, family, tmp_path):
    sweep = yaml.safe_load((ROOT / "unlearn" / "sweep.yaml").read_text())
    assert sweep["metric"] == {"name": "retain_minus_forget", "goal": "maximize"}
    first = {
        name: p.get("value", p.get("values", [p.get("min")]))
        for name, p in sweep["parameters"].items()
    }
    flags = [
        f"--{name}={value[0] if isinstance(value, list) else value}"
        for name, value in first.items()
    ]
    command = [
        sweep["program"] if part == "${program}" else part
        for part in sweep["command"]
        if part != "${args}"
    ]
    assert command[:3] == ["uv", "run", "unlearn/unlearn.py"] and sweep["command"][-1] == "${args}"
    here = ["--root", tmp_path / "out", "--model", family.base, "--steps", "2"]
    done = unlearn(*command[3:], *flags, *here)
    assert done.code == 0 and wandb.given["project"] == "brittle", done.err
    assert wandb.given["config"]["beta"] == sweep["parameters"]["beta"]["values"][0]
    assert "retain_minus_forget" in wandb.summary


@pytest.mark.parametrize(("name", "kind"), [("one_gpu.yaml", "NO"), ("fsdp.yaml", "MULTI_GPU")])
def test_accelerate_reads_its_configurations(name, kind):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(ROOT / "unlearn" / name))
    assert (
        config.distributed_type == kind
        and config.mixed_precision == "bf16"
        and config.num_machines == 1
    )


@pytest.mark.parametrize(
    ("gpus", "config"), [("1", "one_gpu.yaml"), ("4", "fsdp.yaml --num_processes 4")]
)
def test_cluster_jobs_run_the_command_that_is_meant(gpus, config, tmp_path):
    (tmp_path / "srun").write_text('#!/bin/sh\nprintf "%s " "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_GPUS_ON_NODE": gpus,
        "SLURM_SUBMIT_DIR": str(ROOT),
    }
    job = ["bash", str(ROOT / "unlearn" / "slurm.sbatch"), "--model", "a model", "--method", "npo"]
    done = subprocess.run(
        job, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    launch = f"uv run accelerate launch --config_file unlearn/{config}"
    wanted = f"{launch} unlearn/unlearn.py --model a model --method npo"
    assert done.stdout.strip() == wanted
