"""Checkpoints of a training run, from which it goes on to the same bits.

A checkpoint holds what trains, the optimizers' states and the history.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch

from brittle.base.errors import UserError
from brittle.base.files import replace_folder


def named(model, names):
    """{name: parameter} of what trains: `names`, or where that is None what has a gradient now."""
    parameters = model.named_parameters()
    if names is None:
        return {n: p for n, p in parameters if p.requires_grad}
    return {n: p for n, p in parameters if n in names}


@dataclass
class Checkpoints:
    """Where a run's checkpoint lies, and what it is compared with when a run goes on from it."""

    folder: Path
    resume: bool = False  # go on from the checkpoint instead of starting anew
    about: dict = field(default_factory=dict)  # what must be equal for it to be this run's
    state: dict | None = None  # numbers of the method that must survive an interruption

    def steps_done(self):
        """Optimizer steps behind the checkpoint; 0 where there is none."""
        file = Path(self.folder) / "state.json"
        return json.loads(file.read_text(encoding="utf-8"))["step"] if file.is_file() else 0

    def save(self, model, names, optimizers, step, history):
        """Trainable weights and optimizer states as safetensors, the rest as JSON.

        The folder appears by rename. names: see `named`.
        """
        from safetensors.torch import save_file

        tensors = {f"model.{n}": p.detach() for n, p in named(model, names).items()}
        for o, (optimizer, _) in enumerate(optimizers):
            for p, moments in optimizer.state_dict()["state"].items():
                for key, value in moments.items():
                    tensors[f"optimizer.{o}.{p}.{key}"] = torch.as_tensor(value)
        folder = Path(self.folder)
        stage = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        copies = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        save_file(copies, stage / "state.safetensors")
        state = {"step": step, "about": self.about, "history": history, "state": self.state}
        (stage / "state.json").write_text(json.dumps(state), encoding="utf-8")
        replace_folder(stage, folder)

    def load(self, model, names, optimizers):
        """Restore weights, optimizer states and the method's numbers.

        Returns (steps done, history). Raises UserError where there is no checkpoint, or where it is
        of another run.
        """
        from safetensors.torch import load_file

        folder = Path(self.folder)
        if not (folder / "state.json").is_file():
            raise UserError(
                f"--resume, but there is no checkpoint in {folder}. Start the run without --resume."
            )
        stored = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        self.check_same_run(stored["about"])
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
        if self.state is not None:
            self.state.update(stored["state"] or {})
        return stored["step"], stored["history"]

    def check_same_run(self, stored):
        """Raise UserError where `stored`, what the checkpoint says of its run, is not `about`."""
        about = json.loads(json.dumps(self.about))
        if stored == about:
            return
        differ = sorted(key for key in {*stored, *about} if stored.get(key) != about.get(key))
        raise UserError(
            f"--resume: the checkpoint in {self.folder} is of another run "
            f"(differs in {', '.join(differ)}). Delete it."
        )
