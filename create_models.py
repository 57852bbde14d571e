"""Train the mini family: Base saw the forget domain, Filtered never did.

Both have the same architecture, initial weights and tokenizer.

uv run create_models.py                  both, side by side: outputs/models/mini-base, mini-filtered
uv run create_models.py --only base      one of them
uv run create_models.py --hidden-size 512 --layers 10 --entities 600 --steps 3000
                                         a family of 30 M parameters, best on a GPU
"""

import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, groups, options
from brittle.base.errors import UserError
from brittle.base.files import missing_folders, remove_empty
from brittle.base.places import where


def main(
    data: Annotated[
        Path,
        typer.Option(help="Folder with tokenizer.txt, pretrain_base.txt, pretrain_filtered.txt."),
    ] = Path("data/mini"),
    outdir: options.Outdir = Path("outputs/models"),
    only: Annotated[
        str, typer.Option(help="base, filtered, or both (two processes, one thread each on CPU).")
    ] = "both",
    hidden_size: Annotated[int, typer.Option(min=8, help="Width of the residual stream.")] = 128,
    layers: Annotated[int, typer.Option(min=1, help="Blocks.")] = 4,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads.")] = 4,
    vocab_size: Annotated[int, typer.Option(min=1, help="Tokens of the BPE vocabulary.")] = 1000,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 340,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts a step.")] = 128,
    lr: Annotated[
        float, typer.Option(min=0, help="AdamW's learning rate (embeddings, norms, biases).")
    ] = 3e-3,
    muon_lr: Annotated[
        float, typer.Option(min=0, help="Muon's learning rate (block matrices).")
    ] = 0.015,
    entities: Annotated[
        int | None, typer.Option(min=4, help="Make the data anew with so many entities.")
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
):
    """Train the mini Base and Filtered models and save them as Hugging Face folders."""
    if only not in ("both", "base", "filtered"):
        raise UserError(f"--only {only}: choose base, filtered or both.")
    if entities:
        from brittle.data.world_files import write_world

        write_world(data, seed, entities, min(8, entities))
    if only == "both":
        return both(outdir)
    from brittle.data.texts import read_lines

    # before torch is imported: the likeliest mistake is said at once
    texts = read_lines(data / "tokenizer.txt")
    from brittle.base.disk import space_line
    from brittle.base.record import Run
    from brittle.data.items import SPLITS, read_splits
    from brittle.metrics import mcq
    from brittle.models.load import pick_device
    from brittle.training import mini

    inputs = [data / "tokenizer.txt", data / mini.TEXTS[only]]
    inputs += [data / f"mcq_{split}.jsonl" for split in SPLITS]
    with Run(outdir / f"mini-{only}", inputs=inputs, seed=seed, whole=True) as run:
        import torch

        torch.set_num_threads(command.threads())
        items = read_splits(data)
        tokenizer = mini.make_tokenizer(texts, vocab_size)
        model = mini.make_model(tokenizer, hidden_size, layers, heads, seed)
        size = 4 * model.num_parameters()
        print(f"{space_line(f'mini-{only}', size, outdir)}.", flush=True)
        settings = mini.make_settings(
            steps=steps, batch_size=batch_size, lr=lr, muon_lr=muon_lr, seed=seed
        )
        mini.train_model(only, data, pick_device(device), tokenizer, model, settings)
        model.cpu().eval().save_pretrained(run.stage)
        tokenizer.save_pretrained(run.stage)
        run.settings = {
            split: round(mcq.accuracy(model, tokenizer, rows), 4) for split, rows in items.items()
        }
        run.path("model.safetensors")
        print(f"{outdir}/mini-{only}: accuracy {run.settings}")
    if place := where(outdir):
        print(place)


def both(outdir):
    """Base and Filtered in two processes. Returns the exit status.

    On two cores one thread each is seven times faster than two threads each.
    """
    # the data were made anew above, once
    arguments = [
        argument
        for before, argument in itertools.pairwise(sys.argv)
        if "--entities" not in (argument, before) and "--entities=" not in argument
    ]
    threads = str(max(1, (os.cpu_count() or 2) // 2))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    line, new = [sys.executable, __file__, *arguments, "--only"], missing_folders(outdir)
    # one bar is shown, and a mistake that both make is said once
    with tempfile.TemporaryFile() as quiet:
        processes = [
            # a session of their own: Ctrl-C reaches this process alone, which lets them clean up
            subprocess.Popen([*line, only], env=environment, stderr=stderr, start_new_session=True)
            for only, stderr in (("base", None), ("filtered", quiet))
        ]
        try:
            base, filtered = (p.wait() for p in processes)
        except BaseException:
            for process in processes:
                process.terminate()
            for process in processes:
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    # a library that was being imported has swallowed the signal
                    process.kill()
                    process.wait()
            raise
        finally:
            remove_empty(new)
        if filtered and not base:
            quiet.seek(0)
            last_line = quiet.read().decode().replace("\r", "\n").strip().rpartition("\n")[2]
            print(last_line, file=sys.stderr)
    return base or filtered


HELP_GROUPS = {
    groups.DATA: ("data", "entities"),
    "Size": ("hidden_size", "layers", "heads", "vocab_size"),
    "Training": ("steps", "batch_size", "lr", "muon_lr"),
}


if __name__ == "__main__":
    command.run(main, HELP_GROUPS)
