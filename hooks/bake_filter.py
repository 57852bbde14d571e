"""How can a filter be saved in the model, exactly?

    uv run hooks/bake_filter.py --model outputs/models/mini-base

Writes a model folder whose logits are those of the hooked model. --mode post-norm folds a post-norm
filter into the unembedding, so that stock classes load it. --mode class saves stock weights beside
the filter, in a class that transformers knows only after `import brittle` has registered it, and
that it refuses to load without. auto takes post-norm where it is exact, else class. Wrapping the
norm in nn.Sequential is not offered: it reloads wrong. hooks/verify_filter.py checks the result.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError


def card(model, chosen, mode, baked):
    """The README.md of the baked model."""
    name, about = Path(model).name, chosen.about
    rows = {
        "site": chosen.site,
        "components": chosen.k,
        "strength": f"{chosen.strength:.6g}",
        "gated": "no" if chosen.gate is None else "yes",
        "basis": about.get("basis"),
        "status": about.get("status"),
        "mode": mode,
    }
    return "\n".join(
        [
            "---",
            f"base_model: {name}",
            "library_name: transformers",
            "tags: [unlearning, filter]",
            "---",
            f"# {name} with an activation filter",
            "",
            f"Equal to the hooked model, logit for logit. {about.get('reason', '')}",
            "",
            "A filter suppresses output. That knowledge is gone is not implied: attack the model "
            "before relying on it.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in rows.items()),
            "",
            f"Changed tensors: {', '.join(baked.changed)}; {baked.copied} copied to the bit.",
            "",
        ]
    )


def main(
    model: options.Model,
    filter_dir: options.FilterFolder = None,
    out: Annotated[
        Path | None, typer.Option(help="The baked model (outputs/<model>__filter/unlearned_model).")
    ] = None,
    mode: Annotated[str, typer.Option(help="auto, post-norm or class.")] = "auto",
    strength: Annotated[
        float | None, typer.Option(help="Bake at another strength than the filter's.")
    ] = None,
    allow_reflection: Annotated[
        bool, typer.Option("--allow-reflection", help="Strengths up to 2.")
    ] = False,
):
    """Save a filter in its model."""
    from brittle.base.disk import space_line, weights_size
    from brittle.base.record import Run
    from brittle.filters.bake import bake, pick_mode
    from brittle.filters.folder import baked_of, folder_of, load_tuned
    from brittle.models.filter import FILES
    from brittle.models.find import model_folder, read_config

    folder = model_folder(model)
    filter_dir = filter_dir or folder_of("outputs", model)
    out = out or baked_of("outputs", model)
    chosen = load_tuned(filter_dir, strength, allow_reflection=allow_reflection)
    chosen.check(read_config(folder))
    mode = pick_mode(chosen, mode)
    if out.resolve() in (folder.resolve(), filter_dir.resolve()):
        raise UserError(f"--out {out} is the model or the filter itself. Choose another folder.")
    settings = {
        "mode": mode,
        "site": chosen.site,
        "k": chosen.k,
        "strength": chosen.strength,
        "gated": chosen.gate is not None,
        "status": chosen.about.get("status"),
    }
    files = [filter_dir / name for name in FILES]
    print(f"{space_line('the baked model', weights_size(folder), out)}.", flush=True)
    with Run(out, files, {"model": folder}, settings=settings, whole=True) as run:
        baked = bake(folder, chosen, mode, run.stage)
        run.path("README.md").write_text(card(model, chosen, mode, baked), encoding="utf-8")
        run.csv("bake.csv", ["tensor"], ({"tensor": name} for name in baked.changed))
    print(f"{out}: {mode}, {len(baked.changed)} tensors changed or added, {baked.copied} copied.")
    print(
        f"Next: uv run hooks/verify_filter.py --model {model} --filter {filter_dir} --baked {out}"
    )


if __name__ == "__main__":
    command.run(main)
