"""Checkpoints of a training run: what trains, the optimizers' states, the history; from which it goes on to the same bits."""

import json
import shutil
from pathlib import Path

import torch

from brittle.base.errors import UserError
from brittle.base.files import replace_folder


def steps_done(folder):
    """Optimizer steps behind the checkpoint in `folder`; 0 where there is none."""
    file = Path(folder) / "state.json"
    return json.loads(file.read_text(encoding="utf-8"))["step"] if file.is_file() else 0


def named(model, names):
    """{name: parameter} of what trains: `names`, or what has a gradient now."""
    every = model.named_parameters()
    return {n: p for n, p in every if (p.requires_grad if names is None else n in names)}


def save_checkpoint(folder, model, optimizers, step, history, about, state=None, names=None):
    """Trainable weights and optimizer states as safetensors, the rest as JSON; the folder appears by rename.

    names: of the trainable weights, where not all of them have gradients now.
    """
    from safetensors.torch import save_file

    tensors = {f"model.{n}": p.detach() for n, p in named(model, names).items()}
    for o, (optimizer, _) in enumerate(optimizers):
        for p, moments in optimizer.state_dict()["state"].items():
            tensors.update(
                {f"optimizer.{o}.{p}.{k}": torch.as_tensor(v) for k, v in moments.items()}
            )
    folder = Path(folder)
    stage = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, stage / "state.safetensors")
    (stage / "state.json").write_text(
        json.dumps({"step": step, "about": about, "history": history, "state": state}),
        encoding="utf-8",
    )
    replace_folder(stage, folder)


def load_checkpoint(folder, model, optimizers, about, kept=None, names=None):
    """(steps done, history), with weights and optimizer states restored. Raises UserError where there is none or it differs."""
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / "state.json").is_file():
        raise UserError(
            f"--resume, but there is no checkpoint in {folder}. Start the run without --resume."
        )
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    was = state["about"]
    if was != json.loads(json.dumps(about)):
        differ = sorted(
            k for k in {*was, *about} if was.get(k) != json.loads(json.dumps(about)).get(k)
        )
        raise UserError(
            f"--resume: the checkpoint in {folder} is of another run (differs in {', '.join(differ)}). Delete it."
        )
    tensors = load_file(folder / "state.safetensors")
    with torch.no_grad():
        for name, p in named(model, names).items():
            p.copy_(tensors[f"model.{name}"])
    for o, (optimizer, _) in enumerate(optimizers):
        loaded, prefix = optimizer.state_dict(), f"optimizer.{o}."
        for key, value in tensors.items():
            if key.startswith(prefix):
                p, _, name = key.removeprefix(prefix).partition(".")
                loaded["state"].setdefault(int(p), {})[name] = value
        optimizer.load_state_dict(loaded)
    if kept is not None:
        kept.update(state["state"] or {})
    return state["step"], state["history"]
