"""Weights & Biases, where it is asked for: each step's row, the knobs, and the accuracies.

No paths, no environment and no code are sent.
"""

import os
from pathlib import Path

from brittle.base.errors import UserError


def start(project, group, name, config):
    """A Tracker, or None where no project is named or another process is the main one."""
    if not project or os.environ.get("RANK", "0") != "0":
        return None
    return Tracker(project, group, name, {key: _public(value) for key, value in config.items()})


def _public(value):
    """A setting without the folders around a file's name."""
    return Path(value).name if isinstance(value, str | Path) and os.path.isabs(value) else value


class Tracker:
    """A run of `project` in the group of its base model.

    `log(row)` takes each step's row, `finish(accuracies)` the end's.
    """

    def __init__(self, project, group, name, config):
        is_online = os.environ.get("WANDB_MODE") not in ("offline", "disabled")
        if is_online and not os.environ.get("WANDB_API_KEY"):
            raise UserError(
                "--wandb needs WANDB_API_KEY in .env (see .env.example), or WANDB_MODE=offline."
            )
        import wandb

        # what wandb would send of itself: the command line, host and user names, the repository,
        # the console and machine statistics
        settings = wandb.Settings(
            disable_git=True,
            disable_code=True,
            save_code=False,
            console="off",
            silent=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
        )
        try:
            self.run = wandb.init(
                project=project, group=group, name=name, config=config, settings=settings
            )
        except (wandb.errors.Error, OSError) as error:
            raise UserError(
                f"--wandb: {type(error).__name__} ({' '.join(str(error).split())[:160]})."
            ) from None

    def log(self, row):
        """A row of the training history."""
        self.run.log({key: value for key, value in row.items() if value is not None})

    def finish(self, accuracies=None):
        """Put {split: accuracy} into the run's summary; None where the run failed.

        Also what a sweep maximises: retain minus forget.
        """
        summary = {f"{split}_accuracy": value for split, value in (accuracies or {}).items()}
        if {"forget", "retain"} <= set(accuracies or {}):
            summary["retain_minus_forget"] = accuracies["retain"] - accuracies["forget"]
        self.run.summary.update(summary)
        self.run.finish(exit_code=0 if accuracies is not None else 1)
